"""HTTP: sockets, admission, routes, protocols."""

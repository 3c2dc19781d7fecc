"""HTTP: sockets, admission control, routes, protocols."""

"""Live progress, the console, and figures."""

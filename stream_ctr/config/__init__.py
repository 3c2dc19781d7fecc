"""The tables of the configuration file, their checks, and loading. Imports only the package's errors."""

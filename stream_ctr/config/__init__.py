"""Every table of the configuration file, its checks, and loading; imports errors only."""

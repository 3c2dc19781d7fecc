"""The compiled scan of usual JSON records."""

"""The compiled scan of JSON records in plain form."""

"""Oracles, brokers, fault injectors and made-up data that tests share."""

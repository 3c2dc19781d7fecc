"""Writing a sequence of impressions and clicks to a log: order, pace, resuming."""

"""The joining process: joins impressions and clicks into a topic of labelled records."""

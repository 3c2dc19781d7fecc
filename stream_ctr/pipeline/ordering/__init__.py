"""The order of entries across partitions and topics, and its journal."""

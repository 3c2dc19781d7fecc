"""State, frozen views, the array file, and durable file operations."""

"""State, frozen states, the array file, and durable file operations."""

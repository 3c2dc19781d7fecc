"""The learner that replays a CUDA graph."""

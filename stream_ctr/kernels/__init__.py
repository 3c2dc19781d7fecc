"""Numba decorators, the kernel cache, denormals, and XXH64."""

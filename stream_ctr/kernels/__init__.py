"""Numba decorators, the kernel cache, denormal handling, and XXH64."""

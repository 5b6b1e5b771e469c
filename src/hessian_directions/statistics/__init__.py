"""Statistics that SciPy does not have."""

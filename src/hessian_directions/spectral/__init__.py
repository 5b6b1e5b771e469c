"""Eigenvalues of symmetric operators: Lanczos processes, extreme pairs, spectral densities."""

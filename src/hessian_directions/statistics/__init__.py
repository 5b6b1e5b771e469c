"""Statistics that SciPy does not have, by NumPy and SciPy: what draws imports no torch."""

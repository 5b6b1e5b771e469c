"""Training, and weights in files."""

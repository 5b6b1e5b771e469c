"""The data that networks are trained and studied on."""

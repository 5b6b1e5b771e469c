"""The networks that are studied."""

"""What a reproducible run needs: configuration, artifacts, comparison, promotion."""

"""Examples: models that run as they are."""

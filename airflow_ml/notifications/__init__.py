"""Alerts of a model in production."""

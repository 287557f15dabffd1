"""Drift and performance of a window against the reference that its release was tested on (Evidently)."""

"""The package's version, importable without anything else (code versions and provider metadata read it)."""

__version__ = "0.1.0"

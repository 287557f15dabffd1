"""Measurements: `make bench`, or ``python -m tests.bench [NAME ...]``. Nothing is asserted; ratios are of one run."""

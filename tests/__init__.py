"""Packages, so that what fixtures of scope "package" hold ends with the last test of their folder."""

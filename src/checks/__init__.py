"""Validation of an installation: named checks, each of which can fail."""

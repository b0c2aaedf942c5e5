"""What may be concluded from a run."""

"""Is this installation fit to run, and do its own guards hold here? Named checks, each of which can fail."""

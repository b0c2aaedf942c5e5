"""Arithmetic over arrays of results: intervals, performance figures, trials. It knows nothing of agents."""

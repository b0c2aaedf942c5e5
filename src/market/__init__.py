"""What happened: contracts, bars, sessions, causal features."""

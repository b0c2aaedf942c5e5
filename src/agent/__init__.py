"""What learns from the market and the advice."""

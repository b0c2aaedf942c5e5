"""What the advisor thinks of a market situation."""

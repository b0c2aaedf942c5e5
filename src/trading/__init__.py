"""What an account does with the market: kernel, environments, rules. Imports no torch."""

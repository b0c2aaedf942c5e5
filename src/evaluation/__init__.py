"""What the arms do on sessions they never saw, and whether anything leaks the future."""

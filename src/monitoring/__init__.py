"""What a person sees of a run and its machine: hardware samples, the display, the log."""

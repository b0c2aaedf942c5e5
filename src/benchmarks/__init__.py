"""Before and after: what each shortcut of the toolkit is worth, measured in two modes and compared row by row."""

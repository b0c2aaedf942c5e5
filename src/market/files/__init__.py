"""Read vendors' bar files: recognise the dialect, infer the clock, choose the market, join contracts."""

"""Files of bars as vendors write them: recognise the dialect, measure the clock, choose the market, join contracts."""

"""Bits of a bar's flags: what an account standing at the close of bar t may know and do."""

ENTRY_ALLOWED = 1
"""An entry decided at the close of t may be taken: the window is whole, the next slot opens before the forced exit."""
BREAK_AFTER = 2
"""Bar t + 1 does not continue bar t within the session: a hole, a roll, another session, or the end of the file."""
FLAT_BAR = 4
"""The forced exit fills at this bar's open."""
DECISION = 8
"""An account may stand here: the next scheduled slot lies within the trading hours of a usable session."""
END_AFTER = 16
"""Stepping from t ends the session."""

"""Bits of a bar's flags: what an account may know and do at the close of bar t."""

ENTRY_ALLOWED = 1
"""An entry may be decided at the close of t: the window is complete and the next slot opens before the forced exit."""
BREAK_AFTER = 2
"""Bar t + 1 does not continue bar t within the session: a hole, a roll, another session, or the end of the file."""
FLAT_BAR = 4
"""The forced exit fills at this bar's open."""
DECISION = 8
"""A decision may be made here: the next scheduled slot lies within the trading hours of a usable session."""
END_AFTER = 16
"""Stepping from t ends the session."""

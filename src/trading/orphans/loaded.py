"""Imported last by the fork server: from here on it watches its pipe, and the thread that started it may end."""

from __future__ import annotations

import gc

from src.trading.orphans import is_fork_server, kill_with_parent

if is_fork_server():
    # A worker's collections would write to every object that the server made, and so copy its memory.
    gc.collect()
    gc.freeze()
    kill_with_parent(0)

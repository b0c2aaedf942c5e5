"""Imported last by the fork server: from here on it watches its pipe, and the thread that started it may end."""

from __future__ import annotations

from src.trading.orphans import is_fork_server, kill_with_parent

if is_fork_server():
    kill_with_parent(0)

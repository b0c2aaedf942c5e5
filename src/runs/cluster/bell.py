"""The bell of a run: an actor next to it, whose end tells its tasks to stop. It imports nothing, so it starts soon."""

from __future__ import annotations

import asyncio


class Bell:
    """A task waits for its end, which comes when the run ends it or dies."""

    async def wait(self) -> None:
        """Never returns."""
        await asyncio.Event().wait()

"""Wakes what waits in this process for the ledger to change. Holds nothing that the database does not."""

from __future__ import annotations

import asyncio


class Hub:
    """Wakes the calls of this process that wait for something in the ledger to change."""

    def __init__(self) -> None:
        self.version = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def stir(self) -> None:
        """Something has changed; call it from the event loop."""
        self.version += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting = set()

    async def wait(self, seen: int, timeout_s: float) -> None:
        """Until something changed after version `seen`, or the time is up."""
        if self.version != seen or timeout_s <= 0:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        await asyncio.wait({future}, timeout=timeout_s)
        self._waiting.discard(future)

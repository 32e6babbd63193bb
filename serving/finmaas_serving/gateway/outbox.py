"""What a turn of the event loop writes, handed to the sockets at its end, all at once; and when the loop may sleep.

Each write to a socket whose peer sleeps wakes that peer, which costs the writer more than the write itself. Written one
after the other, all but the first find their peers awake: with many requests under way a request costs a third less.
Where few requests are under way there is nothing to gather, and each write goes out at once.

Then this process is itself a peer that sleeps: a core that idles takes tens of microseconds to come back, and comes
back with nothing in its caches. So for a moment after each write it looks for what comes next instead of sleeping,
which halves what it adds to an answer. Under load there is always something to do, and nothing of this happens.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio

    from finmaas_serving.gateway.spool import Spool

FEW: Final = 2  # requests under way, up to which nothing waits
MOST: Final = 32  # writes that wait; with more the first ones would wait too long for the sake of the last
LONG: Final = 64 * 1024  # bytes that are not worth a copy


class Load(Protocol):
    """Who knows how much is going on: `running` requests."""

    running: int


class Outbox:
    """The writes of one turn, in order. Whoever closes a transport in an orderly way flushes first.

    Usage records of what is written are in the spool's file before: when that cannot be, the connections are cut.
    """

    __slots__ = ("_awake", "_awake_s", "_awake_until", "_held", "_load", "_loop", "_scheduled", "_spool")

    def __init__(self, loop: asyncio.AbstractEventLoop, load: Load, spool: Spool, awake_s: float = 0.0) -> None:
        """`awake_s`: for how long the loop stays awake after a write; 0 lets it sleep at once."""
        self._loop = loop
        self._load = load
        self._spool = spool
        self._held: dict[asyncio.Transport, bytes] = {}
        self._scheduled = False
        self._awake_s = awake_s
        self._awake_until = 0.0
        self._awake = False

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        """Writes data at the end of this turn, behind what the transport was given before."""
        held = self._held
        if not held and self._load.running <= FEW:
            if self._is_recorded():
                transport.write(data)
                self._stay_awake()
            else:
                transport.abort()
            return
        before = held.get(transport)
        if before is not None:
            held[transport] = before + data
            if len(before) > LONG:
                self.flush()
            return
        held[transport] = data
        if len(held) >= MOST:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._end_turn)

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Writes data at once, behind what the transport was given before: pieces of streams wait for nothing."""
        if transport in self._held:
            data = self._held.pop(transport) + data
        if self._is_recorded():
            transport.write(data)
            self._stay_awake()
        else:
            transport.abort()

    def flush(self) -> None:
        """Writes what is held now."""
        held, self._held = self._held, {}
        if not held:
            return
        is_recorded = self._spool.write_out()
        for transport, data in held.items():
            if not is_recorded:
                transport.abort()
            elif not transport.is_closing():
                transport.write(data)
        if not is_recorded:
            self._spool.give_up()

    def _is_recorded(self) -> bool:
        """Whether the records of what may be written now are in the file; if not, all that waits is cut."""
        if self._spool.write_out():
            return True
        self.flush()
        self._spool.give_up()
        return False

    def _end_turn(self) -> None:
        self._scheduled = False
        self.flush()

    def _stay_awake(self) -> None:
        """A loop that has something to call does not sleep."""
        if self._awake_s <= 0:
            return
        self._awake_until = monotonic() + self._awake_s
        if not self._awake:
            self._awake = True
            self._loop.call_soon(self._look_again)

    def _look_again(self) -> None:
        if monotonic() < self._awake_until:
            self._loop.call_soon(self._look_again)
        else:
            self._awake = False

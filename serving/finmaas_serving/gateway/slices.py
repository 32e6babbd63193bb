"""What a gateway holds of one window of one allowance, and the calls that wait for more of it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from finmaas_core.errors import FinmaasError
from finmaas_core.windows import MINUTE_S, WindowKind
from finmaas_serving.gateway.snapshot import Allowance

if TYPE_CHECKING:
    from finmaas_serving.gateway.holds import Hold

SKEW_S: Final = 0.1  # within which the gateways' clocks agree
_SHORTEST_MINUTE_S: Final = MINUTE_S - 1


class Slice:
    """What this gateway holds of one window. `idle` is neither reserved nor spent; `granted`, `returned` only grow."""

    __slots__ = (
        "allowance", "asking", "away", "closed", "dirty", "end", "granted", "held", "idle", "kind", "low", "number",
        "outstanding", "pool", "reserved", "returned", "rolled_at", "round", "settled", "spent_before", "start",
        "tight", "waiters",
    )  # fmt: skip

    def __init__(self, allowance: Allowance, kind: WindowKind, start: int, end: float, rolled_at: float) -> None:
        self.allowance = allowance
        self.kind = kind
        self.start = start
        self.end = end
        self.rolled_at = rolled_at  # on the monotonic clock
        self.number = 0  # the ledger's name of this slice; 0 before the first grant
        self.granted = self.returned = self.held = self.idle = self.reserved = 0
        self.spent_before = 0  # of a minute's share, in the minute before
        self.low = 0  # below this it is filled up in the background
        self.tight = False
        self.asking = False
        self.dirty = False  # the ledger has to be told
        self.round = 0  # the recall that was answered last
        self.closed: int | None = None  # all that is left beside what is held, for certain, while nothing changes
        self.waiters: deque[Waiter] = deque()
        self.settled = self.outstanding = self.pool = 0  # as the ledger said last
        self.away: tuple[str, ...] = ()

    @property
    def wanted(self) -> int:
        """What those that wait need beyond what is held."""
        return max(0, sum(waiter.amount for waiter in self.waiters) - self.idle)


class Waiter:
    __slots__ = ("amount", "hold", "place")

    def __init__(self, hold: Hold, place: int, amount: int) -> None:
        self.hold, self.place, self.amount = hold, place, amount


def serve_waiters(slice_: Slice) -> None:
    """Gives those that wait, in their order, what the slice has for them."""
    for waiter in tuple(slice_.waiters):
        if waiter.amount <= slice_.idle and waiter in slice_.waiters:
            slice_.waiters.remove(waiter)
            waiter.hold.granted(slice_, waiter)


def fail_waiters(slice_: Slice, error: FinmaasError, count: int | None = None) -> None:
    """Tells those that wait (the first `count`) that there is nothing for them."""
    for waiter in list(slice_.waiters)[:count]:
        if waiter in slice_.waiters:
            slice_.waiters.remove(waiter)
            waiter.hold.failed(error, slice_.allowance)


def returnable(slice_: Slice, now: float) -> int:
    """What can go back: the idle part. A minute's share that was spent a moment ago in the minute before stays, for
    another gateway's clock may still be in that minute."""
    idle = slice_.idle
    if slice_.kind is WindowKind.MINUTE and now < slice_.start + SKEW_S:
        idle = min(idle, slice_.held - slice_.spent_before)
    return max(0, idle)


def renew(slice_: Slice, start: int, now: float, mono: float) -> None:
    """A new minute for a standing share, at most one in a minute of real time: a clock that jumps gains nothing."""
    if start != slice_.start and mono - slice_.rolled_at >= _SHORTEST_MINUTE_S:
        slice_.spent_before = slice_.held - slice_.idle if start == slice_.start + MINUTE_S else 0
        slice_.idle, slice_.reserved = slice_.held, 0
        slice_.start, slice_.rolled_at = start, max(mono - (now - start), slice_.rolled_at + _SHORTEST_MINUTE_S)
        slice_.closed, slice_.tight = None, False
    slice_.end = now + max(0.001, slice_.rolled_at + MINUTE_S - mono)

"""Turns at the replicas of one endpoint: who goes at once, who waits, who is refused. One lane an application.

While fewer requests run than the replicas take, a request passes by one comparison. Knows nothing of HTTP or sockets.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Protocol

import msgspec

from finmaas_core.errors import FinmaasError, LimitReached, Unavailable
from finmaas_serving.gateway.fair import Entry, FairQueue

SMOOTHING = 0.1  # of the mean time a request takes
SHARE, REFUSE = "share", "refuse"


class Reservation(msgspec.Struct, frozen=True):
    """Requests at once that are kept free for a tenant; what it has beyond them shares with all, or is refused."""

    tenant_id: str
    slots: int
    overflow: str = SHARE


class Terms(msgspec.Struct, frozen=True):
    """How an endpoint's replicas are shared. `concurrency` is that of one replica, in one gateway; 0: no bound."""

    concurrency: int = 0
    queue: int = 512
    wait_s: float = 30.0
    reserved: tuple[Reservation, ...] = ()


class Waiter(Protocol):
    """A request in a lane."""

    def turn_came(self) -> None: ...

    def turned_away(self, error: FinmaasError) -> None: ...

    def cost(self) -> float:
        """What it asks of the replicas, in a unit that is the same for all."""


class Verdict(Enum):
    """What becomes of a request that comes to a lane."""

    GO = "go"
    WAIT = "wait"
    REFUSE = "refuse"


def decide_turn(
    tenant: str, running: Mapping[str, int], total: int, capacity: int, reserved: Mapping[str, Reservation]
) -> Verdict:
    """Whether a tenant's request may go now.

    A tenant uses its reserved places first. The others' unused ones stay free for them; what is left is shared.
    """
    own = reserved.get(tenant)
    if own is not None and running.get(tenant, 0) < own.slots:
        return Verdict.GO if total < capacity else Verdict.WAIT
    if own is not None and own.overflow == REFUSE:
        return Verdict.REFUSE
    kept = sum(max(0, r.slots - running.get(name, 0)) for name, r in reserved.items() if name != tenant)
    return Verdict.GO if total < capacity - kept else Verdict.WAIT


def estimate_wait(ahead: int, mean_s: float, capacity: int) -> float:
    """Seconds until one that `ahead` others wait before has its turn."""
    return (ahead + 1) * mean_s / max(1, capacity)


class Lane:
    """The turns of one application in this process."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, replicas: Callable[[], int]) -> None:
        self.name = name
        self.running = 0
        self.shed = 0  # requests that were turned away
        self._loop = loop
        self._replicas = replicas
        self._by_tenant: dict[str, int] = {}
        self._terms = Terms()
        self._reserved: dict[str, Reservation] = {}
        self._queue: FairQueue[Waiter] = FairQueue(0)
        self._mean_s = 0.0
        self._called = False

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def set_terms(self, terms: Terms, weights: dict[str, float]) -> None:
        """Takes the terms of the newest snapshot; those who wait keep their places."""
        if terms is not self._terms:
            self._terms = terms
            self._reserved = {one.tenant_id: one for one in terms.reserved}
        self._queue.room, self._queue.weights = terms.queue, weights

    def enter(self, waiter: Waiter, tenant: str, *, batch: bool, until: float) -> Entry[Waiter] | None:
        """None: it may go, and must `leave` later. An entry: it waits for `turn_came`, until the moment `until`.

        Raises LimitReached for more than a reservation allows, Unavailable when the queue has no room or the turn
        would come too late; both say when to try again.
        """
        capacity = self._terms.concurrency * self._replicas()
        if not capacity or (self.running < capacity and not self._reserved and not len(self._queue)):
            self._begin(tenant)
            return None
        verdict = decide_turn(tenant, self._by_tenant, self.running, capacity, self._reserved)
        if verdict is Verdict.REFUSE:
            raise self._beyond_reservation(tenant)
        if verdict is Verdict.GO and (not len(self._queue) or self._has_own_room(tenant)):
            self._begin(tenant)
            return None
        entry = Entry(waiter, tenant, batch, waiter.cost(), min(until, self._loop.time() + self._terms.wait_s))
        self._wait(entry, capacity)
        if verdict is Verdict.GO:
            self._call_soon()
        return entry

    def enter_aside(self, tenant: str) -> None:
        """For work that never waits: it goes where a place is free for anybody. Unavailable where none is."""
        capacity = self._terms.concurrency * self._replicas()
        kept = sum(one.slots for one in self._terms.reserved)
        if capacity and (self.running >= capacity - kept or len(self._queue)):
            raise self._too_busy("only free places are for it", 0)
        self._begin(tenant)

    def leave(self, tenant: str, took_s: float) -> None:
        """One that had its turn has ended; the next ones are called soon."""
        self.running -= 1
        left = self._by_tenant[tenant] - 1
        if left:
            self._by_tenant[tenant] = left
        else:
            del self._by_tenant[tenant]
        self._mean_s += (took_s - self._mean_s) * SMOOTHING if self._mean_s else took_s
        if len(self._queue):
            self._call_soon()

    def withdraw(self, entry: Entry[Waiter]) -> None:
        """One that waits goes away by itself."""
        self._queue.remove(entry)

    def call_next(self) -> None:
        """Gives the free places to those whose turn it is."""
        self._called = False
        capacity = self._terms.concurrency * self._replicas()
        while len(self._queue):
            if capacity and self.running >= capacity:
                return
            entry = self._queue.take(lambda tenant: not capacity or self._may_go(tenant, capacity))
            if entry is None:
                return
            self._begin(entry.tenant)
            entry.item.turn_came()

    def sweep(self, now: float) -> None:
        """Turns away those that have waited too long, and calls others where replicas were added."""
        for entry in [entry for entry in self._queue if entry.until <= now]:
            self._queue.remove(entry)
            self._turn_away(entry, "it waited its time and no place became free")
        self.call_next()

    def _may_go(self, tenant: str, capacity: int) -> bool:
        verdict = decide_turn(tenant, self._by_tenant, self.running, capacity, self._reserved)
        return verdict is Verdict.GO

    def _has_own_room(self, tenant: str) -> bool:
        own = self._reserved.get(tenant)
        return own is not None and self._by_tenant.get(tenant, 0) < own.slots and not self._queue.waiting_of(tenant)

    def _call_soon(self) -> None:
        if not self._called:
            self._called = True
            self._loop.call_soon(self.call_next)

    def _wait(self, entry: Entry[Waiter], capacity: int) -> None:
        wait_s = estimate_wait(self._queue.ahead_of(entry.tenant, batch=entry.batch), self._mean_s, capacity)
        if self._loop.time() + wait_s > entry.until:
            self.shed += 1
            raise self._too_busy("its turn would come too late", wait_s)
        out = self._queue.add(entry)
        if out is entry:
            self.shed += 1
            raise self._too_busy("as many wait as may wait", wait_s)
        if out is not None:
            self._turn_away(out, "as many wait as may wait, and others who use less came after it")

    def _turn_away(self, entry: Entry[Waiter], why: str) -> None:
        self.shed += 1
        entry.item.turned_away(self._too_busy(why, self._mean_s))

    def _begin(self, tenant: str) -> None:
        self.running += 1
        self._by_tenant[tenant] = self._by_tenant.get(tenant, 0) + 1

    def _too_busy(self, why: str, wait_s: float) -> Unavailable:
        return Unavailable(
            f"the endpoint `{self.name}` is busy, and the request was not sent: {why}; try again later",
            openai_code="endpoint_busy",
            retry_after_s=max(1, math.ceil(wait_s)),
        )

    def _beyond_reservation(self, tenant: str) -> LimitReached:
        slots = self._reserved[tenant].slots
        return LimitReached(
            f"your tenant has {slots} requests at once reserved at `{self.name}`, all of them in use, and none beyond; "
            "try again when one has ended, or ask for a larger reservation",
            openai_code="reservation_used_up",
            retry_after_s=max(1, math.ceil(self._mean_s)),
        )


class LaneBook:
    """The lanes of this process, by application."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}

    def find(self, app: str) -> Lane | None:
        return self._lanes.get(app)

    def open(self, app: str, name: str, loop: asyncio.AbstractEventLoop, replicas: Callable[[], int]) -> Lane:
        """The lane of an application; made when it is needed first."""
        lane = self._lanes.get(app)
        if lane is None:
            lane = self._lanes[app] = Lane(name, loop, replicas)
        return lane

    def sweep(self, now: float, live: Callable[[str], bool]) -> None:
        """Looks after those that wait; forgets lanes of applications that are gone."""
        for app, lane in list(self._lanes.items()):
            lane.sweep(now)
            if not lane.running and not lane.waiting and not live(app):
                del self._lanes[app]

    def waiting(self) -> int:
        return sum(lane.waiting for lane in self._lanes.values())

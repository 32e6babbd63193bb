"""Who is next when more wait than can be served: weighted fair queueing over tenants, interactive before batch.

Pure: sees no clock, socket or setting. Start-time fair queueing (Goyal, Vin, Cheng 1996): a request starts when its
tenant's last one would have ended at the tenant's weight, and the earliest start goes first. While several tenants
wait, each gets its weight's share of the cost served, and none waits for more than the others' one request each.
Batch work goes when no interactive request waits, and every `BATCH_TURN`-th time in any case, so that it never starves.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

BATCH_TURN = 10
T = TypeVar("T")


@dataclass(slots=True)
class Entry(Generic[T]):
    """One that waits. `cost` is in any unit, the same for all; `until` the moment at which it is given up."""

    item: T
    tenant: str
    batch: bool
    cost: float
    until: float
    start: float = 0.0
    waits: bool = True


@dataclass(slots=True)
class _Flow(Generic[T]):
    """One tenant's part of a class: its entries in order, and when the last of them would end."""

    entries: deque[Entry[T]] = field(default_factory=deque)
    finish: float = 0.0


class _Class(Generic[T]):
    """The entries of one priority class; the heap holds the first one of each tenant. O(log tenants) each."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Entry[T]]] = []
        self._flows: dict[str, _Flow[T]] = {}
        self._now = 0.0  # virtual time: the start of the entry taken last
        self._number = 0
        self.count = 0

    def add(self, entry: Entry[T], weight: float) -> None:
        flow = self._flows.get(entry.tenant)
        if flow is None:
            flow = self._flows[entry.tenant] = _Flow()
        entry.start = max(self._now, flow.finish)
        flow.finish = entry.start + entry.cost / weight
        flow.entries.append(entry)
        self.count += 1
        if flow.entries[0] is entry:
            self._push(entry)

    def take(self, may_go: Callable[[str], bool]) -> Entry[T] | None:
        """The earliest start among tenants that may go; None when there is none."""
        passed: list[tuple[float, int, Entry[T]]] = []
        found = None
        while self._heap and found is None:
            place = heapq.heappop(self._heap)
            if not place[2].waits:
                continue
            if may_go(place[2].tenant):
                found = place[2]
            else:
                passed.append(place)
        for place in passed:
            heapq.heappush(self._heap, place)
        if found is not None:
            self._now = found.start
            self.forget(found)
        return found

    def forget(self, entry: Entry[T]) -> None:
        """Takes an entry out; what is left of it in the heap is passed over."""
        entry.waits = False
        self.count -= 1
        flow = self._flows[entry.tenant]
        if flow.entries[0] is entry:
            flow.entries.popleft()
            if flow.entries:
                self._push(flow.entries[0])
        elif flow.entries[-1] is entry:
            flow.entries.pop()
        else:
            flow.entries.remove(entry)
        if not self.count:  # nobody waits: what was is forgotten
            self._heap.clear()
            self._flows.clear()
            self._now = 0.0

    def give_back(self, entry: Entry[T], weight: float) -> None:
        """The tenant's next request may start as if this one had not come."""
        self._flows[entry.tenant].finish -= entry.cost / weight

    def longest(self, weight_of: Callable[[str], float]) -> str:
        """The tenant that waits with most for its weight; costs O(tenants)."""
        return max(self._flows, key=lambda tenant: len(self._flows[tenant].entries) / weight_of(tenant))

    def newest(self, tenant: str) -> Entry[T]:
        return self._flows[tenant].entries[-1]

    def waiting_of(self, tenant: str) -> int:
        flow = self._flows.get(tenant)
        return len(flow.entries) if flow is not None else 0

    @property
    def tenants(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[Entry[T]]:
        return (entry for flow in list(self._flows.values()) for entry in list(flow.entries))

    def _push(self, entry: Entry[T]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (entry.start, self._number, entry))


class FairQueue(Generic[T]):
    """A bounded queue over tenants with weights (1 for those that are not named)."""

    def __init__(self, room: int, weights: dict[str, float] | None = None) -> None:
        self.room = room
        self.weights = weights or {}
        self._interactive: _Class[T] = _Class()
        self._batch: _Class[T] = _Class()
        self._since_batch = 0

    def __len__(self) -> int:
        return self._interactive.count + self._batch.count

    def __iter__(self) -> Iterator[Entry[T]]:
        yield from self._interactive
        yield from self._batch

    def weight_of(self, tenant: str) -> float:
        return self.weights.get(tenant, 1.0)

    def add(self, entry: Entry[T]) -> Entry[T] | None:
        """Takes an entry in; returns the one that has to leave for it, which may be the same, when there is no room.

        Out goes the newest batch entry, else the newest of the tenant that waits with most for its weight: so one
        tenant's flood fills the queue with its own requests only.
        """
        if self.room <= 0:
            return entry
        self._class_of(entry).add(entry, self.weight_of(entry.tenant))
        if len(self) <= self.room:
            return None
        out = self._choose_leaver()
        self.remove(out)
        return out

    def take(self, may_go: Callable[[str], bool] = lambda tenant: True) -> Entry[T] | None:
        """The next one; None when nobody waits who may go."""
        first, second = self._interactive, self._batch
        if second.count and (not first.count or self._since_batch >= BATCH_TURN - 1):
            first, second = second, first
        entry = first.take(may_go) or second.take(may_go)
        if entry is not None:
            self._since_batch = 0 if entry.batch or not self._batch.count else self._since_batch + 1
        return entry

    def remove(self, entry: Entry[T]) -> None:
        """Takes out an entry that still waits; what it would have cost is not held against its tenant."""
        if entry.waits:
            chosen = self._class_of(entry)
            chosen.give_back(entry, self.weight_of(entry.tenant))
            chosen.forget(entry)

    def waiting_of(self, tenant: str) -> int:
        return self._interactive.waiting_of(tenant) + self._batch.waiting_of(tenant)

    def ahead_of(self, tenant: str, *, batch: bool) -> int:
        """About how many go before the next one that a tenant adds."""
        if batch:
            return len(self)
        interactive = self._interactive
        return min(interactive.count, interactive.waiting_of(tenant) * max(1, interactive.tenants))

    def _choose_leaver(self) -> Entry[T]:
        chosen = self._batch if self._batch.count else self._interactive
        return chosen.newest(chosen.longest(self.weight_of))

    def _class_of(self, entry: Entry[T]) -> _Class[T]:
        return self._batch if entry.batch else self._interactive

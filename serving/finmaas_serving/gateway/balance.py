"""Which replica takes a request: least load, prompts of one beginning together, none that fails. Pure.

Prompts that begin alike go to the replica whose prefix cache knows the beginning, as long as that one has no more to
do than its part of all and a little (consistent hashing with bounded loads, Mirrokni, Thorup, Zadimoghaddam 2018).
"""

from __future__ import annotations

import hashlib
import math
import zlib
from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

POINTS: Final = 64  # of each replica on the ring
SLACK: Final = 1.25  # a replica may have so many times the mean load before a prompt goes elsewhere
PREFIX_BYTES: Final = 512
_MESSAGES: Final = b'"messages"'
FAILURES: Final = 3  # in a row, before a replica is left alone
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 30.0


class Candidate(Protocol):
    """What the choice looks at."""

    in_flight: int
    failed_until: float
    probing: bool


class Named(Candidate, Protocol):
    """A candidate with a place on the ring."""

    name: str


C = TypeVar("C", bound=Candidate)
N = TypeVar("N", bound=Named)


class Breaker:
    """Leaves a replica alone after failures in a row, for longer each time; then one request tries it.

    closed ─ FAILURES in a row, or no connection ─► open ─ pause over ─► half open: one request goes
      ▲                                              ▲                       │
      └───────────────── an answer ──────────────────┴────── a failure ──────┘
    """

    __slots__ = ("failed_until", "failures", "pause_s", "probing")

    def __init__(self) -> None:
        self.failures = 0
        self.failed_until = 0.0
        self.pause_s = 0.0
        self.probing = False  # the one request of the half-open state is under way

    def note_failure(self, now: float, *, at_once: bool = False) -> None:
        """One more failure; `at_once` for one that tells all, as a refused connection."""
        self.failures += 1
        self.probing = False
        if at_once or self.failures >= FAILURES:
            self.pause_s = min(LONGEST_PAUSE_S, self.pause_s * 2) if self.pause_s else FIRST_PAUSE_S
            self.failed_until = now + self.pause_s

    def note_answer(self) -> None:
        """It works; all is forgotten."""
        self.failures = 0
        self.failed_until = self.pause_s = 0.0
        self.probing = False

    def note_sent(self) -> None:
        """A request goes to it; the first one after a pause is the one that tries it."""
        self.probing = self.failed_until > 0.0


class Ring(Generic[N]):
    """Replicas on a circle of hashes; each beginning of a prompt has its replica, and the same ones after it."""

    def __init__(self, replicas: Sequence[N]) -> None:
        places = [(one, f"{one.name}#{i}".encode()) for one in replicas for i in range(POINTS)]
        points = sorted((_place(text), text, one.name) for one, text in places)
        by_name = {one.name: one for one in replicas}
        self._hashes = [point for point, _, _ in points]
        self._owners = [by_name[name] for _, _, name in points]

    def first(self, prefix: int, bound: float, skip: Collection[N], now: float) -> N | None:
        """The first replica after the prefix's place that is well and has less than `bound` in flight."""
        owners, count = self._owners, len(self._owners)
        at = bisect_left(self._hashes, prefix)
        for i in range(count):
            owner = owners[at + i - count]
            if owner.in_flight < bound and not is_left_alone(owner, now) and owner not in skip:
                return owner
        return None


def _place(text: bytes) -> int:
    """Evenly spread over the 32 bits of a prefix; CRC32 of texts so alike would lie in heaps."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest())


def prefix_of(tenant: str, text: bytes | memoryview) -> int:
    """The hash of a prompt's beginning, apart for each tenant, as their caches are."""
    return zlib.crc32(text[:PREFIX_BYTES], zlib.crc32(tenant.encode()))


def opening_of(tenant: str, body: bytes) -> int | None:
    """The hash of where the messages of a body begin: what alike conversations share, and others do not."""
    at = body.find(b"[", body.find(_MESSAGES) + 1)
    return None if at < 0 else prefix_of(tenant, body[at : at + PREFIX_BYTES])


def choose_replica(
    candidates: Sequence[C],
    tried: Collection[C],
    now: float,
    turn: int,
    ring: Ring[Any] | None = None,
    prefix: int | None = None,
) -> C | None:
    """The replica for a request; None when there is no candidate at all.

    With a prefix the ring decides, within the bound; else, and where the ring finds none, the least in flight,
    neighbours in turn. One that failed lately or was tried comes last, but is tried rather than nobody: a request that
    makes engines fail must not close the endpoint to others. `turn` is any running number; it spreads equal loads.
    """
    count = len(candidates)
    if count == 1:
        return candidates[0]
    if ring is not None and prefix is not None:
        bound = math.ceil(SLACK * (sum([one.in_flight for one in candidates]) + 1) / count)
        found: C | None = ring.first(prefix, bound, tried, now)
        if found is not None:
            return found
    best: C | None = None
    best_rank = (True, True, 0)
    for i in range(count):
        candidate = candidates[(turn + i) % count]
        rank = (candidate in tried, is_left_alone(candidate, now), candidate.in_flight)
        if best is None or rank < best_rank:
            best, best_rank = candidate, rank
    return best


def is_left_alone(candidate: Candidate, now: float) -> bool:
    """Whether a replica is not to be asked: it failed lately, or the one request that tries it is under way."""
    return candidate.failed_until > now or candidate.probing

"""When a canary is given up: its error rate or its latency breaks a stated bound. Pure.

Gateways ask this of what they saw themselves, and stop sending at once, so a bad version is left even while the
control plane is away. The control plane asks the same of the usage records of all gateways, and makes it final.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import msgspec

KEPT = 1000  # outcomes that are looked back on


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a canary must keep to. The latency is that to the first token, or to a whole answer; None: any."""

    max_error_rate: float = 0.05
    max_latency_ms: float | None = None  # of the slowest twentieth
    min_requests: int = 20


class Outcome(msgspec.Struct, frozen=True):
    """One answer of a canary: whether it failed by the replica's fault, and when its first byte came."""

    failed: bool
    latency_ms: float | None = None


def decide_rollback(outcomes: Sequence[Outcome], bounds: Bounds) -> str | None:
    """Why the canary is to be given up, in words for its owner; None while it keeps to its bounds.

    Too few requests decide nothing, unless so many have failed already that the bound is broken whatever follows.
    """
    count = len(outcomes)
    failed = sum(one.failed for one in outcomes)
    judged = max(count, bounds.min_requests)
    if failed and failed / judged > bounds.max_error_rate:
        return f"{failed} of its {count} requests failed, more than {bounds.max_error_rate:.1%}"
    if bounds.max_latency_ms is None or count < bounds.min_requests:
        return None
    slow = find_p95([one.latency_ms for one in outcomes if one.latency_ms is not None])
    if slow is not None and slow > bounds.max_latency_ms:
        return f"a twentieth of its {count} requests took {slow:.0f} ms or more, over {bounds.max_latency_ms:.0f} ms"
    return None


def find_p95(values: Sequence[float]) -> float | None:
    """The value that 95 of 100 do not exceed; None of nothing."""
    ordered = sorted(values)
    return ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else None


class CanaryWatch:
    """What this process saw of the canaries; each is named by its plan's digest, so a new plan starts afresh."""

    LOOK_EVERY = 8  # outcomes; a failure is looked at at once

    def __init__(self) -> None:
        self._seen: dict[str, deque[Outcome]] = {}
        self.given_up: dict[str, str] = {}

    def note(self, name: str, outcome: Outcome, bounds: Bounds) -> str | None:
        """Adds an outcome; returns the reason when it is the one that ends the canary here."""
        if name in self.given_up:
            return None
        seen = self._seen.setdefault(name, deque(maxlen=KEPT))
        seen.append(outcome)
        if not outcome.failed and len(seen) % self.LOOK_EVERY:
            return None
        reason = decide_rollback(seen, bounds)
        if reason is not None:
            self.given_up[name] = reason
            self._seen.pop(name)
        return reason

    def keep_only(self, names: set[str]) -> None:
        """Forgets canaries of plans that are gone."""
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        self.given_up = {name: why for name, why in self.given_up.items() if name in names}

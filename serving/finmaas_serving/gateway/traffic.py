"""Where a request to an endpoint goes: split by weight and session, canary, shadow, fallbacks. Pure.

A plan names targets by endpoint id; a snapshot turns them into routes. A session keeps its target while the plan
stands, and a change of weights moves only as many sessions as it must (weighted rendezvous hashing).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from finmaas_serving.gateway.canary import Bounds

if TYPE_CHECKING:
    from finmaas_serving.gateway.snapshot import Provider, Route

SPLIT, CANARY, SHADOW, FALLBACK, EXTERNAL = "split", "canary", "shadow", "fallback", "external"
_HASHES = float(1 << 64)


class Share(msgspec.Struct, frozen=True):
    """A target and its weight among the others."""

    endpoint_id: str
    weight: float


class Canary(msgspec.Struct, frozen=True):
    """A new version on trial: `weight` is its share of all requests, from 0 to 1."""

    endpoint_id: str
    weight: float
    bounds: Bounds = Bounds()


class Shadow(msgspec.Struct, frozen=True):
    """Gets a copy of some requests; its answers are thrown away."""

    endpoint_id: str
    share: float = 1.0


class Fallback(msgspec.Struct, frozen=True):
    """Another endpoint, or a model of an external provider."""

    endpoint_id: str | None = None
    provider_id: str | None = None
    model: str | None = None


class Traffic(msgspec.Struct, frozen=True):
    """The plan of one endpoint as it stands in a snapshot; without a split all goes to the endpoint itself."""

    digest: str
    split: tuple[Share, ...] = ()
    sticky: bool = True
    canary: Canary | None = None
    shadow: Shadow | None = None
    fallbacks: tuple[Fallback, ...] = ()
    first_byte_s: float | None = None


@dataclass(frozen=True, slots=True)
class Hop:
    """One target of a request, and what it is to it."""

    route: Route
    role: str
    provider: Provider | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A traffic plan with its targets looked up; those that are gone are left out."""

    traffic: Traffic
    split: tuple[tuple[Hop, float], ...]
    canary: Hop | None = None
    shadow: Hop | None = None
    fallbacks: tuple[Hop, ...] = ()


def draw(text: bytes, number: float) -> float:
    """A number from 0 to 1 (neither) that follows from a text; without one, `number` itself."""
    if not text:
        return number
    value = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
    return (value + 0.5) / _HASHES


def choose_targets(plan: Plan, session: bytes, number: float, given_up: Collection[str] = ()) -> tuple[Hop, ...]:
    """The targets in the order in which they are tried: the chosen one, the rest of the split, the fallbacks.

    `session` is what makes requests belong together, empty for none; `number`, from 0 to 1, then decides instead.
    `given_up` holds the digests of plans whose canary was given up. One whose canary is tried still has all others
    behind it.
    """
    traffic = plan.traffic
    session = session if traffic.sticky else b""
    ordered = order_split(plan.split, session, number)
    on_trial = plan.canary is not None and traffic.canary is not None and traffic.digest not in given_up
    if on_trial and plan.canary is not None and traffic.canary is not None:
        point = draw(session and b"canary " + session, number)
        if point < traffic.canary.weight:
            ordered = (plan.canary, *ordered)
    return (*ordered, *plan.fallbacks)


def order_split(split: Sequence[tuple[Hop, float]], session: bytes, number: float) -> tuple[Hop, ...]:
    """The targets of a split, the chosen one first, the others by weight."""
    if len(split) == 1:
        return (split[0][0],)
    if session:
        scored = [(_score(session, hop.route.endpoint_id, weight), i) for i, (hop, weight) in enumerate(split)]
        return tuple(split[i][0] for _, i in sorted(scored))
    chosen = _at_point(split, number)
    rest = sorted((pair for i, pair in enumerate(split) if i != chosen), key=lambda pair: -pair[1])
    return (split[chosen][0], *(hop for hop, _ in rest)) if split else ()


def is_shadowed(plan: Plan, number: float) -> bool:
    """Whether a copy of this request goes to the shadow."""
    shadow = plan.traffic.shadow
    return plan.shadow is not None and shadow is not None and number < shadow.share


def _score(session: bytes, target: str, weight: float) -> float:
    """The lowest score wins; a target wins with the probability of its weight."""
    if weight <= 0:
        return math.inf
    return -math.log(draw(target.encode() + b"\0" + session, 0.5)) / weight


def _at_point(split: Sequence[tuple[Hop, float]], number: float) -> int:
    total = sum(weight for _, weight in split)
    left = number * total
    for i, (_, weight) in enumerate(split):
        left -= weight
        if left < 0:
            return i
    return len(split) - 1

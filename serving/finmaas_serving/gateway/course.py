"""The targets of one request, in the order in which they are tried. Made for endpoints with a traffic plan only."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from finmaas_serving.gateway.external import route_of
from finmaas_serving.gateway.traffic import (
    CANARY,
    EXTERNAL,
    FALLBACK,
    SHADOW,
    SPLIT,
    Hop,
    Plan,
    choose_targets,
    is_shadowed,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from finmaas_serving.gateway.body import CallBody
    from finmaas_serving.gateway.snapshot import Key, Route, Snapshot
    from finmaas_serving.gateway.traffic import Fallback, Traffic


class Course:
    """Where one request is, and where it may go on. Stands for the endpoint in what an answer is sealed with."""

    __slots__ = ("_at", "_hops", "name", "shadow", "traffic")

    def __init__(self, name: str, traffic: Traffic, hops: tuple[Hop, ...], shadow: Hop | None) -> None:
        self.name = name  # of the endpoint that was called
        self.traffic = traffic
        self.shadow = shadow
        self._hops = hops
        self._at = 0

    @property
    def hop(self) -> Hop:
        return self._hops[self._at]

    @property
    def model_version(self) -> str | None:
        """That of the target which is asked now."""
        return self.hop.route.model_version

    @property
    def more(self) -> bool:
        return self._at + 1 < len(self._hops)

    def go_on(self) -> bool:
        """To the next target; False when this was the last one."""
        if not self.more:
            return False
        self._at += 1
        return True


def open_course(
    snapshot: Snapshot, key: Key, route: Route, session: bytes, body: CallBody, given_up: Collection[str]
) -> Course | None:
    """The course of a request to an endpoint with a traffic plan; None when no target of the plan is left."""
    traffic = route.traffic
    if traffic is None:
        return None
    if not session and traffic.sticky and (user := body.fields.get("user")) is not None:
        session = bytes(user)
    plan = find_plan(snapshot, key, route, traffic)
    number = random.random()  # noqa: S311 - spreads load, guards nothing
    hops = choose_targets(plan, session, number, given_up)
    if not hops:
        return None
    shadow = plan.shadow if is_shadowed(plan, random.random()) else None  # noqa: S311 - as above
    return Course(route.name, traffic, hops, shadow)


def find_plan(snapshot: Snapshot, key: Key, route: Route, traffic: Traffic) -> Plan:
    """The plan's targets as this snapshot knows them. An outside one is there only for a project approved for it."""
    found_split = ((snapshot.routes.get(one.endpoint_id), one.weight) for one in traffic.split)
    split = tuple((Hop(target, SPLIT), weight) for target, weight in found_split if target is not None)
    canary = snapshot.routes.get(traffic.canary.endpoint_id) if traffic.canary is not None else None
    shadow = snapshot.routes.get(traffic.shadow.endpoint_id) if traffic.shadow is not None else None
    found = (_find_fallback(snapshot, key, one) for one in traffic.fallbacks)
    return Plan(
        traffic,
        split or ((Hop(route, SPLIT), 1.0),),
        None if canary is None else Hop(canary, CANARY),
        None if shadow is None else Hop(shadow, SHADOW),
        tuple(hop for hop in found if hop is not None),
    )


def _find_fallback(snapshot: Snapshot, key: Key, fallback: Fallback) -> Hop | None:
    if fallback.endpoint_id is not None:
        target = snapshot.routes.get(fallback.endpoint_id)
        return None if target is None else Hop(target, FALLBACK)
    provider = snapshot.providers.get(fallback.provider_id or "")
    if provider is None or key.project_id not in provider.projects:
        return None
    return Hop(route_of(provider, fallback.model or ""), EXTERNAL, provider)

"""Traffic plans as their owners write them: targets by name, shares in per cent. Pure.

What a gateway gets is made of it in `resolve_plan`, where names become the endpoints that bear them now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from finmaas_platform.domain.names import Name

DEFAULT_CONCURRENCY = 256  # requests at once of a replica whose engine names no `max_num_seqs`
DEFAULT_QUEUE, DEFAULT_WAIT_S = 512, 30.0


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class SplitPart(_Part):
    """An endpoint of the same project, and its weight among the others."""

    endpoint: Name
    weight: float = Field(gt=0, le=1_000_000)


class CanaryPart(_Part):
    """A version on trial. It is given up by itself when it breaks a bound; latency is to the first token."""

    endpoint: Name
    percent: float = Field(gt=0, le=100)
    max_error_rate: float = Field(default=0.05, ge=0, le=1)
    max_latency_ms: float | None = Field(default=None, gt=0, description="Of the slowest twentieth.")
    min_requests: int = Field(default=20, ge=1, le=1000)


class ShadowPart(_Part):
    """An endpoint that gets a copy of some requests; its answers are thrown away and charged to nobody."""

    endpoint: Name
    percent: float = Field(default=100, gt=0, le=100)


class FallbackPart(_Part):
    """Another endpoint of the project, or a model of an outside provider that the project is approved for."""

    endpoint: Name | None = None
    provider: Name | None = None
    model: str | None = Field(default=None, min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._:/-]+$")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.endpoint is None) == (self.provider is None):
            raise ValueError("a fallback names an `endpoint`, or a `provider` and its `model`")
        if (self.provider is None) != (self.model is None):
            raise ValueError("`provider` and `model` go together")
        return self


class ReservedPart(_Part):
    """Requests at once that are kept free for a tenant, in all gateways together."""

    tenant: Name
    slots: int = Field(ge=1, le=100_000)
    overflow: Literal["share", "refuse"] = "share"


class SharingPart(_Part):
    """How tenants share the replicas. `concurrency` is that of one replica; none: the engine's `max_num_seqs`."""

    concurrency: int | None = Field(default=None, ge=1, le=100_000)
    queue: int = Field(default=DEFAULT_QUEUE, ge=0, le=100_000)
    wait_s: float = Field(default=DEFAULT_WAIT_S, gt=0, le=3600)
    reserved: list[ReservedPart] = Field(default_factory=list, max_length=100)


class TrafficPlan(_Part):
    """Where an endpoint's requests go. Without a split they go to the endpoint itself."""

    split: list[SplitPart] = Field(default_factory=list, max_length=16)
    sticky: bool = Field(default=True, description="A session (`x-session-id`, else `user`) keeps its target.")
    canary: CanaryPart | None = None
    shadow: ShadowPart | None = None
    fallbacks: list[FallbackPart] = Field(default_factory=list, max_length=8)
    first_byte_s: float | None = Field(default=None, gt=0, le=3600, description="How long a target may stay silent.")
    sharing: SharingPart = SharingPart()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for what, names in (
            ("split", [part.endpoint for part in self.split]),
            ("fallbacks", [part.endpoint or f"{part.provider}/{part.model}" for part in self.fallbacks]),
            ("sharing.reserved", [part.tenant for part in self.sharing.reserved]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"`{what}` names one of them twice")
        return self

    @property
    def endpoints(self) -> set[str]:
        """The names of all endpoints it sends to."""
        single = [part.endpoint for part in (self.canary, self.shadow) if part is not None]
        fallbacks = [part.endpoint for part in self.fallbacks if part.endpoint is not None]
        return {*(part.endpoint for part in self.split), *single, *fallbacks}

    @property
    def providers(self) -> set[str]:
        return {part.provider for part in self.fallbacks if part.provider is not None}


@dataclass(frozen=True)
class Sight:
    """What a plan's names mean now: endpoints of its project, providers, tenants."""

    endpoints: Mapping[str, str]
    providers: Mapping[str, str]
    tenants: Mapping[str, str]


def resolve_plan(plan: TrafficPlan, digest: str, sight: Sight) -> dict[str, Any]:
    """The plan as a gateway reads it (`finmaas_serving.gateway.traffic.Traffic`); targets that are gone are left out.

    A digest is that of the plan with its version: a plan that is set again begins anew.
    """
    split = [
        {"endpoint_id": sight.endpoints[part.endpoint], "weight": part.weight}
        for part in plan.split
        if part.endpoint in sight.endpoints
    ]
    return {
        "digest": digest,
        "split": split,
        "sticky": plan.sticky,
        "canary": _resolve_canary(plan.canary, sight),
        "shadow": _resolve_shadow(plan.shadow, sight),
        "fallbacks": [found for part in plan.fallbacks if (found := _resolve_fallback(part, sight))],
        "first_byte_s": plan.first_byte_s,
    }


def resolve_terms(plan: TrafficPlan | None, engine_limit: int | None, gateways: int, sight: Sight) -> dict[str, Any]:
    """How an endpoint's replicas are shared, for one of so many gateways: each has its part of every number."""
    sharing = SharingPart() if plan is None else plan.sharing
    reserved = [
        {
            "tenant_id": sight.tenants[part.tenant],
            "slots": split_evenly(part.slots, gateways),
            "overflow": part.overflow,
        }
        for part in sharing.reserved
        if part.tenant in sight.tenants
    ]
    return {
        "concurrency": split_evenly(sharing.concurrency or engine_limit or DEFAULT_CONCURRENCY, gateways),
        "queue": split_evenly(sharing.queue, gateways) if sharing.queue else 0,
        "wait_s": sharing.wait_s,
        "reserved": reserved,
    }


def split_evenly(count: int, gateways: int) -> int:
    """A gateway's part of a number of places; at least one."""
    return max(1, count // gateways)


def digest_of(document: Mapping[str, Any], version: int) -> str:
    """The name of a plan as it stands."""
    text = json.dumps([version, document], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _resolve_canary(part: CanaryPart | None, sight: Sight) -> dict[str, Any] | None:
    if part is None or part.endpoint not in sight.endpoints:
        return None
    return {
        "endpoint_id": sight.endpoints[part.endpoint],
        "weight": part.percent / 100,
        "bounds": part.model_dump(include={"max_error_rate", "max_latency_ms", "min_requests"}),
    }


def _resolve_shadow(part: ShadowPart | None, sight: Sight) -> dict[str, Any] | None:
    if part is None or part.endpoint not in sight.endpoints:
        return None
    return {"endpoint_id": sight.endpoints[part.endpoint], "share": part.percent / 100}


def _resolve_fallback(part: FallbackPart, sight: Sight) -> dict[str, Any] | None:
    if part.endpoint is not None:
        endpoint_id = sight.endpoints.get(part.endpoint)
        return None if endpoint_id is None else {"endpoint_id": endpoint_id}
    provider_id = sight.providers.get(part.provider or "")
    return None if provider_id is None else {"provider_id": provider_id, "model": part.model}

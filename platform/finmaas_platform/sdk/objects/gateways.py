"""Gateways, and what is asked through them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from finmaas_platform.sdk.objects.base import ApiObject


class GatewayLine(ApiObject):
    """One endpoint as one project calls it, at one gateway, counted since that gateway started."""

    endpoint: str
    project: str
    by_status: dict[int, int] = Field(default_factory=dict)
    by_finish: dict[str, int] = Field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token_ms: list[int] = Field(default_factory=list)
    first_token_ms_sum: float = 0.0
    whole_ms: list[int] = Field(default_factory=list)
    whole_ms_sum: float = 0.0


class Gateway(ApiObject):
    """One gateway process, as it last told of itself."""

    gateway_id: str
    state: str
    seen_at: datetime
    age_s: float = 0.0
    started_at: float = 0.0
    snapshot: int | None = None
    snapshot_age_s: float | None = None
    replicas: int = 0
    running: int = 0
    connections: int = 0
    usage_waiting: int = 0
    refused: dict[int, int] = Field(default_factory=dict)
    lines: list[GatewayLine] = Field(default_factory=list)


class TenantSharing(ApiObject):
    """What holds for a tenant at the gateways."""

    tenant: str
    weight: float = 1.0
    max_staleness_s: int | None = None


class Batch(ApiObject):
    """A batch of requests, made by an API key through a gateway."""

    id: str
    project: str
    key_id: str = ""
    endpoint: str
    state: str
    total: int = 0
    done: int = 0
    failed: int = 0
    faults: list[dict[str, Any]] = Field(default_factory=list)
    created_at: datetime
    expires_at: datetime | None = None
    settled_at: datetime | None = None

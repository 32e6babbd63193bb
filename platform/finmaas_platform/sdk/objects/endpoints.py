"""Endpoints, and where their requests go."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from finmaas_platform.sdk.objects.base import ApiObject

FINISHED_ENDPOINT_STATES = frozenset({"stopped", "failed"})


class ServedVersion(ApiObject):
    """The model version that an endpoint serves."""

    id: str
    ref: str


class Endpoint(ApiObject):
    """A served name."""

    id: str
    name: str
    project: str
    # Named so in the API; `model_version` is not one of pydantic's own names.
    model_version: ServedVersion
    state: str
    reason: str = ""
    replicas: int = 1
    ready_replicas: int = 0
    engine: dict[str, Any] = Field(default_factory=dict)
    production: bool = False
    created_at: datetime
    version: int = 1

    @property
    def ref(self) -> str:
        return f"{self.project}/{self.name}"


class TrafficPlan(ApiObject):
    """Where the requests of an endpoint go; `ended` tells how its last canary ended."""

    endpoint: str
    plan: dict[str, Any]
    ended: dict[str, Any] | None = None
    updated_at: datetime
    updated_by: str = ""
    version: int = 1


class ProviderApproval(ApiObject):
    """A project that may use an outside provider."""

    project: str
    approved_at: datetime
    approved_by: str = ""


class Provider(ApiObject):
    """An OpenAI-compatible service outside; its secret is never shown."""

    id: str
    name: str
    base_url: str
    created_at: datetime
    created_by: str = ""
    approvals: tuple[ProviderApproval, ...] = ()


class Grant(ApiObject):
    """Lets `project` call an endpoint of another project."""

    id: str
    endpoint: str
    project: str
    created_at: datetime
    created_by: str = ""
    revoked_at: datetime | None = None

"""Training and evaluation jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from finmaas_platform.sdk.objects.base import ApiObject

FINISHED_JOB_STATES = frozenset({"succeeded", "failed", "cancelled"})


class Progress(ApiObject):
    """How far a job is."""

    step: int | None = None
    total_steps: int | None = None
    stage: str | None = None


class Job(ApiObject):
    """A training or evaluation job; `metrics` holds the latest value of each."""

    id: str
    project: str
    kind: str
    spec: dict[str, Any]
    state: str
    reason: str = ""
    attempt: int = 0
    progress: Progress = Progress()
    metrics: dict[str, Any] = Field(default_factory=dict)
    result: dict[str, Any] | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    version: int = 1

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED_JOB_STATES


class Attempt(ApiObject):
    """One try at a job."""

    number: int
    state: str
    reason: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class MetricPoint(ApiObject):
    """Named values at one training step."""

    step: int
    values: dict[str, float]

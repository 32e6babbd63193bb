"""What requests used, what that costs, and what may be spent."""

from __future__ import annotations

from datetime import datetime

from finmaas_platform.sdk.objects.base import ApiObject


class Spent(ApiObject):
    """The present window of an allowance, in its unit."""

    starts_at: datetime | None = None
    ends_at: datetime | None = None
    settled: int = 0
    held: int = 0
    reserved: int = 0
    free: int = 0


class Allowance(ApiObject):
    """What may be spent in a window; `limit` counts nano-units for money."""

    id: str
    scope: str
    subject: str
    subject_id: str = ""
    model: str = ""
    unit: str
    window: str
    limit: int
    limit_text: str = ""
    currency: str = ""
    created_at: datetime
    version: int = 1
    spent: Spent


class Holder(ApiObject):
    """A gateway, and how many slices of allowances it holds."""

    gateway: str
    seen_at: datetime
    slices: int


class Price(ApiObject):
    """What a million tokens of a model cost from a day on."""

    id: str
    model: str
    currency: str
    valid_from: str
    input: str
    cached_input: str
    output: str
    reasoning: str


class UsageLine(ApiObject):
    """One line of an export."""

    group: dict[str, str]
    currency: str | None = None
    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int | None = None
    cost: str | None = None


class UsageRecord(ApiObject):
    """What one gateway request used."""

    request_id: str
    at: datetime
    key_id: str
    endpoint_id: str
    path: str = ""
    status: int
    stream: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    ttft_ms: float | None = None
    duration_ms: float = 0.0
    finish: str = ""
    reasoning_tokens: int = 0
    cost_nano: int | None = None
    currency: str | None = None
    cost_centre: str = ""
    target_id: str | None = None
    failed_target_id: str | None = None
    traffic: str = ""
    attempts: int = 1


class UsageTotal(ApiObject):
    """Sums over the requests to one endpoint."""

    endpoint_id: str
    endpoint: str | None = None
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

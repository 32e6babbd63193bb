"""What is read from JSON or written to it, as types.

Apart from the code that uses them, because msgspec reads their annotations while the program runs: this module is never
compiled (`hot.py`).
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from finmaas_serving.guard.request_rules import PlainMessage

FIRST_TOKEN_BOUNDS_MS = (5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 30_000.0)
WHOLE_BOUNDS_MS = (*FIRST_TOKEN_BOUNDS_MS, 60_000.0, 120_000.0, 300_000.0)


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """Tokens as the engine counts them."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    @property
    def reasoning_tokens(self) -> int:
        details = self.completion_tokens_details
        return (details.reasoning_tokens or 0) if details else 0

    @property
    def cached_tokens(self) -> int:
        details = self.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0


class EventChoice(msgspec.Struct):
    index: int = 0


class Event(msgspec.Struct):
    choices: list[EventChoice] = []
    usage: Usage | None = None


class EngineAnswer(msgspec.Struct):
    model: str | None = None
    usage: Usage | None = None


class EngineError(msgspec.Struct):
    message: str = ""
    param: str | None = None


class EngineErrorBody(msgspec.Struct):
    error: EngineError | None = None
    message: str = ""
    param: str | None = None


class StreamOptions(msgspec.Struct, forbid_unknown_fields=False):
    """The two options of a stream that say which usage the client wants to see."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class UsualChat(msgspec.Struct, forbid_unknown_fields=True):
    """The chat that nearly every client sends: texts and settings. What is written otherwise is read field by field.

    Each of these fields is known to the guardrails, names nothing to be fetched, and binds no answer to a grammar.
    """

    model: str
    messages: list[PlainMessage]
    stream: bool = False
    stream_options: StreamOptions | msgspec.UnsetType = msgspec.UNSET
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int = 1
    user: str | None = None


class UsageRecord(msgspec.Struct):
    """What one request used. `seq` is given by the spool; times in milliseconds; `at` is when the request came."""

    request_id: str
    at: datetime
    key_id: str
    project_id: str
    tenant_id: str
    endpoint_id: str
    model_version_id: str | None
    path: str
    status: int
    stream: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    ttft_ms: float | None
    duration_ms: float
    replica: str | None
    finish: str  # complete | client_left | upstream_failed
    counted_by: str  # engine | gateway | cache
    seq: int = 0
    target_id: str | None = None  # the endpoint or outside provider that was asked last
    failed_target_id: str | None = None  # the first one that failed, where another one answered
    traffic: str = ""  # split | canary | shadow | fallback | external; empty: the endpoint has no traffic plan
    attempts: int = 1
    reasoning_tokens: int = 0  # part of the completion's
    cost_nano: int | None = None  # at the price valid that day; None where there is no price
    currency: str | None = None
    epoch: int = 0  # of the slices below
    charges: list[tuple[int, int]] = []  # (slice, amount) for the ledger to settle
    claims: list[str] = []  # digests of the claims of provenance in the answer; the first few


class Line(msgspec.Struct):
    """One endpoint as one project calls it. Histograms count per bucket; the last bucket is everything longer."""

    endpoint: str
    project: str
    by_status: dict[int, int] = {}
    by_finish: dict[str, int] = {}
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token_ms: list[int] = msgspec.field(default_factory=lambda: [0] * (len(FIRST_TOKEN_BOUNDS_MS) + 1))
    first_token_ms_sum: float = 0.0
    whole_ms: list[int] = msgspec.field(default_factory=lambda: [0] * (len(WHOLE_BOUNDS_MS) + 1))
    whole_ms_sum: float = 0.0


class Report(msgspec.Struct):
    """How a gateway process fares: what it tells the control plane, and Prometheus."""

    started_at: float  # epoch seconds; a new process counts from nothing
    snapshot: int | None
    snapshot_age_s: float | None
    replicas: int
    running: int
    connections: int
    usage_waiting: int
    draining: bool
    refused: dict[int, int]  # requests that never became a call, by status
    lines: list[Line]


class MessageUsage(msgspec.Struct):
    """Tokens as Anthropic names them: what came from the cache is not among `input_tokens`."""

    input_tokens: int = 0
    output_tokens: int | None = 0
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None

    def as_usage(self) -> Usage:
        """The same in the gateway's words."""
        cached = self.cache_read_input_tokens or 0
        prompt = self.input_tokens + cached + (self.cache_creation_input_tokens or 0)
        return Usage(prompt, self.output_tokens or 0, PromptDetails(cached_tokens=cached))


class MessageAnswer(msgspec.Struct):
    model: str
    usage: MessageUsage | None = None


class TokenCount(msgspec.Struct):
    input_tokens: int


class InputDetails(msgspec.Struct):
    cached_tokens: int = 0


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct):
    """Tokens as the Responses API names them."""

    input_tokens: int
    output_tokens: int
    input_tokens_details: InputDetails = msgspec.field(default_factory=InputDetails)
    output_tokens_details: OutputDetails = msgspec.field(default_factory=OutputDetails)

    def as_usage(self) -> Usage:
        """The same in the gateway's words."""
        details = PromptDetails(cached_tokens=self.input_tokens_details.cached_tokens)
        reasoning = CompletionDetails(self.output_tokens_details.reasoning_tokens)
        return Usage(self.input_tokens, self.output_tokens, details, reasoning)


class ResponseAnswer(msgspec.Struct):
    model: str
    usage: ResponseUsage | None = None


class TextFormat(msgspec.Struct):
    type: str = "text"


class TextSettings(msgspec.Struct):
    format: TextFormat | None = None

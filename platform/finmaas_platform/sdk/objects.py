"""What the API answers, as frozen objects. Fields that a newer server adds are ignored, never an error."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

FINISHED_JOB_STATES = frozenset({"succeeded", "failed", "cancelled"})
FINISHED_ENDPOINT_STATES = frozenset({"stopped", "failed"})


class ApiObject(BaseModel):
    """Base of everything here; `to_json()` gives it back as plain JSON values."""

    # `model_` and `schema` are ordinary words of this API.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), populate_by_name=True)

    def to_json(self) -> dict[str, Any]:
        """JSON values under the API's own field names."""
        return self.model_dump(mode="json", by_alias=True)


class WhoAmI(ApiObject):
    """The principal behind the token in use."""

    id: str
    name: str
    kind: str = ""
    role: str | None = None
    tenant: str | None = None


class Tenant(ApiObject):
    """A business unit."""

    id: str
    name: str
    display_name: str = ""
    state: str
    created_at: datetime
    version: int = 1
    time_zone: str = "UTC"
    fiscal_day: int = 1
    currency: str = "CNY"
    cost_centre: str = ""


class Project(ApiObject):
    """A use case inside a tenant; `ref` is `tenant/project`."""

    id: str
    name: str
    tenant: str
    display_name: str = ""
    created_at: datetime
    version: int = 1
    cost_centre: str = ""

    @property
    def ref(self) -> str:
        return f"{self.tenant}/{self.name}"


class Principal(ApiObject):
    """A user or service account."""

    id: str
    name: str
    role: str
    kind: str = "user"
    tenant: str | None = None
    disabled: bool = False
    issuer: str | None = None
    subject: str | None = None
    created_at: datetime
    version: int = 1


class AccessToken(ApiObject):
    """A principal's credential; `token` is there once, in the answer that made it."""

    id: str
    principal_id: str
    principal: str = ""
    token: str | None = None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class ApiKey(ApiObject):
    """A project's gateway credential; `key` is there once, in the answer that made it."""

    id: str
    name: str
    project: str
    models: tuple[str, ...] = ("*",)
    methods: tuple[str, ...] = ("*",)
    networks: tuple[str, ...] = ()
    priority: str = "interactive"
    key: str | None = None
    created_at: datetime
    created_by: str = ""
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


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


class TenantSharing(ApiObject):
    """What holds for a tenant at the gateways."""

    tenant: str
    weight: float = 1.0
    max_staleness_s: int | None = None


class Grant(ApiObject):
    """Lets `project` call an endpoint of another project."""

    id: str
    endpoint: str
    project: str
    created_at: datetime
    created_by: str = ""
    revoked_at: datetime | None = None


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
    faults: list[dict[str, Any]] = []
    created_at: datetime
    expires_at: datetime | None = None
    settled_at: datetime | None = None


class Policy(ApiObject):
    """The guardrail policy of a project."""

    project: str
    document: dict[str, Any]
    digest: str
    updated_at: datetime
    updated_by: str = ""
    version: int = 1


class TextRule(ApiObject):
    """A built-in rule that policies can name."""

    name: str
    group: str
    label: str
    max_length: int


class PolicyHit(ApiObject):
    """What a rule found, in characters of the text."""

    rule: str
    action: str
    start: int
    end: int


class PolicyTrial(ApiObject):
    """What a policy does to a text; `text` is None where it lets nothing through."""

    hits: tuple[PolicyHit, ...] = ()
    text: str | None = None


class Proof(ApiObject):
    """Whether an answer is genuine or altered, and why that is said."""

    verdict: str
    reason: str
    proof: dict[str, Any] | None = None  # the claim's place in a signed batch, once that is sealed


class FileEntry(ApiObject):
    """One file of a version, by its SHA-256."""

    path: str
    sha256: str
    size: int


class Dataset(ApiObject):
    """A named sequence of dataset versions."""

    id: str
    name: str
    project: str
    latest_version: int = 0
    created_at: datetime


class DatasetVersion(ApiObject):
    """One immutable snapshot of rows; `splits` counts rows by split."""

    id: str
    dataset: str
    version: int
    ref: str
    shape: str
    rows: int
    splits: dict[str, int] = Field(default_factory=dict)
    columns: Any = Field(default=None, alias="schema")
    stats: dict[str, Any] = Field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()
    size_bytes: int = 0
    digest: str = ""
    source: str = ""
    created_at: datetime
    created_by: str = ""
    state: str = "draft"
    released_at: datetime | None = None
    released_by: str | None = None


class DatasetReport(ApiObject):
    """What an import found out about a version; `expired` rows are kept, and no job reads them."""

    ref: str
    rows: int
    splits: dict[str, int] = Field(default_factory=dict)
    expired: int = 0
    report: dict[str, Any] = Field(default_factory=dict)


class DatasetDiff(ApiObject):
    """What changed between two versions: `counts` of added, removed, changed, moved and same rows, and samples."""

    before: str
    after: str
    by: str
    columns: Any = Field(default=None, alias="schema")
    counts: dict[str, int]
    added: tuple[dict[str, Any], ...] = ()
    removed: tuple[dict[str, Any], ...] = ()
    changed: tuple[dict[str, Any], ...] = ()


class RowTrace(ApiObject):
    """Versions that hold a row, jobs that read these, models that came of it, endpoints that serve those."""

    versions: tuple[dict[str, Any], ...] = ()
    jobs: tuple[dict[str, Any], ...] = ()
    models: tuple[dict[str, Any], ...] = ()
    endpoints: tuple[dict[str, Any], ...] = ()


class DeletionRequest(ApiObject):
    """A request that a row be forgotten; `retrain` names the models that learned from it."""

    id: str
    kind: str
    digest: str
    reason: str
    state: str
    found: RowTrace
    made: tuple[dict[str, Any], ...] = ()
    retrain: tuple[str, ...] = ()
    created_at: datetime
    created_by: str
    approved_at: datetime | None = None
    approved_by: str | None = None
    purged_at: datetime | None = None


class Lineage(ApiObject):
    """Where a model version came from."""

    job_id: str | None = None
    dataset_version_id: str | None = None
    base_version_id: str | None = None


class Model(ApiObject):
    """A named sequence of model versions."""

    id: str
    name: str
    project: str
    latest_version: int = 0
    latest_state: str | None = None
    aliases: dict[str, int] = Field(default_factory=dict)
    created_at: datetime


class ModelVersion(ApiObject):
    """One immutable artefact: full weights, or an adapter on a base."""

    id: str
    model: str
    version: int
    ref: str
    kind: str
    state: str = ""
    revision: int = 1
    author_id: str | None = None
    files: tuple[FileEntry, ...] = ()
    size_bytes: int = 0
    digest: str = ""
    description: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)
    lineage: Lineage = Lineage()
    created_at: datetime
    created_by: str = ""


class Draft(ApiObject):
    """The files that the next version of a model or dataset will have."""

    id: str
    kind: str
    name: str
    project: str
    revision: str
    message: str = ""
    files: tuple[FileEntry, ...] = ()
    size_bytes: int = 0
    updated_at: datetime
    updated_by: str = ""


class ModelAlias(ApiObject):
    """A name that points at a version; `version` rises with each move."""

    name: str
    model: str
    points_at: str
    version_id: str
    state: str
    updated_at: datetime
    updated_by: str = ""
    version: int = 1


class ModelEvent(ApiObject):
    """One move in the life of a version or an alias."""

    id: str
    at: datetime
    action: str
    alias: str | None = None
    before: str | None = None
    after: str | None = None
    note: str = ""
    outcomes: tuple[dict[str, Any], ...] = ()
    by: str = ""


class RuleOutcome(ApiObject):
    """What a rule says of a version."""

    rule: dict[str, Any]
    passed: bool
    why: str
    why_zh: str = ""


class Verdict(ApiObject):
    """What all rules say of a version, and why the caller could not be its approver."""

    version: str
    passed: bool
    outcomes: tuple[RuleOutcome, ...] = ()
    approver_fault: str | None = None


class Verification(ApiObject):
    """Whether row, bytes and signature of a version agree; `signature` is valid, invalid or missing."""

    version: str
    passed: bool
    digest: str
    files: int
    signature: str
    key_id: str | None = None
    trust_root: str = ""
    faults: tuple[str, ...] = ()


class LineageNode(ApiObject):
    """One thing in a lineage graph."""

    key: str
    kind: str
    id: str
    ref: str
    note: str = ""


class LineageEdge(ApiObject):
    """`result` came from `origin`; both are keys of nodes."""

    origin: str
    result: str


class LineageGraph(ApiObject):
    """What a thing came from and what came of it."""

    root: str
    nodes: tuple[LineageNode, ...]
    edges: tuple[LineageEdge, ...] = ()
    truncated: bool = False


class ModelCard(ApiObject):
    """A card as Markdown; edition 0 is the generated one."""

    version: str
    language: str
    edition: int
    text: str
    at: datetime | None = None
    by: str | None = None


class ApprovalRules(ApiObject):
    """The rules of a project; version 0 is the default."""

    project: str
    document: dict[str, Any]
    updated_at: datetime | None = None
    updated_by: str | None = None
    version: int = 0


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


class KeptRecord(ApiObject):
    """A request or answer kept for auditors, still sealed."""

    id: str
    part: str
    request_id: str
    project_id: str = ""
    key_id: str = ""
    endpoint_id: str = ""
    at: datetime
    expires_at: datetime


class GatewayLine(ApiObject):
    """One endpoint as one project calls it, at one gateway, counted since that gateway started."""

    endpoint: str
    project: str
    by_status: dict[int, int] = {}
    by_finish: dict[str, int] = {}
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token_ms: list[int] = []
    first_token_ms_sum: float = 0.0
    whole_ms: list[int] = []
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
    refused: dict[int, int] = {}
    lines: list[GatewayLine] = []


class AuditEvent(ApiObject):
    """Who did what to which, before and after."""

    id: str
    at: datetime
    caller_name: str = ""
    caller_kind: str = ""
    action: str
    target: str
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    request_id: str | None = None

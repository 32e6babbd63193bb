"""What the API answers, as frozen objects. Fields that a newer server adds are ignored, never an error."""

from finmaas_platform.sdk.objects.audit_events import AuditEvent
from finmaas_platform.sdk.objects.base import ApiObject
from finmaas_platform.sdk.objects.datasets import (
    Dataset,
    DatasetDiff,
    DatasetReport,
    DatasetVersion,
    DeletionRequest,
    RowTrace,
)
from finmaas_platform.sdk.objects.endpoints import (
    FINISHED_ENDPOINT_STATES,
    Endpoint,
    Grant,
    Provider,
    ProviderApproval,
    ServedVersion,
    TrafficPlan,
)
from finmaas_platform.sdk.objects.files import Draft, FileEntry
from finmaas_platform.sdk.objects.gateways import Batch, Gateway, GatewayLine, TenantSharing
from finmaas_platform.sdk.objects.jobs import FINISHED_JOB_STATES, Attempt, Job, MetricPoint, Progress
from finmaas_platform.sdk.objects.model_life import (
    ApprovalRules,
    LineageEdge,
    LineageGraph,
    LineageNode,
    ModelAlias,
    ModelEvent,
    RuleOutcome,
    Verdict,
    Verification,
)
from finmaas_platform.sdk.objects.models import Lineage, Model, ModelCard, ModelVersion, Origin
from finmaas_platform.sdk.objects.policies import KeptRecord, Policy, PolicyHit, PolicyTrial, Proof, TextRule
from finmaas_platform.sdk.objects.tenants import AccessToken, ApiKey, Principal, Project, Tenant, WhoAmI
from finmaas_platform.sdk.objects.usage import Allowance, Holder, Price, Spent, UsageLine, UsageRecord, UsageTotal

__all__ = [
    "FINISHED_ENDPOINT_STATES",
    "FINISHED_JOB_STATES",
    "AccessToken",
    "Allowance",
    "ApiKey",
    "ApiObject",
    "ApprovalRules",
    "Attempt",
    "AuditEvent",
    "Batch",
    "Dataset",
    "DatasetDiff",
    "DatasetReport",
    "DatasetVersion",
    "DeletionRequest",
    "Draft",
    "Endpoint",
    "FileEntry",
    "Gateway",
    "GatewayLine",
    "Grant",
    "Holder",
    "Job",
    "KeptRecord",
    "Lineage",
    "LineageEdge",
    "LineageGraph",
    "LineageNode",
    "MetricPoint",
    "Model",
    "ModelAlias",
    "ModelCard",
    "ModelEvent",
    "ModelVersion",
    "Origin",
    "Policy",
    "PolicyHit",
    "PolicyTrial",
    "Price",
    "Principal",
    "Progress",
    "Project",
    "Proof",
    "Provider",
    "ProviderApproval",
    "RowTrace",
    "RuleOutcome",
    "ServedVersion",
    "Spent",
    "Tenant",
    "TenantSharing",
    "TextRule",
    "TrafficPlan",
    "UsageLine",
    "UsageRecord",
    "UsageTotal",
    "Verdict",
    "Verification",
    "WhoAmI",
]

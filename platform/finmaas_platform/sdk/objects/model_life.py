"""The life of a model version: aliases, rules, approvals, signatures, where it came from."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from finmaas_platform.sdk.objects.base import ApiObject


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


class ApprovalRules(ApiObject):
    """The rules of a project; version 0 is the default."""

    project: str
    document: dict[str, Any]
    updated_at: datetime | None = None
    updated_by: str | None = None
    version: int = 0


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

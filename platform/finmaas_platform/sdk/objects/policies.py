"""Guardrail policies, and what is kept and proven of answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from finmaas_platform.sdk.objects.base import ApiObject


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

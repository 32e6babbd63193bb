"""Guardrail policies: checked by compiling them, as a gateway will, before they are stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from finmaas_core.errors import NotFound
from finmaas_platform.db.policies import PolicyRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.snapshots import bump_snapshot
from finmaas_platform.services.versions import lock_project
from finmaas_serving.guard.policy import Action, Guard, Side, read_policy
from finmaas_serving.guard.scanner import Hit
from finmaas_serving.guard.window import replace_all

KEEPERS = (Role.TENANT_ADMIN, Role.APPROVER)


@dataclass(frozen=True)
class Trial:
    """What a policy does to a text: each hit as (rule, action, start, end), and the text that goes on, if it does."""

    hits: tuple[tuple[str, str, int, int], ...]
    text: str | None


def get_policy(session: Session, caller: Caller, project: ProjectRow) -> PolicyRow:
    """The policy of a project; NotFound when it has none."""
    if found := _find_policy(session, caller, project):
        return found
    raise NotFound(
        f"{project.ref} has no guardrail policy; `finmaas policy set {project.ref} --preset strict` makes one"
    )


def select_policies(session: Session, caller: Caller) -> Select[PolicyRow]:
    """The policies in the caller's sight."""
    return scoped(select(PolicyRow), caller)


def store_policy(
    session: Session, caller: Caller, now: datetime, project: ProjectRow, document: Mapping[str, Any]
) -> PolicyRow:
    """Sets the policy of a project; gateways follow within a second. InvalidInput names what cannot be used in it."""
    caller.require(*KEEPERS)
    policy = read_policy(document)
    Guard(policy)
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(policy))
    lock_project(session, project)
    row = _find_policy(session, caller, project)
    before = None if row is None else row.document
    if before == plain and row is not None:
        return row
    if row is None:
        row = PolicyRow(project_id=project.id, project=project, tenant_id=project.tenant_id)
        session.add(row)
    row.document, row.digest = plain, digest_of(plain)
    row.updated_at, row.updated_by = now, caller.id
    bump_snapshot(session)
    record_audit(session, caller, now, "policy.set", project.id, before, plain, tenant_id=project.tenant_id)
    return row


def remove_policy(session: Session, caller: Caller, now: datetime, project: ProjectRow) -> None:
    """Takes the policy off a project; nothing is screened any more. NotFound when it has none."""
    caller.require(*KEEPERS)
    row = get_policy(session, caller, project)
    session.delete(row)
    bump_snapshot(session)
    record_audit(session, caller, now, "policy.remove", project.id, row.document, tenant_id=project.tenant_id)


def try_policy(document: Mapping[str, Any], text: str, direction: str) -> Trial:
    """What a policy does to a text, `input` or `output`; nothing is stored."""
    guard = Guard(read_policy(document))
    side = guard.input if direction == "input" else guard.output
    hits: list[tuple[str, str, int, int]] = []

    def replace(hit: Hit, found: str) -> str:
        hits.append((hit.rule.name, side.actions[hit.rule.name], hit.start, hit.end))
        return f"<{hit.rule.name}>" if side.actions[hit.rule.name] is Action.REPLACE else f"[{hit.rule.label}]"

    screened = _apply(side, text, replace)
    blocked = any(action == Action.BLOCK for _, action, _, _ in hits)
    return Trial(tuple(hits), None if blocked else screened)


def _apply(side: Side, text: str, replace: Any) -> str:
    return replace_all(side.scanner, text, replace) if side.is_on else text


def digest_of(document: Mapping[str, Any]) -> str:
    """Equal exactly when the documents are."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _find_policy(session: Session, caller: Caller, project: ProjectRow) -> PolicyRow | None:
    return session.scalar(scoped(select(PolicyRow), caller).where(PolicyRow.project_id == project.id))

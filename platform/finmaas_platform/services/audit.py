"""Writes audit events. A change and its event share a transaction; chaining by hash comes with the sealer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from finmaas_core.ids import new_id
from finmaas_platform.db.audit_events import AuditEventRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.principals import Caller, CallerKind, Role

SYSTEM = Caller(CallerKind.NODE, "system", "control plane")


def record_audit(
    session: Session,
    caller: Caller,
    now: datetime,
    action: str,
    target: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    *,
    tenant_id: str | None = None,
) -> None:
    """Adds the event to the session; `before` and `after` are JSON and hold no secret.

    `action` reads like "job.create", `target` is the object's id. `tenant_id` is the tenant of the changed object;
    without it the caller's own.
    """
    session.add(
        AuditEventRow(
            id=new_id("audit_event"),
            at=now,
            tenant_id=tenant_id or caller.tenant_id,
            caller_kind=caller.kind.value,
            caller_id=caller.id,
            caller_name=caller.name,
            action=action,
            target=target,
            before=None if before is None else dict(before),
            after=None if after is None else dict(after),
            request_id=structlog.contextvars.get_contextvars().get("request_id"),
        )
    )


def select_audit_events(caller: Caller, target: str | None = None, action: str | None = None) -> Select[AuditEventRow]:
    """The events of the caller's tenant, for its admins and auditors."""
    caller.require(Role.TENANT_ADMIN, Role.AUDITOR)
    query = scoped(select(AuditEventRow), caller)
    query = query if target is None else query.where(AuditEventRow.target == target)
    return query if action is None else query.where(AuditEventRow.action == action)

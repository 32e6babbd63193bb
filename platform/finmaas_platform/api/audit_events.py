"""Routes of audit events: reading only; events are written by the changes they tell of."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from finmaas_platform.api.dependencies import CallerDep, SessionDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.db.audit_events import AuditEventRow
from finmaas_platform.services.audit import select_audit_events

router = APIRouter(prefix="/audit-events", tags=["audit"])


class AuditEventView(BaseModel):
    """Who did what to which, before and after."""

    id: str
    at: datetime
    tenant_id: str | None
    caller_kind: str
    caller_id: str
    caller_name: str
    action: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str | None


def show_audit_event(row: AuditEventRow) -> AuditEventView:
    """The row as the API shows it."""
    return AuditEventView.model_validate(row, from_attributes=True)


@router.get("", summary="List audit events")
def list_audit_events(
    caller: CallerDep,
    session: SessionDep,
    target: Annotated[str | None, Query(description="Only about this object, by id.")] = None,
    action: Annotated[str | None, Query(description="Only this action, e.g. `job.create`.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[AuditEventView]:
    """Newest first; for admins and auditors, of their own tenant."""
    query = select_audit_events(caller, target, action)
    return paginate(session, query, AuditEventRow.id, limit, cursor).view(show_audit_event)

"""Routes of batches for people: what runs in a tenant, and ending it. Their requests and answers stay with the keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.db.batches import BatchRow
from finmaas_platform.domain.principals import Role
from finmaas_platform.services import batches

router = APIRouter(prefix="/batches", tags=["batches"])


class BatchView(BaseModel):
    """A batch of requests, made by an API key through a gateway."""

    id: str
    project: str
    key_id: str
    endpoint: str
    state: str
    total: int
    done: int
    failed: int
    faults: list[Any]
    created_at: datetime
    expires_at: datetime
    settled_at: datetime | None


def show_batch(row: BatchRow) -> BatchView:
    """The row as the API shows it."""
    return BatchView(
        id=row.id,
        project=row.project.ref,
        key_id=row.key_id,
        endpoint=row.endpoint,
        state=row.state,
        total=row.total,
        done=row.done,
        failed=row.failed,
        faults=row.faults,
        created_at=row.created_at,
        expires_at=row.expires_at,
        settled_at=row.settled_at,
    )


@router.get("", summary="List batches")
def list_batches(
    caller: CallerDep,
    session: SessionDep,
    project: Annotated[str | None, Query(description="Only those of this project.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[BatchView]:
    """Those of the caller's tenant."""
    query = batches.select_tenant_batches(session, caller, project)
    return paginate(session, query, BatchRow.id, limit, cursor).view(show_batch)


@router.get("/{batch_id}", summary="Show a batch")
def get_batch(batch_id: str, caller: CallerDep, session: SessionDep) -> BatchView:
    """Its state and counts."""
    return show_batch(batches.get_tenant_batch(session, caller, batch_id))


@router.post("/{batch_id}/cancel", summary="Cancel a batch")
def cancel_batch(batch_id: str, caller: CallerDep, session: SessionDep, deps: DepsDep) -> BatchView:
    """For admins and developers; what was answered before stays in its output file. Safe to repeat."""
    row = batches.get_tenant_batch(session, caller, batch_id)
    caller.require(Role.TENANT_ADMIN, Role.APP_DEVELOPER)
    return show_batch(batches.cancel_batch(session, caller, deps.clock.now(), row))

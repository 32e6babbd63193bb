"""Routes of usage: what requests through the gateway used."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from finmaas_platform.api.dependencies import CallerDep, SessionDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.db.usage_records import UsageRecordRow
from finmaas_platform.services.usage import select_usage, sum_usage

router = APIRouter(prefix="/usage", tags=["usage"])

ProjectParam = Annotated[str | None, Query(description="Only of this project, `tenant/project`.")]


class UsageRecordView(BaseModel):
    """What one request used; times in milliseconds."""

    id: str
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
    finish: str
    counted_by: str


class UsageTotalView(BaseModel):
    """Sums over the requests to one endpoint."""

    endpoint_id: str
    endpoint: str | None
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class UsageSummary(BaseModel):
    """Totals, one an endpoint."""

    items: list[UsageTotalView]


def show_usage_record(row: UsageRecordRow) -> UsageRecordView:
    """The row as the API shows it."""
    return UsageRecordView.model_validate(row, from_attributes=True)


@router.get("", summary="List usage records")
def list_usage(
    caller: CallerDep,
    session: SessionDep,
    project: ProjectParam = None,
    endpoint: Annotated[str | None, Query(description="Only of this endpoint, by id or full name.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[UsageRecordView]:
    """One record a request, newest first, of the caller's tenant."""
    query = select_usage(session, caller, project, endpoint)
    return paginate(session, query, UsageRecordRow.id, limit, cursor).view(show_usage_record)


@router.get("/summary", summary="Totals by endpoint")
def get_usage_summary(caller: CallerDep, session: SessionDep, project: ProjectParam = None) -> UsageSummary:
    """Requests and tokens since the beginning, of the caller's tenant or one of its projects."""
    totals = sum_usage(session, caller, project)
    return UsageSummary(items=[UsageTotalView.model_validate(total, from_attributes=True) for total in totals])

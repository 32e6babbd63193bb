"""Routes of usage: what requests through the gateway used."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from finmaas_platform.api.dependencies import CallerDep, SessionDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.db.usage_records import UsageRecordRow
from finmaas_platform.services.usage import select_usage, sum_usage
from finmaas_platform.services.usage_export import ExportSpec, Group, sum_lines, write_csv

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
    reasoning_tokens: int
    cost_nano: int | None
    currency: str | None
    cost_centre: str
    target_id: str | None
    failed_target_id: str | None
    traffic: str
    attempts: int


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


class UsageLineView(BaseModel):
    """Sums over one group; costs are nano-units of `currency`, null where nothing had a price."""

    group: dict[str, str]
    currency: str | None
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_nano: int | None
    cost: str | None


class UsageExport(BaseModel):
    """Lines of an export."""

    lines: list[UsageLineView]


GroupParam = Annotated[
    list[Group], Query(description="What to sum by; may be given several times.", min_length=1, max_length=6)
]
SinceParam = Annotated[date, Query(description="First day, in the tenant's time zone.")]
UntilParam = Annotated[date, Query(description="Last day, included.")]


@router.get(
    "/export",
    response_model=UsageExport,
    responses={200: {"content": {"text/csv": {}}}},
    summary="Usage and cost by key, project, tenant, model, cost centre, day",
)
def export_usage(
    caller: CallerDep,
    session: SessionDep,
    since: SinceParam,
    until: UntilParam,
    by: GroupParam,
    tenant: Annotated[str | None, Query(description="Only of this tenant.")] = None,
    project: ProjectParam = None,
    as_csv: Annotated[bool, Query(alias="csv", description="CSV instead of JSON.")] = False,
) -> UsageExport | Response:
    """Of the caller's tenant; platform-wide callers of all, each day in its own tenant's time zone."""
    lines = sum_lines(session, caller, ExportSpec(since, until, tuple(dict.fromkeys(by)), tenant, project))
    if as_csv:
        name = f'attachment; filename="usage-{since}-{until}.csv"'
        return Response(write_csv(lines, by), media_type="text/csv", headers={"content-disposition": name})
    return UsageExport(lines=[UsageLineView(**line) for line in lines])


@router.get("/summary", summary="Totals by endpoint")
def get_usage_summary(caller: CallerDep, session: SessionDep, project: ProjectParam = None) -> UsageSummary:
    """Requests and tokens since the beginning, of the caller's tenant or one of its projects."""
    totals = sum_usage(session, caller, project)
    return UsageSummary(items=[UsageTotalView.model_validate(total, from_attributes=True) for total in totals])

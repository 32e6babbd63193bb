"""Routes of tenants."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy import select
from starlette.responses import JSONResponse

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.etag import IfMatchDep, check_version, set_etag
from finmaas_platform.api.idempotency import OnceDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.names import Name
from finmaas_platform.domain.tenants import TenantState
from finmaas_platform.services import tenants

router = APIRouter(prefix="/tenants", tags=["tenants"])


class TenantCreate(RequestBody):
    """A tenant to make."""

    name: Name = Field(examples=["retail-risk"])
    display_name: str = Field("", max_length=200, examples=["Retail risk"])


class TenantChange(RequestBody):
    """What to change; fields left out stay."""

    state: TenantState | None = None
    display_name: str | None = Field(None, min_length=1, max_length=200)
    time_zone: str | None = Field(None, max_length=64, examples=["Asia/Shanghai"])
    fiscal_day: int | None = Field(None, ge=1, le=28, description="The day on which its months begin.")
    currency: str | None = Field(None, examples=["CNY"])
    cost_centre: str | None = Field(None, max_length=100)

    def settings(self) -> dict[str, Any]:
        """What is given of time and money."""
        names = {"time_zone", "fiscal_day", "currency", "cost_centre"}
        return self.model_dump(include=names, exclude_none=True)


class TenantView(BaseModel):
    """A business unit: owner of quota and cost."""

    id: str
    name: str
    display_name: str
    state: TenantState
    created_at: datetime
    version: int
    time_zone: str
    fiscal_day: int
    currency: str
    cost_centre: str


def show_tenant(row: TenantRow) -> TenantView:
    """The row as the API shows it."""
    return TenantView(
        id=row.id,
        name=row.name,
        display_name=row.display_name,
        state=TenantState(row.state),
        created_at=row.created_at,
        version=row.version,
        time_zone=row.time_zone,
        fiscal_day=row.fiscal_day,
        currency=row.currency,
        cost_centre=row.cost_centre,
    )


@router.get("", summary="List tenants")
def list_tenants(
    caller: CallerDep, session: SessionDep, limit: LimitParam = DEFAULT_LIMIT, cursor: CursorParam = None
) -> Page[TenantView]:
    """A principal sees its own tenant; platform-wide principals see all."""
    return paginate(session, scoped(select(TenantRow), caller), TenantRow.id, limit, cursor).view(show_tenant)


@router.post("", status_code=201, response_model=TenantView, summary="Make a tenant")
def create_tenant(
    body: TenantCreate, caller: CallerDep, session: SessionDep, deps: DepsDep, once: OnceDep, response: Response
) -> TenantView | JSONResponse:
    """For platform-admins."""

    def make() -> TenantView:
        row = tenants.create_tenant(session, caller, deps.clock.now(), body.name, body.display_name)
        set_etag(response, row.version)
        return show_tenant(row)

    return once.run(session, make)


@router.get("/{tenant}", summary="Show a tenant")
def get_tenant(tenant: str, caller: CallerDep, session: SessionDep, response: Response) -> TenantView:
    """By name or id."""
    row = tenants.get_tenant(session, caller, tenant)
    set_etag(response, row.version)
    return show_tenant(row)


@router.patch("/{tenant}", summary="Freeze, close, rename or set up a tenant")
def update_tenant(
    tenant: str,
    body: TenantChange,
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
    if_match: IfMatchDep,
    response: Response,
) -> TenantView:
    """For platform-admins. A frozen tenant's API keys stop working, and its principals can read but change nothing."""
    row = tenants.get_tenant(session, caller, tenant)
    check_version(row.version, if_match)
    now, settings = deps.clock.now(), body.settings()
    tenants.update_tenant(
        session, caller, now, row, state=body.state, display_name=body.display_name, settings=settings
    )
    set_etag(response, row.version)
    return show_tenant(row)

"""Routes of principals."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.etag import IfMatchDep, check_version, set_etag
from finmaas_platform.api.idempotency import OnceDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.principals import PrincipalRow
from finmaas_platform.domain.names import Name
from finmaas_platform.domain.principals import PrincipalKind, Role
from finmaas_platform.services import principals

router = APIRouter(prefix="/principals", tags=["principals"])


class PrincipalCreate(RequestBody):
    """A principal to make; without a tenant it is platform-wide."""

    name: Name = Field(examples=["li.wei"])
    role: Role
    tenant: Name | None = None
    kind: PrincipalKind = PrincipalKind.USER


class PrincipalChange(RequestBody):
    """What to change; fields left out stay."""

    role: Role | None = None
    disabled: bool | None = None
    issuer: str | None = Field(None, max_length=500, description="Left out: the provider of this installation.")
    subject: str | None = Field(None, max_length=255, description="Who they are to the provider; empty: nobody.")


class PrincipalView(BaseModel):
    """A user or service account; `tenant` is null for a platform-wide one."""

    id: str
    name: str
    kind: PrincipalKind
    role: Role
    tenant: str | None
    disabled: bool
    issuer: str | None
    subject: str | None
    created_at: datetime
    version: int


def show_principal(row: PrincipalRow) -> PrincipalView:
    """The row as the API shows it."""
    return PrincipalView(
        id=row.id,
        name=row.name,
        kind=PrincipalKind(row.kind),
        role=Role(row.role),
        tenant=None if row.tenant is None else row.tenant.name,
        disabled=row.disabled,
        issuer=row.issuer,
        subject=row.subject,
        created_at=row.created_at,
        version=row.version,
    )


@router.get("", summary="List principals")
def list_principals(
    caller: CallerDep, session: SessionDep, limit: LimitParam = DEFAULT_LIMIT, cursor: CursorParam = None
) -> Page[PrincipalView]:
    """Admins and auditors see those of their tenant, everybody else sees itself."""
    query = principals.select_principals(caller)
    return paginate(session, query, PrincipalRow.id, limit, cursor).view(show_principal)


@router.post("", status_code=201, response_model=PrincipalView, summary="Make a principal")
def create_principal(
    body: PrincipalCreate, caller: CallerDep, session: SessionDep, deps: DepsDep, once: OnceDep, response: Response
) -> PrincipalView | JSONResponse:
    """For admins of the tenant; nobody gives a role above their own."""

    def make() -> PrincipalView:
        now = deps.clock.now()
        row = principals.create_principal(session, caller, now, body.name, body.role, body.tenant, body.kind)
        set_etag(response, row.version)
        return show_principal(row)

    return once.run(session, make)


@router.get("/{principal_id}", summary="Show a principal")
def get_principal(principal_id: str, caller: CallerDep, session: SessionDep, response: Response) -> PrincipalView:
    """By id."""
    row = principals.get_principal(session, caller, principal_id)
    set_etag(response, row.version)
    return show_principal(row)


@router.patch("/{principal_id}", summary="Change a role, disable or enable")
def update_principal(
    principal_id: str,
    body: PrincipalChange,
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
    if_match: IfMatchDep,
    response: Response,
) -> PrincipalView:
    """For admins of the tenant. The tokens of a disabled principal stop working at once."""
    row = principals.get_principal(session, caller, principal_id)
    check_version(row.version, if_match)
    identity = None
    if body.subject is not None:
        issuer = body.issuer or deps.settings.oidc_issuer if body.subject else ""
        identity = (issuer, body.subject)
    principals.update_principal(
        session, caller, deps.clock.now(), row, role=body.role, disabled=body.disabled, identity=identity
    )
    set_etag(response, row.version)
    return show_principal(row)

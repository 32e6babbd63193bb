"""Routes of outside providers, and of the approvals that open them to projects."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field, SecretStr

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.providers import ProviderRow
from finmaas_platform.domain.names import Name
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services import providers
from finmaas_platform.services.projects import get_project

router = APIRouter(prefix="/providers", tags=["providers"])


class ProviderCreate(RequestBody):
    """A provider to make. The secret is sealed at once and never shown again."""

    name: Name = Field(examples=["partner-cloud"])
    base_url: str = Field(max_length=500, examples=["https://llm.example.com/v1"])
    secret: SecretStr = Field(min_length=1, max_length=4000)


class ApprovalCreate(RequestBody):
    """The project to open a provider to."""

    project: str = Field(examples=["retail/service"])


class ApprovalView(BaseModel):
    """A project whose requests may go to the provider, masked."""

    project: str
    approved_at: datetime
    approved_by: str


class ProviderView(BaseModel):
    """An OpenAI-compatible service outside; `approvals` are those in the caller's sight."""

    id: str
    name: str
    base_url: str
    created_at: datetime
    created_by: str
    approvals: list[ApprovalView]


def show_provider(session: SessionDep, caller: Caller, row: ProviderRow) -> ProviderView:
    """The row as the API shows it, without its secret."""
    approvals = [
        ApprovalView(project=one.project.ref, approved_at=one.approved_at, approved_by=one.approved_by)
        for one in providers.find_approvals(session, caller, row)
    ]
    return ProviderView(
        id=row.id,
        name=row.name,
        base_url=row.base_url,
        created_at=row.created_at,
        created_by=row.created_by,
        approvals=approvals,
    )


@router.get("", summary="List outside providers")
def list_providers(
    caller: CallerDep, session: SessionDep, limit: LimitParam = DEFAULT_LIMIT, cursor: CursorParam = None
) -> Page[ProviderView]:
    """With the projects that are approved for them."""
    found = paginate(session, providers.select_providers(), ProviderRow.id, limit, cursor)
    return found.view(lambda row: show_provider(session, caller, row))


@router.post("", status_code=201, summary="Make an outside provider known")
def create_provider(body: ProviderCreate, caller: CallerDep, session: SessionDep, deps: DepsDep) -> ProviderView:
    """For platform-admins. No project may use it yet."""
    secret = body.secret.get_secret_value()
    row = providers.create_provider(
        session, caller, deps.clock.now(), deps.secrets.pepper, body.name, body.base_url, secret
    )
    return show_provider(session, caller, row)


@router.get("/{name}", summary="Show an outside provider")
def get_provider(name: str, caller: CallerDep, session: SessionDep) -> ProviderView:
    """Never its secret."""
    return show_provider(session, caller, providers.get_provider(session, name))


@router.delete("/{name}", status_code=204, summary="Forget an outside provider")
def delete_provider(name: str, caller: CallerDep, session: SessionDep, deps: DepsDep) -> None:
    """For platform-admins. Its secret is gone, and with it all approvals."""
    providers.delete_provider(session, caller, deps.clock.now(), providers.get_provider(session, name))


@router.post("/{name}/approvals", status_code=201, summary="Let a project use a provider")
def approve(name: str, body: ApprovalCreate, caller: CallerDep, session: SessionDep, deps: DepsDep) -> ProviderView:
    """For platform-admins and approvers: what leaves the house is masked, whatever the project's own policy says."""
    row = providers.get_provider(session, name)
    providers.approve_provider(session, caller, deps.clock.now(), row, get_project(session, caller, body.project))
    session.flush()
    return show_provider(session, caller, row)


@router.delete("/{name}/approvals/{tenant}/{project}", status_code=204, summary="Take an approval back")
def withdraw(name: str, tenant: str, project: str, caller: CallerDep, session: SessionDep, deps: DepsDep) -> None:
    """Gateways stop sending the project's requests there within a second."""
    row = providers.get_provider(session, name)
    providers.withdraw_approval(
        session, caller, deps.clock.now(), row, get_project(session, caller, f"{tenant}/{project}")
    )

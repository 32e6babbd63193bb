"""Whether the control plane answers, and who asks."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from finmaas_platform.api.dependencies import AnyCallerDep, SessionDep
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.principals import CallerKind, Role
from finmaas_platform.services.snapshots import find_snapshot_number

router = APIRouter(tags=["platform"])


class Health(BaseModel):
    """The database answers, so the control plane does."""

    status: Literal["ok"] = "ok"


class Whoami(BaseModel):
    """The caller as the control plane sees it."""

    id: str
    name: str
    kind: CallerKind
    role: Role | None
    tenant_id: str | None
    tenant: str | None = Field(description="The tenant's name; null for platform-wide principals.")


@router.get("/health", summary="Is the control plane up?")
def get_health(session: SessionDep) -> Health:
    """Answers 200 once the database can be read; needs no token."""
    find_snapshot_number(session)
    return Health()


@router.get("/whoami", summary="Who am I?")
def get_whoami(caller: AnyCallerDep, session: SessionDep) -> Whoami:
    """The principal, job, node or gateway behind the token."""
    tenant = None if caller.tenant_id is None else session.get_one(TenantRow, caller.tenant_id).name  # unscoped: own
    return Whoami(
        id=caller.id, name=caller.name, kind=caller.kind, role=caller.role, tenant_id=caller.tenant_id, tenant=tenant
    )

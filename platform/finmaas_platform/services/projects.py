"""Projects: finding and making them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from finmaas_core.errors import NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.base import insert_unique
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.names import check_name, split_project_ref
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.snapshots import bump_snapshot
from finmaas_platform.services.tenants import get_tenant


def get_project(session: Session, caller: Caller, ref: str) -> ProjectRow:
    """The project `tenant/project`; NotFound when it does not exist or belongs to another tenant."""
    tenant, project = split_project_ref(ref)
    query = scoped(select(ProjectRow), caller).join(TenantRow, ProjectRow.tenant_id == TenantRow.id)
    found = session.scalar(query.where(TenantRow.name == tenant, ProjectRow.name == project))
    if found is None:
        raise NotFound(f"there is no project {ref}; `finmaas project list` shows yours")
    return found


def select_projects(session: Session, caller: Caller, tenant: str | None = None) -> Select[ProjectRow]:
    """The projects in the caller's sight, of one tenant if named."""
    query = scoped(select(ProjectRow), caller)
    return query if tenant is None else query.where(ProjectRow.tenant_id == get_tenant(session, caller, tenant).id)


def update_project(session: Session, caller: Caller, now: datetime, row: ProjectRow, cost_centre: str) -> None:
    """Sets the cost centre that usage is booked to from now on; its tenant's admins only."""
    caller.require(Role.TENANT_ADMIN)
    before = {"cost_centre": row.cost_centre}
    row.cost_centre = cost_centre
    if before["cost_centre"] != cost_centre:
        session.flush()
        after = {"cost_centre": cost_centre}
        record_audit(session, caller, now, "project.update", row.id, before, after, tenant_id=row.tenant_id)


def create_project(
    session: Session, caller: Caller, now: datetime, tenant: str, name: str, display_name: str
) -> ProjectRow:
    """A new project of a tenant. AlreadyExists when the tenant has one of that name; its admins only."""
    caller.require(Role.TENANT_ADMIN)
    owner = get_tenant(session, caller, tenant)
    row = ProjectRow(
        id=new_id("project"),
        tenant=owner,
        tenant_id=owner.id,
        name=check_name(name, "project name"),
        display_name=display_name or name,
        created_at=now,
    )
    insert_unique(session, row, f"the project {owner.name}/{name} exists already; choose another name")
    bump_snapshot(session)  # people who log in may act for it
    after = {"ref": row.ref, "display_name": row.display_name}
    record_audit(session, caller, now, "project.create", row.id, after=after, tenant_id=owner.id)
    return row

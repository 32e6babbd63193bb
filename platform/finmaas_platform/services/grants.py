"""Grants: a project may call another project's endpoint. Access only; what it may spend is another matter."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidInput, NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.base import insert_unique
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.grants import GrantRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.endpoints import EndpointState
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.projects import get_project
from finmaas_platform.services.snapshots import bump_snapshot


def select_grants(session: Session, caller: Caller, project: str | None = None) -> Select[GrantRow]:
    """The grants that the caller's tenant gave or got; `project` narrows them to those one project got."""
    query = select(GrantRow)  # unscoped: a grant has two sides, and both tenants may see it
    if not caller.is_platform_wide:
        own_projects = scoped(select(ProjectRow.id), caller)
        query = query.where(or_(GrantRow.tenant_id == caller.tenant_id, GrantRow.project_id.in_(own_projects)))
    return query if project is None else query.where(GrantRow.project_id == get_project(session, caller, project).id)


def create_grant(session: Session, caller: Caller, now: datetime, endpoint: str, project: str) -> GrantRow:
    """Lets a project call an endpoint of another project. InvalidInput for an endpoint of its own.

    A tenant-admin grants inside the own tenant; over the border of two tenants only a platform-admin, who sees both.
    """
    caller.require(Role.TENANT_ADMIN)
    target = _get_live_endpoint(session, caller, endpoint)
    taker = get_project(session, caller, project)
    if taker.id == target.project_id:
        raise InvalidInput(f"{endpoint} belongs to {project}, which may call it anyway; no grant is needed")
    row = GrantRow(
        id=new_id("grant"),
        tenant_id=target.tenant_id,
        endpoint_id=target.id,
        endpoint=target.full_name,
        project=taker,
        project_id=taker.id,
        created_at=now,
        created_by=caller.id,
        revoked_at=None,
    )
    insert_unique(session, row, f"{project} may call {endpoint} already")
    bump_snapshot(session)
    after = {"endpoint": row.endpoint, "project": taker.ref}
    record_audit(session, caller, now, "grant.create", row.id, after=after, tenant_id=row.tenant_id)
    return row


def revoke_grant(session: Session, caller: Caller, now: datetime, grant_id: str) -> GrantRow:
    """Takes a grant back, by the side that gave it; again: nothing changes. NotFound for others' grants."""
    row = session.scalar(scoped(select(GrantRow), caller).where(GrantRow.id == grant_id))
    if row is None:
        raise NotFound(f"you gave no grant {grant_id}; `finmaas grant list` shows those of your tenant")
    caller.require(Role.TENANT_ADMIN)
    if row.revoked_at is None:
        row.revoked_at = now
        bump_snapshot(session)
        record_audit(session, caller, now, "grant.revoke", row.id, tenant_id=row.tenant_id)
    return row


def _get_live_endpoint(session: Session, caller: Caller, ref: str) -> EndpointRow:
    project, _, name = ref.rpartition("/")
    owner = get_project(session, caller, project)
    found = session.scalar(
        scoped(select(EndpointRow), caller).where(
            EndpointRow.project_id == owner.id, EndpointRow.name == name, EndpointRow.state != EndpointState.STOPPED
        )
    )
    if found is None:
        raise NotFound(f"there is no endpoint {ref}; `finmaas endpoint list` shows yours")
    return found

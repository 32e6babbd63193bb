"""Projects: finding and making them."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_core.errors import NotFound
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.names import split_project_ref
from finmaas_platform.domain.principals import Caller


def get_project(session: Session, caller: Caller, ref: str) -> ProjectRow:
    """The project `tenant/project`; NotFound when it does not exist or belongs to another tenant."""
    tenant, project = split_project_ref(ref)
    query = scoped(select(ProjectRow), caller).join(TenantRow, ProjectRow.tenant_id == TenantRow.id)
    found = session.scalar(query.where(TenantRow.name == tenant, ProjectRow.name == project))
    if found is None:
        raise NotFound(f"there is no project {ref}; `finmaas project list` shows yours")
    return found

"""Endpoints: asking for one, changing it, stopping it. What the cluster makes of it is the reconciler's part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidSpec, NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.base import insert_unique
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.leases import wake_after_commit
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.endpoints import EndpointState
from finmaas_platform.domain.model_versions import VersionState, check_servable
from finmaas_platform.domain.names import check_name
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.models import lock_version, resolve_model_version
from finmaas_platform.services.projects import get_project
from finmaas_platform.services.snapshots import bump_snapshot

MAKERS = (Role.TENANT_ADMIN, Role.ML_ENGINEER)


@dataclass(frozen=True)
class EndpointChange:
    """What to change; None leaves it as it is."""

    model: str | None = None
    replicas: int | None = None
    engine: Mapping[str, Any] | None = None
    production: bool | None = None


def create_endpoint(
    session: Session,
    caller: Caller,
    now: datetime,
    project_ref: str,
    name: str,
    model: str,
    replicas: int,
    engine: Mapping[str, Any],
    production: bool = False,
) -> EndpointRow:
    """A new endpoint, to be served as soon as the cluster can; AlreadyExists while a live one bears the name."""
    caller.require(*MAKERS)
    _check_engine(caller, engine)
    project = get_project(session, caller, project_ref)
    version = _resolve(session, caller, project, model, production)
    row = EndpointRow(
        id=new_id("endpoint"),
        tenant_id=project.tenant_id,
        project=project,
        project_id=project.id,
        name=check_name(name, "endpoint name"),
        model_version_id=version.id,
        model_ref=version.ref,
        replicas=replicas,
        engine=dict(engine),
        production=production,
        state=EndpointState.PENDING.value,
        reason="waits for the cluster",
        ready_replicas=0,
        created_at=now,
        created_by=caller.name,
        version=1,
    )
    insert_unique(
        session, row, f"{project.ref} has an endpoint {name} already; change it with PATCH, or give another name"
    )
    _note(session, caller, now, "endpoint.create", row, None)
    return row


def select_endpoints(
    session: Session, caller: Caller, project: str | None = None, stopped: bool = False
) -> Select[EndpointRow]:
    """The endpoints in the caller's sight, of one project if named; the stopped ones only if asked for."""
    query = scoped(select(EndpointRow), caller)
    if project is not None:
        query = query.where(EndpointRow.project_id == get_project(session, caller, project).id)
    return query if stopped else query.where(EndpointRow.state != EndpointState.STOPPED)


def get_endpoint(session: Session, caller: Caller, project_ref: str, name: str) -> EndpointRow:
    """The endpoint that bears a name now, else the one that bore it last; NotFound."""
    project = get_project(session, caller, project_ref)
    query = scoped(select(EndpointRow), caller).where(EndpointRow.project_id == project.id, EndpointRow.name == name)
    # Ids sort by time, and only the newest of a name can be live.
    row = session.scalars(query.order_by(EndpointRow.id.desc())).first()
    if row is None:
        raise NotFound(f"there is no endpoint {name} in {project_ref}; `finmaas endpoint list` shows yours")
    return row


def get_live_endpoint(session: Session, caller: Caller, project_ref: str, name: str) -> EndpointRow:
    """The endpoint that bears a name now, locked; NotFound when it was stopped."""
    caller.require(*MAKERS)
    row = get_endpoint(session, caller, project_ref, name)
    session.refresh(row, with_for_update={"of": EndpointRow})
    if row.state == EndpointState.STOPPED:
        raise NotFound(f"the endpoint {project_ref}/{name} is stopped; deploy it again under the same name")
    return row


def update_endpoint(
    session: Session, caller: Caller, now: datetime, row: EndpointRow, change: EndpointChange
) -> EndpointRow:
    """Changes model, replicas or engine settings; the cluster rolls it out while the old replicas serve on."""
    before = _describe(row)
    if change.production is not None:
        row.production = change.production
    if change.model is not None or change.production:
        version = _resolve(session, caller, row.project, change.model or row.model_ref, row.production)
        row.model_version_id, row.model_ref = version.id, version.ref
    if change.replicas is not None:
        row.replicas = change.replicas
    if change.engine is not None:
        _check_engine(caller, change.engine)
        row.engine = dict(change.engine)
    if _describe(row) == before:
        return row
    if row.state != EndpointState.PENDING:
        row.state = EndpointState.STARTING.value
    row.reason = "a change is being rolled out"
    row.version += 1
    _note(session, caller, now, "endpoint.update", row, before)
    return row


def stop_endpoint(session: Session, caller: Caller, now: datetime, row: EndpointRow) -> EndpointRow:
    """Ends an endpoint: the gateways stop routing to it, the cluster takes it down, and the name is free again."""
    before = _describe(row) | {"state": row.state}
    row.state = EndpointState.STOPPED.value
    row.reason = f"stopped by {caller.name}"
    row.ready_replicas = 0
    row.stopped_at = now
    row.version += 1
    _note(session, caller, now, "endpoint.stop", row, before)
    return row


def _resolve(session: Session, caller: Caller, project: ProjectRow, ref: str, production: bool) -> ModelVersionRow:
    """A model version that this project may serve: any of its tenant, with full weights, in a state that allows it.

    It is locked, so that it cannot be retired between this look and the endpoint's row.
    """
    version = resolve_model_version(session, caller, project, ref)
    if version.tenant_id != project.tenant_id:  # a platform-admin sees every tenant
        raise NotFound(f"there is no model {ref} in the tenant of {project.ref}")
    if version.kind == "adapter":
        raise InvalidSpec(f"{version.ref} is an {version.kind}; give a model version with full weights")
    lock_version(session, version)
    check_servable(version.ref, VersionState(version.state), production)
    return version


def _check_engine(caller: Caller, engine: Mapping[str, Any]) -> None:
    """Arguments that go to vLLM as they are can make it run a model's own code: an admin's choice."""
    if engine.get("vllm"):
        caller.require(Role.PLATFORM_ADMIN)


def _note(
    session: Session, caller: Caller, now: datetime, action: str, row: EndpointRow, before: dict[str, Any] | None
) -> None:
    """Tells gateways, audit and reconciler of a change."""
    bump_snapshot(session)
    wake_after_commit(session, "endpoints")
    after = _describe(row) | {"state": row.state}
    record_audit(session, caller, now, action, row.id, before, after, tenant_id=row.tenant_id)


def _describe(row: EndpointRow) -> dict[str, Any]:
    return {
        "endpoint": row.full_name,
        "model_version": row.model_ref,
        "replicas": row.replicas,
        "engine": dict(row.engine),
        "production": row.production,
    }

"""Models: registering immutable versions with their lineage, and finding them by reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidInput, NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.approvals import ModelAliasRow
from finmaas_platform.db.models import ModelParentRow, ModelRow, ModelVersionRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.model_versions import VersionState
from finmaas_platform.domain.names import check_name
from finmaas_platform.domain.principals import Caller, CallerKind
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.blobs import check_files_are_put, hold_blobs, index_version
from finmaas_platform.services.model_checks import CheckedModel
from finmaas_platform.services.projects import get_project
from finmaas_platform.services.versions import (
    MAX_KNOWN,
    lock_project,
    parse_version_ref,
    unknown_name,
    unknown_number,
)
from finmaas_registry.manifest import Manifest
from finmaas_registry.store import Stored


@dataclass(frozen=True)
class Author:
    """Who stands behind a new version: a principal, and the others who may hold the token that it was made with."""

    id: str | None
    token_holders: tuple[str, ...] = ()


def register_model_version(
    session: Session,
    caller: Caller,
    now: datetime,
    project: ProjectRow,
    name: str,
    checked: CheckedModel,
    base_version_id: str | None = None,
    job_id: str | None = None,
    dataset_version_id: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    description: str = "",
    author: Author | None = None,
    co_authors: Sequence[Mapping[str, Any]] = (),
    materials: Mapping[str, Any] | None = None,
    parents: Sequence[ModelVersionRow] = (),
) -> ModelVersionRow:
    """A new version in the session's transaction, of files that `check_model` looked at before it.

    Idempotent: a job registers once, and without a job the same files (and base) are the same version. Raises
    InvalidInput for files that are not there any more.
    """
    check_name(name, "model name")
    kind, manifest = checked.kind, checked.manifest
    author = author or Author(caller.id, tuple(sorted(caller.token_holders)))
    _check_parents(project, kind, parents)
    if kind == "adapter" and base_version_id is None:
        raise InvalidInput("an adapter needs the model version it was trained on; give `base`, e.g. qwen3@1")
    lock_project(session, project)
    if existing := _find_registered(session, caller, project, name, manifest, kind, base_version_id, job_id):
        return existing
    check_files_are_put(session, caller, manifest.files)
    model = _find_model(session, caller, project, name) or _add_model(session, caller, now, project, name)
    model.latest_version += 1
    row = ModelVersionRow(
        id=new_id("model_version"),
        tenant_id=project.tenant_id,
        project_id=project.id,
        model=model,
        number=model.latest_version,
        kind=kind,
        description=description,
        files=[file.as_json() for file in manifest.files],
        size_bytes=manifest.size_bytes,
        digest=manifest.digest,
        metrics=dict(metrics or {}),
        state=VersionState.CANDIDATE.value,
        revision=1,
        author_id=author.id,
        author_token_holders=list(author.token_holders),
        co_authors=[dict(one) for one in co_authors if one["id"] != author.id],
        materials=dict(materials or {}),
        job_id=job_id,
        dataset_version_id=dataset_version_id,
        base_version_id=base_version_id,
        created_at=now,
        created_by=caller.name,
    )
    session.add(row)
    session.flush()
    _note_blobs(session, now, row, manifest)
    for position, parent in enumerate(parents):
        session.add(ModelParentRow(version_id=row.id, parent_id=parent.id, tenant_id=row.tenant_id, position=position))
    after = {"ref": row.ref, "digest": row.digest, "job_id": job_id}
    record_audit(session, caller, now, "model_version.create", row.id, after=after, tenant_id=project.tenant_id)
    return row


def resolve_model_version(session: Session, caller: Caller, project: ProjectRow, ref: str) -> ModelVersionRow:
    """The version a reference names, from within a project; NotFound suggests near names."""
    parsed = parse_version_ref(ref, "model")
    owner = project if parsed.project is None else get_project(session, caller, parsed.project)
    model = get_model(session, caller, owner, parsed.name)
    if parsed.alias is not None:
        return find_alias(session, caller, model, parsed.alias).points_at
    return get_model_version(session, caller, model, parsed.number or model.latest_version)


def find_alias(session: Session, caller: Caller, model: ModelRow, name: str) -> ModelAliasRow:
    """The alias of a model; NotFound names those that it has."""
    known = {row.name: row for row in session.scalars(select_aliases(caller, model))}
    if name in known:
        return known[name]
    has = f"it has {', '.join(sorted(known))}" if known else "it has none"
    raise NotFound(f"model {model.name} has no alias {name}; {has}; `finmaas model alias set` makes one")


def select_aliases(caller: Caller, model: ModelRow) -> Select[ModelAliasRow]:
    """The aliases of a model."""
    return scoped(select(ModelAliasRow), caller).where(ModelAliasRow.model_id == model.id)


def lock_version(session: Session, row: ModelVersionRow) -> None:
    """Reads a version anew and keeps others from moving it until the transaction ends."""
    session.refresh(row, with_for_update={"of": ModelVersionRow})


def get_model(session: Session, caller: Caller, project: ProjectRow, name: str) -> ModelRow:
    """The model of a name; NotFound suggests near names."""
    if found := _find_model(session, caller, project, name):
        return found
    known = scoped(select(ModelRow.name), caller).where(ModelRow.project_id == project.id)
    newest = known.order_by(ModelRow.id.desc()).limit(MAX_KNOWN)
    raise unknown_name("model", name, project.ref, session.scalars(newest))


def get_model_version(session: Session, caller: Caller, model: ModelRow, number: int) -> ModelVersionRow:
    """One version of a model; NotFound names the newest."""
    query = scoped(select(ModelVersionRow), caller).where(
        ModelVersionRow.model_id == model.id, ModelVersionRow.number == number
    )
    if found := session.scalar(query):
        return found
    raise unknown_number("model", model.name, number, model.latest_version)


def get_served_version(session: Session, caller: Caller, version_id: str) -> ModelVersionRow:
    """A model version by id: nodes may read any, principals those in their sight. NotFound."""
    query = select(ModelVersionRow).where(ModelVersionRow.id == version_id)  # unscoped: nodes serve every tenant
    found = session.scalar(query if caller.kind is CallerKind.NODE else scoped(query, caller))
    if found is None:
        raise NotFound(f"there is no model version {version_id}")
    return found


@dataclass(frozen=True)
class Standing:
    """Where a model's newest version stands, and what its aliases point at, by number."""

    state: str | None = None
    aliases: dict[str, int] = field(default_factory=dict)


def find_standings(session: Session, caller: Caller, rows: Sequence[ModelRow]) -> dict[str, Standing]:
    """The standing of each of these models, in two queries."""
    ids = [row.id for row in rows]
    newest = select(ModelVersionRow.model_id, ModelVersionRow.state).join(  # unscoped: of models found in scope
        ModelRow, (ModelVersionRow.model_id == ModelRow.id) & (ModelVersionRow.number == ModelRow.latest_version)
    )
    states = {row.model_id: row.state for row in session.execute(newest.where(ModelRow.id.in_(ids)))}
    pointing = select(ModelAliasRow.model_id, ModelAliasRow.name, ModelVersionRow.number).join(  # unscoped: as above
        ModelVersionRow, ModelAliasRow.version_id == ModelVersionRow.id
    )
    aliases: dict[str, dict[str, int]] = {}
    for model_id, name, number in session.execute(pointing.where(ModelAliasRow.model_id.in_(ids)).order_by("name")):
        aliases.setdefault(model_id, {})[name] = number
    return {one: Standing(states.get(one), aliases.get(one, {})) for one in ids}


def find_latest_number(session: Session, caller: Caller, project: ProjectRow, name: str) -> int:
    """The number of the newest version of a model; 0 when there is no such model."""
    found = _find_model(session, caller, project, name)
    return found.latest_version if found else 0


def select_models(session: Session, caller: Caller, project: str | None) -> Select[ModelRow]:
    """The models in the caller's sight, of one project if it is named."""
    query = scoped(select(ModelRow), caller)
    return query if project is None else query.where(ModelRow.project_id == get_project(session, caller, project).id)


def select_versions(caller: Caller, model: ModelRow) -> Select[ModelVersionRow]:
    """The versions of a model."""
    return scoped(select(ModelVersionRow), caller).where(ModelVersionRow.model_id == model.id)


def _check_parents(project: ProjectRow, kind: str, parents: Sequence[ModelVersionRow]) -> None:
    for parent in parents:
        if parent.tenant_id != project.tenant_id:  # a platform-admin sees every tenant
            raise NotFound(f"there is no model {parent.ref} in the tenant of {project.ref}")
    if kind == "merged" and len({parent.id for parent in parents}) < 2:
        raise InvalidInput(
            "a merged version names at least two `parents` that it was merged from, e.g. faq@2, intents@3"
        )
    if kind != "merged" and parents:
        raise InvalidInput(f"only a merged version has `parents`, and this one is {kind}; leave them out")


def _find_registered(
    session: Session,
    caller: Caller,
    project: ProjectRow,
    name: str,
    manifest: Manifest,
    kind: str,
    base_version_id: str | None,
    job_id: str | None,
) -> ModelVersionRow | None:
    query = scoped(select(ModelVersionRow), caller).where(ModelVersionRow.project_id == project.id)
    if job_id is not None:
        return session.scalar(query.where(ModelVersionRow.job_id == job_id))
    query = query.join(ModelRow, ModelVersionRow.model_id == ModelRow.id).where(
        ModelRow.name == name,
        ModelVersionRow.digest == manifest.digest,
        ModelVersionRow.kind == kind,
        ModelVersionRow.base_version_id == base_version_id,
    )
    return session.scalars(query.order_by(ModelVersionRow.number.desc())).first()


def _find_model(session: Session, caller: Caller, project: ProjectRow, name: str) -> ModelRow | None:
    query = scoped(select(ModelRow), caller).where(ModelRow.project_id == project.id, ModelRow.name == name)
    return session.scalar(query)


def _add_model(session: Session, caller: Caller, now: datetime, project: ProjectRow, name: str) -> ModelRow:
    model = ModelRow(
        id=new_id("model"),
        tenant_id=project.tenant_id,
        project_id=project.id,
        project=project,
        name=name,
        latest_version=0,
        created_at=now,
        created_by=caller.name,
    )
    session.add(model)
    return model


def _note_blobs(session: Session, now: datetime, row: ModelVersionRow, manifest: Manifest) -> None:
    hold_blobs(session, now, row.tenant_id, [Stored(file.sha256, file.size) for file in manifest.files])
    index_version(session, row.tenant_id, "model", row.id, manifest.files)

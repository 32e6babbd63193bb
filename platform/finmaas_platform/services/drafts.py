"""Drafts: commits of Hub clients gather in one until it is released as a version, or discarded.

A draft is one row, changed in one transaction a commit, so it survives whatever dies. Its blobs are indexed like those
of a version, which keeps them from being collected as garbage.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from finmaas_core.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.base import insert_unique, read_unit
from finmaas_platform.db.drafts import DraftRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.drafts import (
    LfsFile,
    Operation,
    check_parent,
    digest_of,
    fingerprint,
    plan_commit,
)
from finmaas_platform.domain.hub import EMPTY_REVISION, MAIN, Missing, RepoKind, list_readings, make_revision
from finmaas_platform.domain.names import check_name
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.blobs import (
    check_files_are_put,
    find_size,
    hold_blobs,
    index_version,
    to_entries,
    unindex_version,
)
from finmaas_platform.services.hub import Repo, get_snapshot
from finmaas_platform.services.model_checks import CheckedModel, check_model
from finmaas_platform.services.models import register_model_version, resolve_model_version
from finmaas_platform.services.projects import get_project
from finmaas_platform.services.versions import lock_project
from finmaas_registry.manifest import FileEntry, make_manifest
from finmaas_registry.model_folder import tell_kind
from finmaas_registry.store import Stored


@dataclass(frozen=True)
class Commit:
    """What a client sends: operations on top of `parent`, the revision it has seen last (None: whatever is there)."""

    operations: tuple[Operation, ...]
    message: str
    parent: str | None


def check_may_write(caller: Caller) -> None:
    """Raises NotAllowed unless the caller may change drafts."""
    caller.require(Role.TENANT_ADMIN, Role.ML_ENGINEER)


def create_repo(session: Session, caller: Caller, now: datetime, kind: RepoKind, tenant: str, repo: str) -> DraftRow:
    """An empty draft under a name that is new. NotFound when no project of the tenant begins the id."""
    check_may_write(caller)
    project, name = _choose_place(session, caller, tenant, repo)
    return _open(session, caller, now, project, kind, check_name(name, f"{kind} name"), (), EMPTY_REVISION)


def open_draft(session: Session, caller: Caller, now: datetime, repo: Repo) -> DraftRow:
    """A draft that begins with the files of the newest version. AlreadyExists when one is open."""
    check_may_write(caller)
    if repo.draft is not None:
        raise AlreadyExists(f"a draft of {repo.id} is open already")
    head = get_snapshot(session, caller, repo, MAIN)
    return _open(session, caller, now, repo.project, repo.kind, repo.name, head.files, head.commit)


def resolve_lfs(session: Session, caller: Caller, files: Sequence[LfsFile]) -> list[FileEntry]:
    """Files whose bytes must have been sent, with their sizes. Raises InvalidInput for one that was not."""
    entries = []
    for file in files:
        size = find_size(session, caller, file.sha256) if file.size is None else file.size
        entries.append(FileEntry(file.path, file.sha256, 0 if size is None else size))
    check_files_are_put(session, caller, entries)
    return entries


def commit(session: Session, caller: Caller, now: datetime, repo: Repo, change: Commit) -> str:
    """Puts a change on top of the draft, opening one if need be, and returns the revision after it.

    VersionMismatch when its author has not seen what it goes on top of. The last commit, sent again, changes nothing.
    """
    check_may_write(caller)
    lock_project(session, repo.project)
    request = fingerprint(change.operations)
    draft = repo.draft
    if draft is not None and change.parent == draft.parent and request == draft.request:
        return draft.revision
    head = draft.revision if draft is not None else get_snapshot(session, caller, repo, MAIN).commit
    check_parent(change.parent, head, has_draft=draft is not None)
    draft = draft or open_draft(session, caller, now, repo)
    before = to_entries(draft.files)
    after = plan_commit(before, change.operations)
    _index(session, draft, before, after)
    hold_blobs(session, now, draft.tenant_id, [Stored(file.sha256, file.size) for file in after])
    draft.files = [file.as_json() for file in after]
    draft.parent, draft.request = head, request
    draft.revision = make_revision(digest_of(after))
    draft.message, draft.updated_at, draft.updated_by = change.message[:10_000], now, caller.name
    draft.authors = _with_author(draft.authors, caller)
    note = {"ref": draft.ref, "revision": draft.revision, "files": len(after), "message": change.message[:200]}
    record_audit(
        session, caller, now, "draft.commit", draft.id, before={"revision": head}, after=note, tenant_id=draft.tenant_id
    )
    session.flush()
    return draft.revision


def check_draft(deps: Deps, caller: Caller, project: str, name: str) -> CheckedModel | None:
    """Looks at the files of a draft, before the transaction that releases it; None where there is no draft to look at.

    InvalidInput while it has no files, or for files that make no model.
    """
    check_may_write(caller)
    with read_unit(deps.sessions) as session:
        owner = get_project(session, caller, project)
        draft = session.scalar(_select_draft(caller, RepoKind.MODEL, owner, name))
        if draft is None:
            return None
        files = to_entries(draft.files)
        if not files:
            raise InvalidInput(f"the draft of {draft.ref} has no files yet; upload some first")
    return check_model(deps, caller, tell_kind(file.path for file in files), files)


def release_model(
    session: Session,
    caller: Caller,
    now: datetime,
    project: ProjectRow,
    name: str,
    checked: CheckedModel | None,
    base: str | None = None,
    description: str = "",
) -> ModelVersionRow:
    """The version that a draft becomes; the draft is gone then.

    Conflict for a draft that was committed to since `check_draft`, and whatever `register_model_version` raises.
    """
    check_may_write(caller)
    lock_project(session, project)
    draft = get_draft(session, caller, RepoKind.MODEL, project, name)
    if checked is None or make_manifest(to_entries(draft.files)) != checked.manifest:
        raise Conflict(f"the draft of {draft.ref} was committed to at the same time; look at it and release it again")
    base_version = resolve_model_version(session, caller, project, base) if base else None
    row = register_model_version(
        session,
        caller,
        now,
        project,
        name,
        checked,
        base_version_id=base_version.id if base_version else None,
        description=description or draft.message,
        co_authors=draft.authors,
    )
    close(session, caller, now, draft, row.ref)
    return row


def close(session: Session, caller: Caller, now: datetime, draft: DraftRow, ref: str) -> None:
    """Ends a draft that became the version `ref`."""
    _remove(session, draft)
    after = {"ref": ref, "revision": draft.revision}
    record_audit(session, caller, now, "draft.release", draft.id, after=after, tenant_id=draft.tenant_id)


def discard(session: Session, caller: Caller, now: datetime, draft: DraftRow) -> None:
    """Drops a draft; a name without a version is free again then."""
    check_may_write(caller)
    _remove(session, draft)
    before = {"ref": draft.ref, "revision": draft.revision}
    record_audit(session, caller, now, "draft.discard", draft.id, before=before, tenant_id=draft.tenant_id)


def void_drafts(
    session: Session, caller: Caller, now: datetime, tenant_id: str, names: Set[tuple[str, str]], digests: Set[str]
) -> None:
    """Drops the drafts of some datasets (project id and name), and those that hold one of some files."""
    query = scoped(select(DraftRow), caller).where(DraftRow.tenant_id == tenant_id, DraftRow.kind == RepoKind.DATASET)
    for draft in session.scalars(query).unique():
        if (draft.project_id, draft.name) in names or any(file["sha256"] in digests for file in draft.files):
            _remove(session, draft)
            before = {"ref": draft.ref, "revision": draft.revision}
            record_audit(session, caller, now, "draft.void", draft.id, before=before, tenant_id=tenant_id)


def get_draft(session: Session, caller: Caller, kind: RepoKind, project: ProjectRow, name: str) -> DraftRow:
    """The draft of a name; NotFound."""
    if found := session.scalar(_select_draft(caller, kind, project, name)):
        return found
    raise NotFound(f"there is no open draft of the {kind} {name} in {project.ref}; upload to it, and one is opened")


def _select_draft(caller: Caller, kind: RepoKind, project: ProjectRow, name: str) -> Select[DraftRow]:
    return scoped(select(DraftRow), caller).where(
        DraftRow.project_id == project.id, DraftRow.kind == kind, DraftRow.name == name
    )


def select_drafts(session: Session, caller: Caller, kind: RepoKind | None, project: str | None) -> Select[DraftRow]:
    """The open drafts in the caller's sight."""
    query = scoped(select(DraftRow), caller)
    query = query if kind is None else query.where(DraftRow.kind == kind)
    return query if project is None else query.where(DraftRow.project_id == get_project(session, caller, project).id)


def _choose_place(session: Session, caller: Caller, tenant: str, repo: str) -> tuple[ProjectRow, str]:
    """Project and name for a new id: split at a dot where a project ends; an id without dots goes to `default`."""
    readings = dict(list_readings(repo)[: repo.count(".")] or list_readings(repo))
    query = scoped(select(ProjectRow), caller).join(TenantRow, ProjectRow.tenant_id == TenantRow.id)
    found = list(session.scalars(query.where(TenantRow.name == tenant, ProjectRow.name.in_(readings))))
    if not found:
        raise NotFound(
            f"{tenant}/{repo[:200]} names no project of yours; write tenant/project.name with a project that exists",
            missing=Missing.REPO,
        )
    if len(found) > 1:
        names = " and ".join(sorted(row.ref for row in found))
        raise Conflict(f"{tenant}/{repo} could belong to {names}; choose a name without a dot in front")
    return found[0], readings[found[0].name]


def _open(
    session: Session,
    caller: Caller,
    now: datetime,
    project: ProjectRow,
    kind: RepoKind,
    name: str,
    files: Sequence[FileEntry],
    revision: str,
) -> DraftRow:
    row = DraftRow(
        id=new_id("draft"),
        tenant_id=project.tenant_id,
        project_id=project.id,
        project=project,
        kind=kind,
        name=name,
        files=[file.as_json() for file in files],
        revision=revision,
        parent=revision,
        request="",
        message="",
        created_at=now,
        created_by=caller.name,
        updated_at=now,
        updated_by=caller.name,
        authors=_with_author([], caller),
    )
    insert_unique(session, row, f"a draft of {project.ref}/{name} is open already")
    index_version(session, row.tenant_id, "draft", row.id, files)
    after = {"ref": row.ref, "revision": revision}
    record_audit(session, caller, now, "draft.create", row.id, after=after, tenant_id=row.tenant_id)
    return row


def _index(session: Session, draft: DraftRow, before: Sequence[FileEntry], after: Sequence[FileEntry]) -> None:
    held, wanted = ({file.sha256 for file in files} for files in (before, after))
    if gone := held - wanted:
        unindex_version(session, draft.id, gone)
    index_version(session, draft.tenant_id, "draft", draft.id, [file for file in after if file.sha256 not in held])


def _with_author(authors: Sequence[dict[str, Any]], caller: Caller) -> list[dict[str, Any]]:
    """The authors of a draft, the caller among them; one who came with several tokens has all their holders."""
    holders = {one["id"]: set(one["token_holders"]) for one in authors}
    holders.setdefault(caller.id, set()).update(caller.token_holders)
    return [{"id": name, "token_holders": sorted(held)} for name, held in holders.items()]


def _remove(session: Session, draft: DraftRow) -> None:
    unindex_version(session, draft.id)
    session.delete(draft)
    session.flush()

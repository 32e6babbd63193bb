"""Repositories of the Hub protocol: which model or dataset an id means, and which files a revision names.

Whatever is not in the caller's sight is not found, and `missing` of the error says which of the three it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict, NotFound
from finmaas_platform.db.approvals import ModelAliasRow
from finmaas_platform.db.datasets import DatasetRow, DatasetVersionRow
from finmaas_platform.db.drafts import DraftRow
from finmaas_platform.db.models import ModelRow, ModelVersionRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.dataset_versions import PURGED
from finmaas_platform.domain.hub import (
    DRAFT,
    MAIN,
    Missing,
    RepoKind,
    Snapshot,
    is_commit,
    list_readings,
    make_repo_id,
    make_revision,
    plain_branch,
    read_tag,
)
from finmaas_platform.domain.model_versions import VersionState
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.blobs import to_entries
from finmaas_platform.services.models import select_aliases

# Versions that `main` passes over.
_GONE = (VersionState.RETIRED.value, PURGED)
VersionRow = ModelVersionRow | DatasetVersionRow


class _Tables(NamedTuple):
    """Models and datasets are alike here: a named row, and numbered versions of it."""

    named: Any
    version: Any
    parent: Any


_TABLES = {
    RepoKind.MODEL: _Tables(ModelRow, ModelVersionRow, ModelVersionRow.model_id),
    RepoKind.DATASET: _Tables(DatasetRow, DatasetVersionRow, DatasetVersionRow.dataset_id),
}


@dataclass(frozen=True)
class Repo:
    """A model or dataset as a repository."""

    kind: RepoKind
    project: ProjectRow
    name: str
    row: ModelRow | DatasetRow | None
    draft: DraftRow | None = None

    @property
    def id(self) -> str:
        return make_repo_id(self.project.tenant.name, self.project.name, self.name)

    @property
    def ref(self) -> str:
        """The name that the CLI takes."""
        return f"{self.project.ref}/{self.name}"

    @property
    def created_at(self) -> datetime:
        return self._first.created_at

    @property
    def created_by(self) -> str:
        return self._first.created_by

    @property
    def key(self) -> str:
        """The id of its row here."""
        return self._first.id

    @property
    def _first(self) -> ModelRow | DatasetRow | DraftRow:
        first = self.row or self.draft
        assert first is not None
        return first


def get_repo(session: Session, caller: Caller, kind: RepoKind, tenant: str, repo: str) -> Repo:
    """The model or dataset of an id. NotFound, or Conflict when an id with dots means two of them."""
    if found := find_repo(session, caller, kind, tenant, repo):
        return found
    raise NotFound(f"there is no {kind} {tenant}/{repo[:200]} in your sight", missing=Missing.REPO)


def find_repo(session: Session, caller: Caller, kind: RepoKind, tenant: str, repo: str) -> Repo | None:
    """As `get_repo`, but None for what is not there."""
    named = _TABLES[kind].named
    rows = {(row.project_id, row.name): row for row in _find_named(session, caller, named, tenant, repo)}
    drafts = {
        (row.project_id, row.name): row
        for row in _find_named(session, caller, DraftRow, tenant, repo)
        if row.kind == kind
    }
    found = [
        Repo(kind, (rows.get(key) or drafts[key]).project, key[1], rows.get(key), drafts.get(key))
        for key in {**rows, **drafts}
    ]
    if len(found) > 1:
        names = " and ".join(sorted(one.ref for one in found))
        raise Conflict(f"{tenant}/{repo} means both {names}; fetch it with `finmaas {kind} pull`, or rename one")
    return found[0] if found else None


def get_snapshot(session: Session, caller: Caller, repo: Repo, revision: str) -> Snapshot:
    """The files of a revision: a branch, a tag or 40 hex digits. NotFound."""
    if found := _find_version(session, caller, repo, revision) or _find_draft(repo, plain_branch(revision)):
        return found
    raise NotFound(f"{repo.id} has no revision {revision[:100]}", missing=Missing.REVISION)


def list_versions(session: Session, caller: Caller, repo: Repo) -> Iterator[VersionRow]:
    """The versions of a repository, newest first."""
    yield from session.scalars(_select_versions(caller, repo))


def list_branches(session: Session, caller: Caller, repo: Repo) -> dict[str, str]:
    """The branches of a repository with the revision each is at."""
    draft = {DRAFT: repo.draft.revision} if repo.draft is not None else {}
    aliases: dict[str, str] = {}
    if isinstance(repo.row, ModelRow):
        rows = session.scalars(select_aliases(caller, repo.row))
        aliases = {row.name: make_revision(row.points_at.digest) for row in rows}
    return {**aliases, MAIN: get_snapshot(session, caller, repo, MAIN).commit, **draft}


def id_column(kind: RepoKind) -> Any:
    """The column to page repositories by."""
    return _TABLES[kind].named.id


def select_repos(caller: Caller, kind: RepoKind, author: str | None, search: str | None) -> Select[Any]:
    """Models or datasets in the caller's sight: of one tenant, with a text in their name."""
    named = _TABLES[kind].named
    query = scoped(select(named), caller)
    if author is not None:
        query = query.where(named.tenant_id.in_(_tenant_ids(caller, author)))
    return query if search is None else query.where(named.name.contains(search, autoescape=True))


def show_version(row: VersionRow) -> Snapshot:
    """A version as a snapshot."""
    return Snapshot(
        commit=make_revision(row.digest),
        files=tuple(to_entries(row.files)),
        created_at=row.created_at,
        title=f"v{row.number}",
        author=row.created_by,
        number=row.number,
    )


def _find_version(session: Session, caller: Caller, repo: Repo, revision: str) -> Snapshot | None:
    if repo.row is None:
        return None
    version = _TABLES[repo.kind].version
    query = _select_versions(caller, repo)
    if (number := read_tag(revision)) is not None:
        query = query.where(version.number == number)
    elif is_commit(revision):
        query = query.where(version.digest.startswith(revision))
    elif plain_branch(revision) != MAIN:
        return _find_alias(session, caller, repo, plain_branch(revision))
    else:
        query = query.where(version.state.not_in(_GONE))
    row = session.scalars(query.limit(1)).first()
    return show_version(row) if row is not None else None


def _find_alias(session: Session, caller: Caller, repo: Repo, name: str) -> Snapshot | None:
    if name == DRAFT or not isinstance(repo.row, ModelRow):
        return None
    row = session.scalar(select_aliases(caller, repo.row).where(ModelAliasRow.name == name))
    return show_version(row.points_at) if row is not None else None


def _find_draft(repo: Repo, name: str) -> Snapshot | None:
    """The draft, which is also `main` as long as there is no version."""
    draft = repo.draft
    is_main = name == MAIN and (repo.row is None or not repo.row.latest_version)
    if draft is not None and (is_main or name in (DRAFT, draft.revision)):
        title = draft.message or "made, and not written to"
        return Snapshot(draft.revision, tuple(to_entries(draft.files)), draft.updated_at, title, draft.updated_by)
    return None


def _find_named(session: Session, caller: Caller, named: Any, tenant: str, repo: str) -> list[Any]:
    query = scoped(select(named), caller).join(ProjectRow, named.project_id == ProjectRow.id)
    query = query.where(
        named.tenant_id.in_(_tenant_ids(caller, tenant)), tuple_(ProjectRow.name, named.name).in_(list_readings(repo))
    )
    return list(session.scalars(query))


def _tenant_ids(caller: Caller, tenant: str) -> Select[Any]:
    return scoped(select(TenantRow.id), caller).where(TenantRow.name == tenant)


def _select_versions(caller: Caller, repo: Repo) -> Select[Any]:
    tables = _TABLES[repo.kind]
    parent_id = repo.row.id if repo.row is not None else None
    query = scoped(select(tables.version), caller).where(tables.parent == parent_id)
    return query.order_by(tables.version.number.desc())

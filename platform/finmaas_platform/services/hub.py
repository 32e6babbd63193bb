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
from finmaas_platform.db.datasets import DatasetRow, DatasetVersionRow
from finmaas_platform.db.models import ModelRow, ModelVersionRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.hub import (
    EMPTY_REVISION,
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
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.blobs import to_entries

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
    row: ModelRow | DatasetRow

    @property
    def id(self) -> str:
        return make_repo_id(self.project.tenant.name, self.project.name, self.name)

    @property
    def ref(self) -> str:
        """The name that the CLI takes."""
        return f"{self.project.ref}/{self.name}"

    @property
    def created_at(self) -> datetime:
        return self.row.created_at


def get_repo(session: Session, caller: Caller, kind: RepoKind, tenant: str, repo: str) -> Repo:
    """The model or dataset of an id. NotFound, or Conflict when an id with dots means two of them."""
    found = [Repo(kind, row.project, row.name, row) for row in _find_named(session, caller, kind, tenant, repo)]
    if not found:
        raise NotFound(f"there is no {kind} {tenant}/{repo[:200]} in your sight", missing=Missing.REPO)
    if len(found) > 1:
        names = " and ".join(sorted(one.ref for one in found))
        raise Conflict(f"{tenant}/{repo} means both {names}; fetch it with `finmaas {kind} pull`, or rename one")
    return found[0]


def get_snapshot(session: Session, caller: Caller, repo: Repo, revision: str) -> Snapshot:
    """The files of a revision: a branch, a tag or 40 hex digits. NotFound."""
    name = plain_branch(revision)
    versions = _select_versions(caller, repo)
    row: VersionRow | None = None
    if name == MAIN:
        row = session.scalars(versions.limit(1)).first()
    elif (number := read_tag(revision)) is not None:
        row = session.scalars(versions.where(_TABLES[repo.kind].version.number == number)).first()
    elif is_commit(revision):
        digest = _TABLES[repo.kind].version.digest
        row = session.scalars(versions.where(digest.startswith(revision)).limit(1)).first()
    if row is not None:
        return show_version(row)
    if not repo.row.latest_version and name in (MAIN, EMPTY_REVISION):
        return Snapshot(EMPTY_REVISION, (), repo.created_at, "made, and not written to", repo.row.created_by)
    raise NotFound(f"{repo.id} has no revision {revision[:100]}", missing=Missing.REVISION)


def list_versions(session: Session, caller: Caller, repo: Repo) -> Iterator[VersionRow]:
    """The versions of a repository, newest first."""
    yield from session.scalars(_select_versions(caller, repo))


def list_branches(session: Session, caller: Caller, repo: Repo) -> dict[str, str]:
    """The branches of a repository with the revision each is at."""
    return {MAIN: get_snapshot(session, caller, repo, MAIN).commit}


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


def _find_named(session: Session, caller: Caller, kind: RepoKind, tenant: str, repo: str) -> list[Any]:
    named = _TABLES[kind].named
    query = scoped(select(named), caller).join(ProjectRow, named.project_id == ProjectRow.id)
    query = query.where(
        named.tenant_id.in_(_tenant_ids(caller, tenant)), tuple_(ProjectRow.name, named.name).in_(list_readings(repo))
    )
    return list(session.scalars(query))


def _tenant_ids(caller: Caller, tenant: str) -> Select[Any]:
    return scoped(select(TenantRow.id), caller).where(TenantRow.name == tenant)


def _select_versions(caller: Caller, repo: Repo) -> Select[Any]:
    tables = _TABLES[repo.kind]
    query = scoped(select(tables.version), caller).where(tables.parent == repo.row.id)
    return query.order_by(tables.version.number.desc())

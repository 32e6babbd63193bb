"""References to versions of datasets and models: how users write them, and help when nothing bears the name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidInput, NotFound
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.domain.names import check_name, split_project_ref

MAX_KNOWN = 500
"""Names that are looked through for near ones; more would make an answer about nothing slow."""
_REF = re.compile(
    r"^(?:(?P<project>[^/@]+/[^/@]+)/)?(?P<name>[^/@]+)(?:@(?:(?P<number>[1-9][0-9]{0,8})|(?P<alias>[a-z][^/@]*)))?$"
)


class VersionRef(NamedTuple):
    """A reference taken apart; `project` is None for the project at hand; without number and alias, the newest."""

    project: str | None
    name: str
    number: int | None
    alias: str | None = None


def parse_version_ref(ref: str, what: str) -> VersionRef:
    """`name`, `name@3`, `tenant/project/name@3`, or of a model `name@alias`. InvalidInput for anything else.

    `what` is dataset or model.
    """
    found = _REF.match(ref)
    if found is None or (found["alias"] and what != "model"):
        raise InvalidInput(f"{ref[:200]!r} names no {what}; write name, name@3 or tenant/project/name@3")
    project, name, number, alias = found.group("project", "name", "number", "alias")
    if project is not None:
        split_project_ref(project)
    return VersionRef(project, check_name(name, f"{what} name"), None if number is None else int(number), alias)


def unknown_name(what: str, name: str, project: str, known: Iterable[str]) -> NotFound:
    """The error for a name that nothing bears, with the nearest ones that something does."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif names:
        more = ", …" if len(names) > 5 else ""
        hint = f"it has {', '.join(names[:5])}{more}"
    else:
        hint = f"it has no {what} yet; `finmaas {what} import` makes one"
    return NotFound(f"there is no {what} {name} in {project}; {hint}")


def unknown_number(what: str, name: str, number: int, latest: int) -> NotFound:
    """The error for a version that does not exist."""
    return NotFound(f"{what} {name} has no version {number}; its newest is {name}@{latest}")


def lock_project(session: Session, project: ProjectRow) -> None:
    """Versions of a project are numbered one after the other (SQLite's write lock does the same by itself)."""
    lock = select(ProjectRow.id).where(ProjectRow.id == project.id)  # unscoped: a project that was found in scope
    session.execute(lock.with_for_update())

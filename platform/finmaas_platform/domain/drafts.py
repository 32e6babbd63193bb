"""Commits of Hub clients, and what the files are after one. Pure.

A commit is newline-delimited JSON: a header, then one operation a line. The bytes of large files came before (LFS),
those of small ones stand in the line.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finmaas_core.errors import InvalidInput, NotFound, VersionMismatch
from finmaas_core.quantities import check_digest
from finmaas_platform.domain.hub import DRAFT, MAIN, Missing, plain_branch
from finmaas_registry.manifest import MAX_FILES, FileEntry, Manifest, check_path, make_manifest

INLINE_BYTES = 8 << 20
"""Files up to this size travel inside the commit, larger ones by LFS."""
LINE_BYTES = INLINE_BYTES * 4 // 3 + 16 * 1024


@dataclass(frozen=True)
class Header:
    """What a commit says about itself; `parent` is the revision that its author has seen last, if they say."""

    summary: str
    parent: str | None


@dataclass(frozen=True)
class InlineFile:
    """A small file with its bytes."""

    path: str
    content: bytes


@dataclass(frozen=True)
class LfsFile:
    """A file whose bytes were sent before; `size` is None for one that is copied from another path."""

    path: str
    sha256: str
    size: int | None


@dataclass(frozen=True)
class Deletion:
    """A path that goes; for a folder all below it."""

    path: str
    is_folder: bool


Operation = FileEntry | Deletion
Line = Header | InlineFile | LfsFile | Deletion


def read_line(line: bytes) -> Line:
    """One line of a commit. Raises InvalidInput for what is none."""
    try:
        item = json.loads(line)
        key, value = item["key"], item["value"]
        return _READERS[key](value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"a line of the commit cannot be understood: {line[:120]!r}") from error


def choose_mode(path: str, size: int) -> str:
    """How a client is to send a file. `datasets` counts on `lfs` for its shards, which are gone when it commits."""
    return "lfs" if size > INLINE_BYTES or path.endswith((".parquet", ".arrow")) else "regular"


def check_branch(revision: str) -> None:
    """Raises InvalidInput unless commits may go there."""
    if plain_branch(revision) not in (MAIN, DRAFT):
        raise InvalidInput(
            f"nothing can be committed to {revision[:100]}: versions never change; commit to main, which gathers a "
            "draft of the next version"
        )


def check_parent(parent: str | None, head: str, has_draft: bool) -> None:
    """Raises VersionMismatch when the author of a commit has not seen what it would go on top of."""
    if parent is None or parent == head:
        return
    hint = "; a draft is open: pass revision='draft' to go on with it, or release or discard it first"
    raise VersionMismatch(
        f"a commit has happened since {parent[:40]}: the head is {head} now{hint if has_draft else '; read it again'}",
        commit=head,
    )


def plan_commit(files: Sequence[FileEntry], operations: Iterable[Operation]) -> tuple[FileEntry, ...]:
    """The files after a commit, checked as a manifest's. NotFound for a deletion of what is not there."""
    by_path = {file.path: file for file in files}
    for operation in operations:
        if isinstance(operation, FileEntry):
            by_path[operation.path] = operation
            continue
        gone = [path for path in by_path if _is_covered(path, operation)]
        if not gone:
            raise NotFound(f"there is no {operation.path[:200]} to delete", missing=Missing.ENTRY)
        for path in gone:
            del by_path[path]
    if len(by_path) > MAX_FILES:
        raise InvalidInput(f"{len(by_path):,} files are more than a version may have ({MAX_FILES:,})")
    return make_manifest(by_path.values()).files if by_path else ()


def digest_of(files: Iterable[FileEntry]) -> str:
    """The digest of a manifest of these files, of none as well."""
    return Manifest(tuple(files)).digest


def fingerprint(operations: Iterable[Operation]) -> str:
    """Equal for equal operations in equal order: tells a commit that is sent again."""
    return hashlib.sha256(repr(list(operations)).encode()).hexdigest()


def _is_covered(path: str, deletion: Deletion) -> bool:
    if not deletion.is_folder:
        return path == deletion.path
    return path.startswith(f"{deletion.path.rstrip('/')}/") or deletion.path in ("", ".", "./")


def _read_header(value: Mapping[str, Any]) -> Header:
    parent = value.get("parentCommit")
    return Header(str(value.get("summary") or ""), None if parent is None else str(parent))


def _read_inline(value: Mapping[str, Any]) -> InlineFile:
    path = check_path(value["path"])
    if value.get("encoding", "utf-8") != "base64":
        return InlineFile(path, str(value["content"]).encode())
    try:
        return InlineFile(path, base64.b64decode(value["content"], validate=True))
    except binascii.Error as error:
        raise InvalidInput(f"the content of {path[:200]} is not base64; send it again") from error


def _read_lfs(value: Mapping[str, Any]) -> LfsFile:
    size = value.get("size")
    if value.get("algo", "sha256") != "sha256":
        raise InvalidInput(f"{value['algo']!r} is no digest that is kept here; send sha256")
    return LfsFile(check_path(value["path"]), check_digest(value["oid"]), None if size is None else int(size))


_READERS: dict[str, Callable[[Mapping[str, Any]], Line]] = {
    "header": _read_header,
    "file": _read_inline,
    "lfsFile": _read_lfs,
    "deletedFile": lambda value: Deletion(str(value["path"]), is_folder=False),
    "deletedFolder": lambda value: Deletion(str(value["path"]), is_folder=True),
}

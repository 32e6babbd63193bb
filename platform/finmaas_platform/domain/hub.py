"""How the registry looks through the Hugging Face Hub protocol: ids, revisions, refs, trees. Pure.

id          `tenant/project.name`, or `tenant/name` for the project `default`. A Hub id has two parts, ours three.
revision    40 hex digits: the start of the manifest's SHA-256, so equal files have an equal revision.
tag         `v3` is version 3, and never moves.
branch      `main` is the newest version, `draft` what was written since and is not released yet.

Every file is told as an LFS file: its etag is its SHA-256, its oid the one that git gives the LFS pointer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from finmaas_registry.manifest import FileEntry, Manifest

MAIN, DRAFT = "main", "draft"
DEFAULT_PROJECT = "default"
REVISION_CHARS = 40
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"
_TAG = re.compile(r"^(?:refs/tags/)?v([1-9][0-9]{0,8})$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


class RepoKind(StrEnum):
    """What a repository holds; the Hub's `repo_type`."""

    MODEL = "model"
    DATASET = "dataset"


class Missing(StrEnum):
    """What was not found: clients raise an error of their own for each (`X-Error-Code`)."""

    REPO = "RepoNotFound"
    REVISION = "RevisionNotFound"
    ENTRY = "EntryNotFound"


@dataclass(frozen=True)
class Snapshot:
    """The files under one revision; `number` is the version's, None for a draft and for a repository without any."""

    commit: str
    files: tuple[FileEntry, ...]
    created_at: datetime
    title: str
    author: str
    number: int | None = None

    def find(self, path: str) -> FileEntry | None:
        """The file of a path, or None."""
        return next((file for file in self.files if file.path == path), None)


def list_readings(repo: str) -> list[tuple[str, str]]:
    """What the second part of an id may mean: (project, name) for each dot, then (`default`, all of it)."""
    dots = [at for at, char in enumerate(repo) if char == "."]
    return [*((repo[:at], repo[at + 1 :]) for at in dots), (DEFAULT_PROJECT, repo)]


def make_repo_id(tenant: str, project: str, name: str) -> str:
    """The id under which a model or dataset is told."""
    return f"{tenant}/{project}.{name}"


def make_revision(digest: str) -> str:
    """The revision of a manifest's digest."""
    return digest[:REVISION_CHARS]


# The revision of a repository that was made and not written to.
EMPTY_REVISION = make_revision(Manifest(()).digest)


def read_tag(revision: str) -> int | None:
    """The number of the version that a tag names; None for what is no tag of a version."""
    found = _TAG.match(revision)
    return int(found.group(1)) if found else None


def is_commit(revision: str) -> bool:
    """Whether this is a whole revision of 40 digits."""
    return _COMMIT.match(revision) is not None


def plain_branch(revision: str) -> str:
    """`refs/heads/main` as `main`."""
    return revision.removeprefix("refs/heads/")


def pointer_of(file: FileEntry) -> bytes:
    """The LFS pointer that stands for a file in git."""
    return POINTER.format(digest=file.sha256, size=file.size).encode()


def git_oid(content: bytes) -> str:
    """The SHA-1 under which git keeps a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def show_file(file: FileEntry) -> dict[str, Any]:
    """An entry of a tree."""
    pointer = pointer_of(file)
    return {
        "type": "file",
        "oid": git_oid(pointer),
        "size": file.size,
        "path": file.path,
        "lfs": {"oid": file.sha256, "size": file.size, "pointerSize": len(pointer)},
    }


def show_sibling(file: FileEntry, with_blobs: bool) -> dict[str, Any]:
    """A file as it stands in the description of a repository."""
    if not with_blobs:
        return {"rfilename": file.path}
    pointer = pointer_of(file)
    lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": len(pointer)}
    return {"rfilename": file.path, "size": file.size, "blobId": git_oid(pointer), "lfs": lfs}


def show_tree(files: Sequence[FileEntry], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """What lies in a folder ("" for the root): files and folders, sorted; everything below it if `recursive`."""
    prefix = f"{folder}/" if folder else ""
    below = [file for file in files if file.path.startswith(prefix)]
    depth = prefix.count("/")
    shown = [show_file(file) for file in below if recursive or file.path.count("/") == depth]
    folders = sorted({name for file in below for name in _folders_of(file.path, depth, recursive)})
    return sorted([*shown, *(show_folder(name) for name in folders)], key=lambda entry: str(entry["path"]))


def show_folder(path: str) -> dict[str, Any]:
    """A folder as an entry of a tree; its oid only has to be another for another folder."""
    return {"type": "directory", "oid": git_oid(path.encode()), "size": 0, "path": path}


def show_paths(files: Iterable[FileEntry], wanted: Iterable[str]) -> list[dict[str, Any]]:
    """The entries of the paths that exist; the others are left out, as the Hub does."""
    by_path = {file.path: file for file in files}
    folders = {name for path in by_path for name in _folders_of(path, 0, recursive=True)}
    shown = []
    for path in dict.fromkeys(path.strip("/") for path in wanted):
        if path in by_path:
            shown.append(show_file(by_path[path]))
        elif path in folders:
            shown.append(show_folder(path))
    return shown


def _folders_of(path: str, depth: int, recursive: bool) -> list[str]:
    """The folders that lead to a path, from a depth on; only the first one unless `recursive`."""
    parts = path.split("/")[:-1]
    ends = range(depth + 1, len(parts) + 1) if recursive else range(depth + 1, min(depth + 1, len(parts)) + 1)
    return ["/".join(parts[:end]) for end in ends]

"""What a version is made of: named files by digest, written in one canonical way so that equal content has one name.

A path in a manifest becomes a path on disk of training and serving nodes, so only plain relative ones pass.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from finmaas_core.errors import InvalidInput
from finmaas_core.quantities import check_digest

MAX_PATH_BYTES = 1024
MAX_NAME_BYTES = 255
MAX_FILES = 100_000
SIGNATURE_FILE = "model.sig"
"""Where a signature lies in a folder that was pulled."""


@dataclass(frozen=True, order=True)
class FileEntry:
    """One file of a version: relative path with `/`, SHA-256 in hex, size in bytes."""

    path: str
    sha256: str
    size: int

    def as_json(self) -> dict[str, str | int]:
        return {"path": self.path, "sha256": self.sha256, "size": self.size}


@dataclass(frozen=True)
class Manifest:
    """The files of a version, sorted by path; make it with `make_manifest`."""

    files: tuple[FileEntry, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: equal files under equal names have an equal digest, in any order."""
        body = json.dumps({"files": [f.as_json() for f in self.files]}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(body.encode()).hexdigest()


def make_manifest(files: Iterable[FileEntry]) -> Manifest:
    """Checks and sorts files. Raises InvalidInput: none at all, an unsafe path, one given twice or also a folder."""
    ordered = tuple(sorted(files))
    if not ordered:
        raise InvalidInput("a version needs at least one file; none was given")
    taken: set[str] = set()
    for file in ordered:
        check_path(file.path)
        check_digest(file.sha256)
        if file.size < 0:
            raise InvalidInput(f"the file {file.path!r} has the size {file.size}; give its size in bytes")
        folded = _fold(file.path)
        if folded in taken:
            raise InvalidInput(
                f"the path {file.path!r} is given twice (upper and lower case, and composed and decomposed accents, "
                "count as one)"
            )
        taken.add(folded)
    _check_no_file_is_a_folder(ordered, taken)
    return Manifest(ordered)


def check_path(path: str) -> str:
    """Returns a path that is safe below any folder, or raises InvalidInput and says what is wrong with it."""
    if problem := _find_problem(path):
        raise InvalidInput(f"the path {path[:120]!r} {problem}; give a relative path such as data/train.parquet")
    return path


def _find_problem(path: str) -> str | None:
    if not path:
        return "is empty"
    if any(ord(char) < 32 or 127 <= ord(char) < 160 for char in path):
        return "holds a control character"
    if any(0xD800 <= ord(char) < 0xE000 for char in path):
        return "is not valid Unicode"
    if "\\" in path or ":" in path:
        return "holds a backslash or a colon, which some systems take for a separator"
    if path.startswith("/"):
        return "is absolute"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "has an empty part, '.' or '..' in it"
    if any(part.casefold() == ".git" for part in parts):
        return "has a .git in it, whose configuration git would follow"
    if len(path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return "is too long"
    return None


def _fold(path: str) -> str:
    """Equal for paths that some file system takes for one: by case, or by how an accent is written."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _check_no_file_is_a_folder(files: Iterable[FileEntry], taken: set[str]) -> None:
    for file in files:
        parts = _fold(file.path).split("/")
        for end in range(1, len(parts)):
            if "/".join(parts[:end]) in taken:
                raise InvalidInput(f"{file.path!r} lies below a path that is itself a file; rename one of them")

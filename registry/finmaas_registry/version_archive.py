"""One version as a file that can be carried to a site without a network.

A plain tar, never compressed: first `finmaas-version.json`, which names every file by digest and says where the version
comes from, then the bytes as `blobs/<sha256>`, each once. Paths stand in the document alone, where a manifest's checks
apply, so no name in the tar leads anywhere; links, folders and whatever else a tar can hold are refused. Writing and
reading keep one chunk in memory, and nothing is laid out beside the archive.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from finmaas_core.errors import Corrupt, InvalidInput
from finmaas_registry.manifest import FileEntry, Manifest, make_manifest

FORMAT = "finmaas-version/1"
DOCUMENT = "finmaas-version.json"
KINDS = ("model", "dataset")
MAX_DOCUMENT_BYTES = 64 << 20
CHUNK_BYTES = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_COMPRESSED = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

Fetch = Callable[[FileEntry], Iterator[bytes]]
OnBytes = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


@dataclass(frozen=True)
class VersionArchive:
    """An archive whose structure holds: where the bytes of each digest lie in it. Their content is not checked yet."""

    path: Path
    document: dict[str, Any]
    manifest: Manifest
    offsets: Mapping[str, int]

    @property
    def kind(self) -> str:
        return str(self.document["kind"])

    def open_blob(self, file: FileEntry) -> Iterator[bytes]:
        """The bytes of a file in chunks."""
        with self.path.open("rb") as archive:
            archive.seek(self.offsets[file.sha256])
            left = file.size
            while left:
                chunk = archive.read(min(CHUNK_BYTES, left))
                if not chunk:
                    raise _cut_off(self.path)
                left -= len(chunk)
                yield chunk

    def check_blob(self, file: FileEntry) -> None:
        """Raises Corrupt unless the bytes of a file have its digest."""
        _drain(_checked(file, self.open_blob(file)))


def distinct(manifest: Manifest) -> list[FileEntry]:
    """One file for each digest, in the order of paths: what an archive holds bytes of."""
    return list({file.sha256: file for file in reversed(manifest.files)}.values())[::-1]


def write_archive(
    out: IO[bytes], document: Mapping[str, Any], manifest: Manifest, fetch: Fetch, on_bytes: OnBytes | None = None
) -> None:
    """Writes document and blobs, each checked on its way. Raises Corrupt; then the file must not be used."""
    body = json.dumps({**document, "format": FORMAT}, ensure_ascii=False, sort_keys=True).encode()
    _write_member(out, DOCUMENT, len(body), iter([body]))
    blobs = distinct(manifest)
    done, total = 0, sum(file.size for file in blobs)
    for file in blobs:

        def counted(file: FileEntry = file) -> Iterator[bytes]:
            nonlocal done
            for chunk in _checked(file, fetch(file)):
                yield chunk
                done += len(chunk)
                if on_bytes is not None:
                    on_bytes(done, total)

        _write_member(out, f"blobs/{file.sha256}", file.size, counted())
    out.write(bytes(2 * _BLOCK))


def read_archive(path: Path) -> VersionArchive:
    """The structure of an archive, checked whole. Raises InvalidInput for anything that `write_archive` writes not."""
    size = path.stat().st_size
    with path.open("rb") as archive:
        _refuse_compressed(path, archive.read(8))
        archive.seek(0)
        document = _read_document(path, archive)
        manifest = _read_manifest(path, document)
        offsets = {}
        for file in distinct(manifest):
            found = _read_header(path, archive, f"blobs/{file.sha256}", size)
            if found != file.size:
                raise _bad(path, f"says that {file.path} has {found} bytes and {file.size}")
            offsets[file.sha256] = archive.tell()
            archive.seek(_padded(found), os.SEEK_CUR)
        if archive.tell() > size:
            raise _cut_off(path)
        _check_end(path, archive)
    return VersionArchive(path, document, manifest, offsets)


def _read_document(path: Path, archive: IO[bytes]) -> dict[str, Any]:
    size = _read_header(path, archive, DOCUMENT, MAX_DOCUMENT_BYTES)
    try:
        document = json.loads(archive.read(_padded(size))[:size])
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"has a {DOCUMENT} that is not JSON") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT or document.get("kind") not in KINDS:
        raise _bad(path, f"is of another format than {FORMAT}; was it made by a newer release?")
    return document


def _read_manifest(path: Path, document: Mapping[str, Any]) -> Manifest:
    try:
        files = [FileEntry(str(one["path"]), str(one["sha256"]), int(one["size"])) for one in document["files"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _bad(path, "lists its files in a way that cannot be understood") from error
    manifest = make_manifest(files)
    if manifest.digest != document.get("digest"):
        raise Corrupt(
            f"{path.name} lists other files than its digest {document.get('digest')} stands for; copy it again"
        )
    sizes: dict[str, int] = {}
    for file in manifest.files:
        if sizes.setdefault(file.sha256, file.size) != file.size:
            raise _bad(path, f"gives {file.path} a size that equal bytes do not have elsewhere")
    return manifest


def _read_header(path: Path, archive: IO[bytes], wanted: str, limit: int) -> int:
    """The size of the next member, which must be the plain file that is wanted."""
    block = archive.read(_BLOCK)
    if len(block) < _BLOCK:
        raise _cut_off(path)
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise _bad(path, "is no tar, or was cut off") from error
    if member.name != wanted or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise _bad(path, f"holds {member.name[:80]!r} of type {member.type!r} where the file {wanted} belongs")
    if not 0 <= member.size <= limit:
        raise _bad(path, f"says that {wanted} has {member.size:,} bytes, which cannot be; it was cut off or made up")
    return member.size


def _check_end(path: Path, archive: IO[bytes]) -> None:
    end = archive.read(2 * _BLOCK)
    if len(end) < 2 * _BLOCK:
        raise _cut_off(path)
    while end:
        if end.strip(b"\0"):
            raise _bad(path, "goes on after its last file")
        end = archive.read(CHUNK_BYTES)


def _write_member(out: IO[bytes], name: str, size: int, chunks: Iterator[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    out.write(member.tobuf(tarfile.GNU_FORMAT))
    for chunk in chunks:
        out.write(chunk)
    out.write(bytes(_padded(size) - size))


def _checked(file: FileEntry, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks; Corrupt at their end when they are not the file's bytes."""
    sha256, size = hashlib.sha256(), 0
    for chunk in chunks:
        sha256.update(chunk)
        size += len(chunk)
        if size > file.size:
            break
        yield chunk
    if size != file.size or sha256.hexdigest() != file.sha256:
        raise Corrupt(f"{file.path} has other bytes than its digest says; copy or export it again", path=file.path)


def _drain(chunks: Iterator[bytes]) -> None:
    for _ in chunks:
        pass


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _refuse_compressed(path: Path, start: bytes) -> None:
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise _bad(path, f"is compressed ({name}); an archive of a version is a plain tar, unpack it first")


def _bad(path: Path, why: str) -> InvalidInput:
    return InvalidInput(f"{path.name} {why}; take an archive that `finmaas model export` or `dataset export` made")


def _cut_off(path: Path) -> InvalidInput:
    return InvalidInput(f"{path.name} was cut off; copy it again, whole")

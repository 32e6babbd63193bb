"""Models and datasets from a Hub or a mirror: its tree is listed, and the bytes go from there to the registry.

Plain HTTP, as every mirror speaks it; nothing is laid out on this machine. Only what a version may hold is taken:
pickles, code and weights of other frameworks stay behind, and are named in the version's origin.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import httpx

from finmaas_core.errors import Corrupt, InvalidInput, NotFound, Unavailable
from finmaas_platform.sdk.objects import ModelVersion
from finmaas_platform.sdk.refs import DEFAULT_PROJECT, parse_ref
from finmaas_platform.sdk.transport import Transport
from finmaas_platform.sdk.version_archives import OnBytes, put_stream, show_files
from finmaas_registry.manifest import FileEntry, check_path, make_manifest
from finmaas_registry.model_folder import refuse_by_name, tell_kind
from finmaas_registry.row_files import choose_row_paths

TRIES = 5
SMALL_BYTES = 64 << 20
"""Files without an LFS digest are read whole; a Hub keeps none in git that are larger."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; `sha256` is None where it lies in git itself, under `oid`."""

    path: str
    size: int
    oid: str
    sha256: str | None


class HubImport(NamedTuple):
    """What an import made, and the paths of the repository that stayed behind."""

    version: ModelVersion
    left_behind: tuple[str, ...]


class HubSource:
    """One revision of a repository on a Hub. Raises NotFound, Unavailable; the token goes to this endpoint alone."""

    def __init__(
        self,
        endpoint: str,
        repo: str,
        revision: str = "main",
        token: str | None = None,
        http: httpx.Client | None = None,
        kind: Literal["model", "dataset"] = "model",
    ) -> None:
        self.endpoint, self.repo, self.revision, self.kind = endpoint.rstrip("/"), repo, revision, kind
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = http or httpx.Client(timeout=httpx.Timeout(60, connect=5), follow_redirects=True)

    def resolve(self) -> str:
        """The revision's 40 hex digits, which the rest is read by."""
        found = self._get(f"/api/{self.kind}s/{self.repo}/revision/{quote(self.revision, safe='')}").json()
        return str(found["sha"])

    def list_files(self, commit: str) -> list[HubFile]:
        """Every file of a commit, over all pages."""
        files: list[HubFile] = []
        url: str | None = f"{self.endpoint}/api/{self.kind}s/{self.repo}/tree/{commit}?recursive=true"
        while url:
            response = self._get(url)
            files += [_read_entry(entry) for entry in response.json() if entry["type"] == "file"]
            url = response.links.get("next", {}).get("url")
        return files

    def open(self, commit: str, path: str) -> Iterator[bytes]:
        """The bytes of a file; a connection that breaks is taken up again where it broke."""
        where = self.repo if self.kind == "model" else f"datasets/{self.repo}"
        url = f"{self.endpoint}/{where}/resolve/{commit}/{quote(path)}"
        done, tries = 0, 0
        while True:
            headers = {**self._headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
            try:
                with self._http.stream("GET", url, headers=headers) as response:
                    self._check(response, url)
                    if done and response.status_code != httpx.codes.PARTIAL_CONTENT:
                        raise Unavailable(f"{url} broke off and cannot be taken up again; start the import anew")
                    for chunk in response.iter_raw(1 << 20):
                        done += len(chunk)
                        tries = 0
                        yield chunk
                return
            except httpx.TransportError as error:
                tries += 1
                if tries >= TRIES:
                    raise Unavailable(f"{self.endpoint} does not answer ({error}); try again") from error
                time.sleep(0.5 * tries)  # another site's server: there is nothing to wait on

    def _get(self, url: str) -> httpx.Response:
        full = url if url.startswith("http") else self.endpoint + url
        if not full.startswith(f"{self.endpoint}/"):
            raise InvalidInput(f"{self.endpoint} points at another host for its next page; it is not followed")
        try:
            response = self._http.get(full, headers=self._headers)
        except httpx.TransportError as error:
            raise Unavailable(f"{self.endpoint} does not answer ({error}); check --endpoint") from error
        self._check(response, full)
        return response

    def _check(self, response: httpx.Response, url: str) -> None:
        if response.is_success:
            return
        response.read()
        said = response.headers.get("X-Error-Message") or f"HTTP {response.status_code}"
        if response.status_code in (401, 403, 404):
            raise NotFound(f"{self.endpoint} has no {self.repo} at {self.revision} for this token ({said}): {url}")
        raise Unavailable(f"{self.endpoint} answered {said} for {url}")


def import_from_hub(
    transport: Transport,
    source: HubSource,
    name: str,
    project: str = DEFAULT_PROJECT,
    *,
    base: str | None = None,
    description: str | None = None,
    on_progress: OnBytes | None = None,
) -> HubImport:
    """The version made of a repository, and the paths that stayed behind. Files that are here are not fetched again.

    InvalidInput for what holds no servable model, Corrupt for bytes that are not those the Hub tells of.
    """
    commit = source.resolve()
    taken, left = choose_files(source.list_files(commit))
    kind = tell_kind(file.path for file in taken)
    entries = _carry_all(transport, source, commit, taken, on_progress)
    document = {
        "endpoint": source.endpoint, "repo": source.repo, "revision": source.revision, "commit": commit,
        "left_behind": left, "digest": make_manifest(entries).digest,
    }  # fmt: skip
    body = {
        "source": "hub", "kind": kind, "files": show_files(entries), "document": document, "base": base,
        "description": description or f"{source.repo} at {commit[:12]}",
    }  # fmt: skip
    path = f"/models/{parse_ref(name, project).path}/imports"
    return HubImport(ModelVersion.model_validate(transport.write("POST", path, body)), tuple(left))


def carry_rows(
    transport: Transport, source: HubSource, path: str | None, on_progress: OnBytes | None = None
) -> tuple[str, list[FileEntry]]:
    """Brings the rows of a dataset repository here: its commit, and the files. InvalidInput where `path` is needed."""
    commit = source.resolve()
    files = {file.path: file for file in source.list_files(commit) if is_under(file.path, path)}
    try:
        rows = choose_row_paths(files)
    except InvalidInput as error:
        raise InvalidInput(f"{source.repo}: {error.message}; name a file or folder of it by --path") from error
    return commit, _carry_all(transport, source, commit, [files[row] for row in rows], on_progress)


def is_under(path: str, folder: str | None) -> bool:
    """Whether a path is this file, or lies in this folder; every path where there is none."""
    return folder is None or f"{path}/".startswith(f"{folder.strip('/')}/")


def _carry_all(
    transport: Transport, source: HubSource, commit: str, files: list[HubFile], on_progress: OnBytes | None
) -> list[FileEntry]:
    total, done = sum(file.size for file in files), 0
    entries = []
    for file in files:
        entries.append(_carry(transport, source, commit, file, done, total, on_progress))
        done += file.size
        if on_progress is not None:
            on_progress(done, total)
    return entries


def choose_files(files: list[HubFile]) -> tuple[list[HubFile], list[str]]:
    """What is taken, and the paths that are not: hidden files, and what no version may hold."""
    taken, left = [], []
    for file in files:
        check_path(file.path)
        try:
            refuse_by_name(file.path)
        except InvalidInput:
            left.append(file.path)
            continue
        hidden = any(part.startswith(".") for part in file.path.split("/"))
        (left.append(file.path) if hidden else taken.append(file))
    if not any(file.path.endswith(".safetensors") for file in taken):
        raise InvalidInput("the repository has no *.safetensors file; only such weights are served")
    return taken, left


def _carry(
    transport: Transport,
    source: HubSource,
    commit: str,
    file: HubFile,
    done: int,
    total: int,
    on_progress: OnBytes | None,
) -> FileEntry:
    if file.sha256 is None:
        content = _read_small(source, commit, file)
        entry = FileEntry(file.path, hashlib.sha256(content).hexdigest(), len(content))
    else:
        content, entry = b"", FileEntry(file.path, file.sha256, file.size)
    if not transport.exists(f"/blobs/{entry.sha256}"):
        is_small = file.sha256 is None
        put_stream(
            transport,
            entry,
            lambda: iter([content]) if is_small else source.open(commit, file.path),
            done,
            total,
            on_progress,
        )
    return entry


def _read_small(source: HubSource, commit: str, file: HubFile) -> bytes:
    if file.size > SMALL_BYTES:
        raise InvalidInput(f"{file.path} has {file.size:,} bytes and no LFS digest; a Hub keeps no such file in git")
    content = bytearray()
    for chunk in source.open(commit, file.path):
        content += chunk
        if len(content) > file.size:
            break
    found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if found != file.oid:
        raise Corrupt(f"{file.path} came with other bytes than {source.endpoint} tells of; try again", path=file.path)
    return bytes(content)


def _read_entry(entry: dict[str, Any]) -> HubFile:
    lfs = entry.get("lfs")
    return HubFile(str(entry["path"]), int(entry["size"]), str(entry["oid"]), str(lfs["oid"]) if lfs else None)

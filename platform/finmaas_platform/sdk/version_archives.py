"""Versions as files that are carried to a site without a network: writing one there, reading it here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from finmaas_core.errors import InvalidInput
from finmaas_platform.sdk.model_life import version_path
from finmaas_platform.sdk.model_trust import find_trust_root
from finmaas_platform.sdk.objects import DatasetVersion, ModelVersion, Origin
from finmaas_platform.sdk.refs import DEFAULT_PROJECT, parse_ref
from finmaas_platform.sdk.transport import PATIENCE_S, Transport
from finmaas_registry.manifest import FileEntry, make_manifest
from finmaas_registry.version_archive import VersionArchive, distinct, read_archive, write_archive

OnBytes = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


class VersionArchives:
    """`client.version_archives`. Everything is streamed: neither side keeps a copy beside the archive."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def export(
        self,
        version: ModelVersion | DatasetVersion,
        path: str | os.PathLike[str],
        *,
        on_progress: OnBytes | None = None,
    ) -> Path:
        """Writes a version to a file, every byte checked. Nothing is left of one that fails. Corrupt."""
        target = Path(path)
        noun = "models" if isinstance(version, ModelVersion) else "datasets"
        ref = parse_ref(version.ref)
        document = self._http.get(f"/{noun}/{ref.path}/versions/{ref.version}/export")
        manifest = make_manifest(FileEntry(file["path"], file["sha256"], file["size"]) for file in document["files"])
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with scratch.open("xb") as out:
                write_archive(out, document, manifest, self._fetch, on_progress)
                out.flush()
                os.fsync(out.fileno())
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
        return target

    def import_model(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        project: str = DEFAULT_PROJECT,
        *,
        base: str | None = None,
        on_progress: OnBytes | None = None,
    ) -> ModelVersion:
        """The version that an archive holds, registered here; under its own name if no other is given.

        InvalidInput for what is no archive of a model, Corrupt for a changed byte. BadSignature for a signature that
        does not hold under the trust root: ours (FINMAAS_TRUST_ROOT) before a byte is sent, then the platform's.
        """
        archive = _open(path, "model")
        if (root := find_trust_root()) is not None:
            from finmaas_registry.signing import read_trust_root, verify_document

            verify_document(archive.document, archive.manifest.files, read_trust_root(root))
        self._send(archive, on_progress)
        target = parse_ref(name or _name_of(archive), project)
        body = {
            "source": "archive",
            "kind": archive.document.get("model_kind", "full"),
            "files": archive.document["files"],
            "document": {key: value for key, value in archive.document.items() if key != "files"},
            "base": base,
            "description": archive.document.get("description"),
        }
        return ModelVersion.model_validate(self._http.write("POST", f"/models/{target.path}/imports", body))

    def import_dataset(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        project: str = DEFAULT_PROJECT,
        *,
        splits: str | None = None,
        on_progress: OnBytes | None = None,
    ) -> DatasetVersion:
        """The version that the rows of an archive become here, with reports of their own. Raises as `import_model`."""
        archive = _open(path, "dataset")
        self._send(archive, on_progress)
        target = parse_ref(name or _name_of(archive), project)
        document = {key: value for key, value in archive.document.items() if key != "files"}
        body = {"files": archive.document["files"], "document": document, "splits": splits}
        return DatasetVersion.model_validate(self._http.write("POST", f"/datasets/{target.path}/imports", body))

    def origin(self, ref: str, project: str = DEFAULT_PROJECT) -> Origin:
        """Where a model version was before it came here; NotFound for one that was made here."""
        return Origin.model_validate(self._http.get(f"{version_path(self._http, ref, project)}/origin"))

    def _send(self, archive: VersionArchive, on_progress: OnBytes | None) -> None:
        """Puts the blobs that are not there yet; the others are checked all the same."""
        files = distinct(archive.manifest)
        done, total = 0, sum(file.size for file in files)
        for file in files:
            if self._http.exists(f"/blobs/{file.sha256}"):
                archive.check_blob(file)
            else:
                put_stream(self._http, file, partial(archive.open_blob, file), done, total, on_progress)
            done += file.size
            if on_progress is not None:
                on_progress(done, total)

    def _fetch(self, file: FileEntry) -> Iterator[bytes]:
        """The bytes of a blob; a connection that breaks is taken up again where it broke."""
        done, deadline = 0, time.monotonic() + PATIENCE_S
        while done < file.size:
            try:
                for chunk in self._http.stream_bytes(f"/blobs/{file.sha256}", offset=done):
                    done += len(chunk)
                    deadline = time.monotonic() + PATIENCE_S
                    yield chunk
            except httpx.TransportError as error:
                if time.monotonic() > deadline:
                    raise self._http.explain(error) from error
                time.sleep(0.5)  # the control plane restarts: there is nothing to wait on


def put_stream(
    transport: Transport,
    file: FileEntry,
    open_bytes: Callable[[], Iterator[bytes]],
    done: int,
    total: int,
    on_progress: OnBytes | None,
) -> None:
    """Sends a blob from a stream that can be opened anew; the control plane refuses it if its digest is another."""

    def body() -> Iterator[bytes]:
        sent = done
        for chunk in open_bytes():
            yield chunk
            sent += len(chunk)
            if on_progress is not None:
                on_progress(sent, total)

    transport.upload("PUT", f"/blobs/{file.sha256}", body, file.size)


def show_files(files: Sequence[FileEntry]) -> list[Mapping[str, Any]]:
    """Files as a request names them."""
    return [file.as_json() for file in files]


def _open(path: str | os.PathLike[str], kind: str) -> VersionArchive:
    source = Path(path)
    if not source.is_file():
        raise InvalidInput(f"{source} is not a file; give an archive that `finmaas {kind} export` made")
    archive = read_archive(source)
    if archive.kind != kind:
        raise InvalidInput(f"{source.name} holds a {archive.kind}; use `finmaas {archive.kind} import-archive`")
    return archive


def _name_of(archive: VersionArchive) -> str:
    ref = str(archive.document.get("ref", ""))
    try:
        return parse_ref(ref).name
    except InvalidInput as error:
        raise InvalidInput(f"the archive names no version ({ref[:80]!r}); say with --name what to call it") from error

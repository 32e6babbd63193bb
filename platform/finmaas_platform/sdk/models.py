"""Models: importing folders as immutable versions, and looking at them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finmaas_core.errors import InvalidInput
from finmaas_platform.sdk.datasets import CHUNK_BYTES, read_chunks
from finmaas_platform.sdk.objects import FileEntry, Model, ModelVersion
from finmaas_platform.sdk.refs import DEFAULT_PROJECT, Ref, parse_ref
from finmaas_platform.sdk.transport import Transport

OnStage = Callable[[str, int, int], None]
"""Called with the stage (`hash` or `upload`), the bytes done and the bytes in all."""


@dataclass(frozen=True)
class LocalFile:
    """A file to import: its path inside the model, and where it lies."""

    path: str
    source: Path
    size: int


class Models:
    """`client.models`. References may leave out the project (`default/default`) and the version (the newest)."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self, project: str | None = None) -> Iterator[Model]:
        """The models of a project, or all in the caller's sight."""
        return self._http.pages(Model, "/models", project=project)

    def get(self, name: str, project: str = DEFAULT_PROJECT) -> Model:
        """One model; NotFound."""
        return Model.model_validate(self._http.get(f"/models/{parse_ref(name, project).path}"))

    def versions(self, name: str, project: str = DEFAULT_PROJECT) -> Iterator[ModelVersion]:
        """The versions of a model."""
        return self._http.pages(ModelVersion, f"/models/{parse_ref(name, project).path}/versions")

    def version(self, ref: str, project: str = DEFAULT_PROJECT) -> ModelVersion:
        """One version; without a number the newest."""
        return ModelVersion.model_validate(self._http.get(self._version_path(parse_ref(ref, project))))

    def import_folder(
        self,
        folder: str | os.PathLike[str],
        name: str,
        project: str = DEFAULT_PROJECT,
        *,
        kind: str | None = None,
        base: str | None = None,
        description: str | None = None,
        on_progress: OnStage | None = None,
    ) -> ModelVersion:
        """Imports a Hugging Face folder. Files that the store has already are not sent again.

        `kind` is full or adapter, told by the folder when absent; an adapter names its `base`.
        """
        files = find_model_files(Path(folder))
        entries = hash_files(files, on_progress)
        self._send_missing(files, entries, on_progress)
        body = {
            "kind": kind or tell_kind(files),
            "files": [entry.to_json() for entry in entries],
            "base": base,
            "description": description,
        }
        target = parse_ref(name, project)
        return ModelVersion.model_validate(self._http.write("POST", f"/models/{target.path}/versions", body))

    def _send_missing(
        self, files: Sequence[LocalFile], entries: Sequence[FileEntry], on_progress: OnStage | None
    ) -> None:
        total = sum(file.size for file in files)
        done = 0
        sent: set[str] = set()
        for file, entry in zip(files, entries, strict=True):
            base = done

            def report(part: int, _size: int, base: int = base) -> None:
                if on_progress is not None:
                    on_progress("upload", base + part, total)

            if entry.sha256 not in sent and not self._http.exists(f"/blobs/{entry.sha256}"):
                self._send(file, entry, report)
            sent.add(entry.sha256)
            done += file.size
            report(file.size, file.size)

    def _send(self, file: LocalFile, entry: FileEntry, report: Callable[[int, int], None]) -> None:
        self._http.upload(
            "PUT", f"/blobs/{entry.sha256}", lambda: read_chunks(file.source, file.size, report), file.size
        )

    def _version_path(self, ref: Ref) -> str:
        version = ref.version
        if version is None:
            version = self.get(ref.name, ref.project).latest_version
        if version is None:
            version = max(item.version for item in self.versions(ref.name, ref.project))
        return f"/models/{ref.path}/versions/{version}"


def find_model_files(folder: Path) -> list[LocalFile]:
    """The files of a model folder in the order of their paths; hidden files and folders stay behind.

    InvalidInput where there is no model: neither `config.json` nor `adapter_config.json` at the top.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder; give one with a config.json and *.safetensors files")
    found = []
    for source in sorted(folder.rglob("*")):
        path = source.relative_to(folder)
        if source.is_file() and not any(part.startswith(".") for part in path.parts):
            found.append(LocalFile(path.as_posix(), source, source.stat().st_size))
    names = {file.path for file in found}
    if not names & {"config.json", "adapter_config.json"}:
        raise InvalidInput(f"{folder} holds no model: neither config.json nor adapter_config.json is in it")
    return found


def tell_kind(files: Sequence[LocalFile]) -> str:
    """`adapter` for a folder with an adapter's configuration, else `full`."""
    names = {file.path for file in files}
    return "adapter" if "adapter_config.json" in names and "config.json" not in names else "full"


def hash_files(files: Sequence[LocalFile], on_progress: OnStage | None = None) -> list[FileEntry]:
    """The SHA-256 of each file, in the order given."""
    total = sum(file.size for file in files)
    done = 0
    entries = []
    for file in files:
        digest = hashlib.sha256()
        with file.source.open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                done += len(chunk)
                if on_progress is not None:
                    on_progress("hash", done, total)
        entries.append(FileEntry(path=file.path, sha256=digest.hexdigest(), size=file.size))
    return entries

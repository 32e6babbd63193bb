"""Datasets: importing files as immutable versions, and looking at them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finmaas_core.errors import InvalidInput
from finmaas_platform.sdk.hub_import import HubSource, carry_rows
from finmaas_platform.sdk.objects import Dataset, DatasetDiff, DatasetReport, DatasetVersion, DeletionRequest, RowTrace
from finmaas_platform.sdk.refs import DEFAULT_PROJECT, Ref, parse_ref
from finmaas_platform.sdk.transfer import join_stages, pull_files, push_files
from finmaas_platform.sdk.transport import Transport
from finmaas_platform.sdk.version_archives import show_files
from finmaas_registry.model_folder import LocalFile

OnBytes = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""
Rows = list[dict[str, Any]]
RESUMABLE_BYTES = 64 << 20
"""Files up to here are one block, and one request: there is nothing to take up again."""


class Datasets:
    """`client.datasets`. References may leave out the project (`default/default`) and the version (the newest)."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self, project: str | None = None) -> Iterator[Dataset]:
        """The datasets of a project, or all in the caller's sight."""
        return self._http.pages(Dataset, "/datasets", project=project)

    def get(self, name: str, project: str = DEFAULT_PROJECT) -> Dataset:
        """One dataset; NotFound."""
        return Dataset.model_validate(self._http.get(f"/datasets/{parse_ref(name, project).path}"))

    def versions(self, name: str, project: str = DEFAULT_PROJECT) -> Iterator[DatasetVersion]:
        """The versions of a dataset."""
        return self._http.pages(DatasetVersion, f"/datasets/{parse_ref(name, project).path}/versions")

    def version(self, ref: str, project: str = DEFAULT_PROJECT) -> DatasetVersion:
        """One version; without a number the newest."""
        return DatasetVersion.model_validate(self._http.get(self._version_path(parse_ref(ref, project))))

    def report(self, ref: str, project: str = DEFAULT_PROJECT) -> DatasetReport:
        """Near-duplicates, leakage between splits, personal data by column, consent and retention of a version."""
        return DatasetReport.model_validate(self._http.get(f"{self._version_path(parse_ref(ref, project))}/report"))

    def release(self, ref: str, project: str = DEFAULT_PROJECT, *, accept: Sequence[str] = ()) -> DatasetVersion:
        """Draft becomes released; Conflict names what the report holds against it (`accept` takes it by name)."""
        path = f"{self._version_path(parse_ref(ref, project))}/release"
        return DatasetVersion.model_validate(self._post(path, {"accept": list(accept)}))

    def diff(self, before: str, after: str, project: str = DEFAULT_PROJECT, *, sample: int = 3) -> DatasetDiff:
        """What changed between two versions."""
        path = f"{self._version_path(parse_ref(before, project))}/diff"
        to = parse_ref(after, project)
        name = f"{to.project}/{to.name}" + (f"@{to.version}" if to.version is not None else "")
        return DatasetDiff.model_validate(self._http.get(path, to=name, sample=sample))

    def trace(self, *, text: str | None = None, row_id: str | None = None) -> RowTrace:
        """What learned from a row, named by its question or its id."""
        return RowTrace.model_validate(self._post("/dataset-rows/trace", {"text": text, "row_id": row_id}))

    def forget(self, *, reason: str, text: str | None = None, row_id: str | None = None) -> DeletionRequest:
        """Asks that a row be forgotten: new versions without it are made at once, the purge waits for an approval."""
        body = {"text": text, "row_id": row_id, "reason": reason}
        return DeletionRequest.model_validate(self._post("/deletion-requests", body))

    def deletion_requests(self) -> Iterator[DeletionRequest]:
        """All requests of the tenant."""
        return self._http.pages(DeletionRequest, "/deletion-requests")

    def deletion_request(self, request_id: str) -> DeletionRequest:
        """One request; NotFound."""
        return DeletionRequest.model_validate(self._http.get(f"/deletion-requests/{request_id}"))

    def approve_deletion(self, request_id: str) -> DeletionRequest:
        """Agrees, as somebody else than who asked."""
        return DeletionRequest.model_validate(self._post(f"/deletion-requests/{request_id}/approve"))

    def purge_deletion(self, request_id: str) -> DeletionRequest:
        """Takes the rows of the versions that hold the row out of the registry."""
        return DeletionRequest.model_validate(self._post(f"/deletion-requests/{request_id}/purge"))

    def rows(
        self, ref: str, project: str = DEFAULT_PROJECT, *, split: str | None = None, limit: int | None = None
    ) -> Rows:
        """The first rows of a split."""
        path = self._version_path(parse_ref(ref, project))
        items: Rows = self._http.get(f"{path}/rows", split=split, limit=limit)["items"]
        return items

    def download(
        self,
        ref: str,
        folder: str | os.PathLike[str],
        project: str = DEFAULT_PROJECT,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> DatasetVersion:
        """Fetches the files of a version into a folder, checked; those that are there already stay."""
        version = self.version(ref, project)
        pull_files(self._http, version.files, Path(folder), on_progress)
        return version

    def import_file(
        self,
        file: str | os.PathLike[str],
        name: str,
        project: str = DEFAULT_PROJECT,
        *,
        shape: str | None = None,
        text: str | None = None,
        label: str | None = None,
        group: str | None = None,
        splits: str | None = None,
        id_column: str | None = None,
        consent: str | None = None,
        retain_until: str | None = None,
        purpose: str | None = None,
        without_consent: str | None = None,
        options: Mapping[str, Any] | None = None,
        on_progress: OnBytes | None = None,
    ) -> DatasetVersion:
        """Sends a file to become a new version; the same content gives the version that is there already.

        A file above RESUMABLE_BYTES goes in blocks: whoever was killed runs it again, and sends the rest.

        `text`, `label`, `group`, `id_column`, `consent` and `retain_until` name columns; `splits` is like
        `0.8,0.1,0.1`. Rows without consent for `purpose` (training) are refused, or dropped by
        `without_consent="drop"`. BadRow names the first bad row.
        """
        path = Path(file)
        if not path.is_file():
            raise InvalidInput(f"{path} is not a file; give a .csv, .jsonl, .xlsx or .parquet")
        size = path.stat().st_size
        target = parse_ref(name, project)
        read_as = {
            "shape": shape,
            "text": text,
            "label": label,
            "group": group,
            "splits": splits,
            "id_column": id_column,
            "consent": consent,
            "retain_until": retain_until,
            "purpose": purpose,
            "without_consent": without_consent,
            **(options or {}),
        }
        if size > RESUMABLE_BYTES:
            entries = push_files(self._http, [LocalFile(path.name, path, size)], join_stages(on_progress))
            return self._import_put(target, [entry.to_json() for entry in entries], read_as)
        response = self._http.upload(
            "POST",
            f"/datasets/{target.path}/versions",
            lambda: read_chunks(path, size, on_progress),
            size,
            params={"filename": path.name, **read_as},
        )
        return DatasetVersion.model_validate(response.json())

    def import_from_hub(
        self,
        source: HubSource,
        name: str,
        project: str = DEFAULT_PROJECT,
        *,
        path: str | None = None,
        on_progress: OnBytes | None = None,
        **read_as: str | None,
    ) -> DatasetVersion:
        """Imports the rows of a repository of a Hub or a mirror of it: one file, or shards of Parquet in one folder.

        `path` names the file or folder where there are several; `read_as` is as in `import_file`. Files that are here
        already are not fetched again. InvalidInput, NotFound, Unavailable.
        """
        commit, files = carry_rows(self._http, source, path, on_progress)
        told = f"{source.repo} at {commit[:12]} from {source.endpoint}"
        return self._import_put(parse_ref(name, project), show_files(files), {**read_as, "source": told})

    def _import_put(
        self, target: Ref, files: Sequence[Mapping[str, Any]], read_as: Mapping[str, Any]
    ) -> DatasetVersion:
        given = {key: value for key, value in read_as.items() if value is not None}
        body = {"files": files, **given}
        path = f"/datasets/{target.path}/imports/rows"
        return DatasetVersion.model_validate(self._http.write("POST", path, body, is_long=True))

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._http.request("POST", path, json=body).json()

    def _version_path(self, ref: Ref) -> str:
        version = ref.version
        if version is None:
            version = self.get(ref.name, ref.project).latest_version
        return f"/datasets/{ref.path}/versions/{version}"


def read_chunks(path: Path, size: int, on_progress: OnBytes | None) -> Iterator[bytes]:
    """A file's bytes, with a call after each chunk that has been taken."""
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk
            done += len(chunk)
            if on_progress is not None:
                on_progress(done, size)

"""One import over HTTP: spool the body, read it into the store, commit the version. Killed anywhere, it left nothing.

Nothing is visible until the last step, the version's row. Blobs stored before it are found again by their digest when
the import is repeated; scratch is swept at the next start.

Rows are converted in a process of its own (`finmaas_registry.import_process`), which spreads over the processors and
gives way to everything else; only text files of up to SMALL_BYTES are converted here, in less time than that process
takes to start.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import select

from finmaas_core.errors import InvalidInput
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.datasets import DatasetReportRow, DatasetVersionRow, DeletionRequestRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.names import check_name
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.blobs import to_entries
from finmaas_platform.services.datasets import register_dataset_version
from finmaas_platform.services.projects import get_project
from finmaas_registry.splits import SPLITS

if TYPE_CHECKING:
    from finmaas_registry.dataset_import import ConvertedDataset, ImportedDataset, ImportOptions
    from finmaas_registry.import_blocks import StoredRows
    from finmaas_registry.row_index import RowIndex

T = TypeVar("T")

MAX_IMPORTS = 2
"""Files that one control plane converts at once: converting takes processors, receiving does not."""
MAX_WORKERS = 8
SMALL_BYTES = 256 << 10
_TEXTS = {".csv", ".tsv", ".txt", ".jsonl", ".ndjson"}
_converting = threading.BoundedSemaphore(MAX_IMPORTS)


@dataclass(frozen=True)
class ImportTarget:
    """Where an import goes, checked before its first byte is read. `source` is told instead of the file's name."""

    project: str
    name: str
    filename: str
    source: str | None = None


def open_import(deps: Deps, caller: Caller, project: str, name: str, filename: str) -> ImportTarget:
    """Checks names and project. Raises InvalidInput, NotFound."""
    check_name(name, "dataset name")
    plain = PurePosixPath(filename.replace("\\", "/")).name
    if not plain or not plain.isprintable():
        raise InvalidInput(f"{filename[:80]!r} is no file name; give one such as rows.csv")
    with read_unit(deps.sessions) as session:
        get_project(session, caller, project)
    return ImportTarget(project, name, plain)


def import_file(
    deps: Deps, caller: Caller, target: ImportTarget, chunks: Iterator[bytes], options: ImportOptions
) -> tuple[DatasetVersionRow, bool]:
    """The version made of a stream, and whether it is new. Raises what `import_dataset` raises."""
    from finmaas_registry.dataset_import import scratch_folder, store_converted  # pyarrow would slow down the start

    with read_unit(deps.sessions) as session:
        tenant_id = get_project(session, caller, target.project).tenant_id
    options = replace(options, index_key=derive_row_key(deps, tenant_id))
    with scratch_folder(import_scratch(deps)) as folder:
        spooled = folder / "body"
        _spool(chunks, spooled)
        with _converting:
            made = store_converted(_convert(spooled, target.filename, folder, options), deps.store)
    made = replace(made, source=target.source or made.source)
    _check_not_forgotten(deps, tenant_id, made)
    with unit_of_work(deps.sessions) as session:
        project = get_project(session, caller, target.project)
        return register_dataset_version(session, caller, deps.clock.now(), project, target.name, made)


def open_index(deps: Deps, digest: str) -> RowIndex:
    """The index of a version's rows."""
    from finmaas_registry.row_index import RowIndex

    def read(at: int, size: int) -> bytes:
        found = bytearray()
        for chunk in deps.store.open(digest, at):
            found += chunk
            if len(found) >= size:
                break
        return bytes(found[:size])

    return RowIndex.open(read)


def convert_version(
    deps: Deps,
    version: DatasetVersionRow,
    report: DatasetReportRow,
    without: list[int],
    register: Callable[[ImportedDataset], T],
) -> T:
    """A stored version made anew without some of its rows (numbered through its files), and registered."""
    from finmaas_registry.dataset_import import ImportOptions, scratch_folder, store_converted
    from finmaas_registry.import_process import StoredJob, convert_apart
    from finmaas_registry.tags import Tags

    tags = Tags(id=report.report.get("id"))
    key = derive_row_key(deps, version.tenant_id)
    options = ImportOptions(tags=tags, workers=count_workers(), index_key=key)
    with scratch_folder(import_scratch(deps)) as folder, _converting:
        rows = fetch_stored(deps, version, folder / "old", without)
        job = StoredJob(rows, version.schema, version.shape)
        made = convert_apart(version.source, folder, options, stored=job)
        return register(store_converted(made, deps.store))


def fetch_stored(deps: Deps, version: DatasetVersionRow, folder: Path, without: list[int]) -> list[StoredRows]:
    """The files of a version in a folder, as row groups, each with the rows of it that are left out."""
    import pyarrow.parquet as pq

    from finmaas_registry.import_blocks import StoredRows
    from finmaas_registry.materialise import materialise

    materialise(to_entries(version.files), deps.store.open, folder)
    found, first = [], 0
    for split in SPLITS:
        path = folder / "data" / f"{split}.parquet"
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        for number, size in enumerate(sizes):
            gone = tuple(row - first for row in without if first <= row < first + size)
            found.append(StoredRows(path, split, number, gone))
            first += size
    return found


def count_workers() -> int:
    """Processes that convert one file: as many as there are processors for this one, within reason."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MAX_WORKERS)


def derive_row_key(deps: Deps, tenant_id: str) -> bytes:
    """The key under which the tenant's row indexes are written and asked."""
    from finmaas_registry.row_index import derive_key  # numpy would slow down the start

    return derive_key(deps.secrets.pepper, tenant_id)


def import_scratch(deps: Deps) -> Path:
    """Where imports keep their scratch; the control plane sweeps it when it starts (`sweep_scratch`)."""
    return deps.settings.paths.root / "imports"


def _spool(chunks: Iterator[bytes], path: Path) -> None:
    with path.open("xb") as out:
        for chunk in chunks:
            out.write(chunk)


def _convert(path: Path, name: str, folder: Path, options: ImportOptions) -> ConvertedDataset:
    """What packed files hold cannot be told from their size, so they always go to the other process."""
    from finmaas_registry.dataset_import import convert_file
    from finmaas_registry.import_process import convert_apart

    if PurePosixPath(name).suffix.lower() in _TEXTS and path.stat().st_size <= SMALL_BYTES:
        return convert_file(path, name, folder, options)
    return convert_apart(name, folder, replace(options, workers=count_workers()), path=path)


def _check_not_forgotten(deps: Deps, tenant_id: str, made: ImportedDataset) -> None:
    """Raises InvalidInput for a file that brings back a row of which somebody asked that it be forgotten."""
    with read_unit(deps.sessions) as session:
        query = select(DeletionRequestRow)  # unscoped: of the target's tenant
        requests = session.scalars(query.where(DeletionRequestRow.tenant_id == tenant_id)).all()
    index = open_index(deps, made.index.sha256) if requests else None
    for request in requests:
        if index is not None and (rows := index.find(request.kind, int(request.digest, 16))):
            raise InvalidInput(
                f"{made.source} holds {len(rows)} rows that were to be forgotten ({request.id}: {request.reason}); "
                f"remove them; finmaas dataset forget-show {request.id} tells of it",
                request=request.id,
            )

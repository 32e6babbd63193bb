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
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from finmaas_core.errors import InvalidInput
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.datasets import DatasetVersionRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.names import check_name
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.datasets import register_dataset_version
from finmaas_platform.services.projects import get_project

if TYPE_CHECKING:
    from finmaas_registry.dataset_import import ConvertedDataset, ImportOptions

MAX_IMPORTS = 2
"""Files that one control plane converts at once: converting takes processors, receiving does not."""
MAX_WORKERS = 8
SMALL_BYTES = 256 << 10
_TEXTS = {".csv", ".tsv", ".txt", ".jsonl", ".ndjson"}
_converting = threading.BoundedSemaphore(MAX_IMPORTS)


@dataclass(frozen=True)
class ImportTarget:
    """Where an import goes, checked before its first byte is read."""

    project: str
    name: str
    filename: str


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
    with unit_of_work(deps.sessions) as session:
        project = get_project(session, caller, target.project)
        return register_dataset_version(session, caller, deps.clock.now(), project, target.name, made)


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

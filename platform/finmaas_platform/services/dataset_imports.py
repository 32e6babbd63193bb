"""One import over HTTP: spool the body, read it into the store, commit the version. Killed anywhere, it left nothing.

Nothing is visible until the last step, the version's row. Blobs stored before it are found again by their digest when
the import is repeated; scratch is swept at the next start.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
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
    from finmaas_registry.dataset_import import ImportOptions

MAX_IMPORTS = 2
"""Files that one control plane converts at once: converting takes a processor, receiving does not."""
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
    from finmaas_registry.dataset_import import import_dataset, scratch_folder  # pyarrow would slow down the start

    scratch = import_scratch(deps)
    with scratch_folder(scratch) as folder:
        spooled = folder / "body"
        _spool(chunks, spooled)
        with _converting:
            made = import_dataset(spooled, target.filename, deps.store, scratch, options)
    with unit_of_work(deps.sessions) as session:
        project = get_project(session, caller, target.project)
        return register_dataset_version(session, caller, deps.clock.now(), project, target.name, made)


def import_scratch(deps: Deps) -> Path:
    """Where imports keep their scratch; the control plane sweeps it when it starts (`sweep_scratch`)."""
    return deps.settings.paths.root / "imports"


def _spool(chunks: Iterator[bytes], path: Path) -> None:
    with path.open("xb") as out:
        for chunk in chunks:
            out.write(chunk)

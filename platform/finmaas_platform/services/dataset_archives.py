"""A dataset version that was carried here: its rows go through the import once more, for reports of this site.

Splits and statistics of another site are not believed. Splits follow from the rows, so with the same shares a row
is in the same split; the origin keeps the digest that the version had, and whether the files came out the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.datasets import DatasetVersionRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.blobs import check_files_are_put
from finmaas_platform.services.dataset_drafts import choose_rows, read_rows
from finmaas_platform.services.dataset_imports import import_file, open_import
from finmaas_platform.services.version_imports import check_document, keep_origin
from finmaas_registry.manifest import FileEntry
from finmaas_registry.splits import Fractions


def import_dataset_archive(
    deps: Deps,
    caller: Caller,
    project: str,
    name: str,
    files: Sequence[FileEntry],
    document: Mapping[str, Any],
    fractions: Fractions,
) -> tuple[DatasetVersionRow, bool]:
    """The version made of an archive's rows, with its origin, and whether it is new. Raises InvalidInput, BadRow."""
    from finmaas_registry.dataset_import import ImportOptions  # pyarrow would slow down the start

    check_document(document, files)
    with read_unit(deps.sessions) as session:
        check_files_are_put(session, caller, files)
    rows = choose_rows(files)
    shape = document.get("shape")
    options = ImportOptions(shape=None if shape is None else str(shape), fractions=fractions)
    target = open_import(deps, caller, project, name, "rows.parquet")
    row, is_new = import_file(deps, caller, target, read_rows(deps, rows), options)
    with unit_of_work(deps.sessions) as session:
        told = {**document, "same_files": row.digest == document.get("digest")}
        keep_origin(session, caller, deps.clock.now(), "dataset", row, "archive", told)
    return row, is_new

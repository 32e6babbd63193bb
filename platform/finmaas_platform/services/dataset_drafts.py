"""Files of rows that are blobs already, as those of a draft are, become a version by the import that every file of rows
goes through: checks, splits, reports.

Rows are split anew, by stable hash, whatever split their file was named after: only so do equal rows of two versions
share a split, which leakage reports and comparisons count on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from finmaas_core.errors import InvalidInput
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.datasets import DatasetVersionRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.hub import RepoKind
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services import drafts
from finmaas_platform.services.blobs import check_files_are_put, to_entries
from finmaas_platform.services.dataset_imports import import_file, import_scratch, open_import
from finmaas_platform.services.projects import get_project
from finmaas_registry.manifest import FileEntry, check_path
from finmaas_registry.row_files import choose_row_paths
from finmaas_registry.store import BlobStore, read_chunks

if TYPE_CHECKING:
    from finmaas_registry.dataset_import import ImportOptions

_ADDED = ("_row", "_group")  # columns that an import adds; the next one adds its own


def choose_rows(files: Sequence[FileEntry]) -> list[FileEntry]:
    """The files that hold rows: one of any kind, or shards of Parquet in one folder. Raises InvalidInput."""
    rows = {*choose_row_paths(file.path for file in files)}
    return [file for file in files if file.path in rows]


def release_dataset(
    deps: Deps, caller: Caller, project: str, name: str, options: ImportOptions
) -> tuple[DatasetVersionRow, bool]:
    """The version made of a draft, and whether it is new; the draft is gone then, unless it has changed meanwhile.

    Killed in between it is repeated: equal rows are the same version.
    """
    drafts.check_may_write(caller)
    with read_unit(deps.sessions) as session:
        draft = drafts.get_draft(session, caller, RepoKind.DATASET, get_project(session, caller, project), name)
        revision, rows = draft.revision, choose_rows(to_entries(draft.files))
    row, is_new = _import(deps, caller, project, name, rows, options)
    with unit_of_work(deps.sessions) as session:
        found = drafts.get_draft(session, caller, RepoKind.DATASET, get_project(session, caller, project), name)
        if found.revision == revision:
            drafts.close(session, caller, deps.clock.now(), found, row.ref)
    return row, is_new


def import_put_files(
    deps: Deps,
    caller: Caller,
    project: str,
    name: str,
    files: Sequence[FileEntry],
    options: ImportOptions,
    source: str | None = None,
) -> tuple[DatasetVersionRow, bool]:
    """The version made of files that the caller has put as blobs, and whether it is new. `source` says where from."""
    caller.require(Role.TENANT_ADMIN, Role.ML_ENGINEER, Role.ANNOTATOR)
    rows = choose_rows([FileEntry(check_path(file.path), file.sha256, file.size) for file in files])
    with read_unit(deps.sessions) as session:
        check_files_are_put(session, caller, rows)
    return _import(deps, caller, project, name, rows, options, source)


def _import(
    deps: Deps,
    caller: Caller,
    project: str,
    name: str,
    rows: Sequence[FileEntry],
    options: ImportOptions,
    source: str | None = None,
) -> tuple[DatasetVersionRow, bool]:
    target = open_import(deps, caller, project, name, PurePosixPath(rows[0].path).name)
    return import_file(deps, caller, replace(target, source=source), read_rows(deps, rows), options)


def read_rows(deps: Deps, rows: Sequence[FileEntry]) -> Iterator[bytes]:
    """The bytes of one file with all the rows. Raises InvalidInput for shards that do not belong together."""
    if len(rows) == 1 and not rows[0].path.endswith(".parquet"):
        yield from deps.store.open(rows[0].sha256)
        return
    from finmaas_registry.dataset_import import scratch_folder  # pyarrow would slow down the start

    with scratch_folder(import_scratch(deps)) as folder:
        joined = folder / "joined.parquet"
        _join(deps.store, rows, folder / "shard.parquet", joined)
        with joined.open("rb") as file:
            yield from read_chunks(file)


def _join(store: BlobStore, rows: Sequence[FileEntry], shard: Path, joined: Path) -> None:
    """One Parquet file of all shards, a row group at a time. Raises InvalidInput for one with other columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None
    try:
        for file in rows:
            with shard.open("wb") as out:
                out.writelines(store.open(file.sha256))
            for batch in _batches(file, shard):
                writer = writer or pq.ParquetWriter(joined, batch.schema)
                if batch.schema != writer.schema:
                    raise InvalidInput(f"{file.path} has other columns than {rows[0].path}; upload shards of one table")
                writer.write_batch(batch)
    except pa.ArrowInvalid as error:
        raise InvalidInput(f"a shard is no Parquet file ({error}); upload it again") from error
    finally:
        if writer is not None:
            writer.close()


def _batches(file: FileEntry, shard: Path) -> Iterator:  # type: ignore[type-arg]
    import pyarrow.parquet as pq

    with pq.ParquetFile(shard) as opened:
        for batch in opened.iter_batches():
            kept = [name for name in batch.schema.names if name not in _ADDED]
            yield batch.select(kept).replace_schema_metadata(None)

"""Which files of a folder, a draft or a repository hold the rows of one dataset."""

from __future__ import annotations

from collections.abc import Iterable

from finmaas_core.errors import InvalidInput

ROW_ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".xlsx")


def choose_row_paths(paths: Iterable[str]) -> list[str]:
    """One file of any kind, or the shards of Parquet of one folder; InvalidInput for none, and for more than that."""
    rows = [path for path in paths if path.lower().endswith(ROW_ENDINGS)]
    if not rows:
        raise InvalidInput(f"there is no file of rows ({', '.join(ROW_ENDINGS)}) here")
    if len(rows) == 1:
        return rows
    if not all(path.endswith(".parquet") for path in rows):
        raise InvalidInput(f"there are several files of rows ({_some(rows)}); give one, or shards of Parquet")
    folders = sorted({path.rpartition("/")[0] for path in rows})
    if len(folders) > 1:
        raise InvalidInput(f"there are rows in several folders ({_some(folders)}); one dataset is one configuration")
    return rows


def _some(names: list[str]) -> str:
    return ", ".join(name or "/" for name in names[:8]) + (", …" if len(names) > 8 else "")

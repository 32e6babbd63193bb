"""The rows of a split that a job may read today: those that have expired or lack consent stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from finmaas_registry.tags import find_usable


def read_usable(path: Path, columns: Sequence[str] | None = None, today: date | None = None) -> tuple[Any, int]:
    """The table of a split's file without rows whose last day has passed or whose consent is not for training.

    The second value is how many were left out.
    """
    table = pq.read_table(path)
    mask = find_usable(table, today or datetime.now(UTC).date())
    usable = table if mask is None else table.filter(mask)
    left_out = table.num_rows - usable.num_rows
    return (usable if columns is None else usable.select(list(columns))), left_out

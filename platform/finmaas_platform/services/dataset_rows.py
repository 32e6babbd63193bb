"""Rows found by the indexes of versions: which versions hold one, what learned from it, how two versions differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidInput
from finmaas_platform.db.base import read_unit
from finmaas_platform.db.datasets import DatasetReportRow, DatasetVersionRow
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.jobs import JobRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.deps import Deps
from finmaas_platform.domain.dataset_versions import PURGED
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.dataset_imports import derive_row_key, open_index
from finmaas_registry.splits import SPLITS, hash_key, normalise_text

MAX_SAMPLE = 20
Indexed = tuple[DatasetVersionRow, DatasetReportRow]


@dataclass(frozen=True)
class RowQuery:
    """A row as somebody names it: by its question, or by its own id."""

    kind: str
    value: str

    @classmethod
    def of(cls, text: str | None, row_id: str | None) -> RowQuery:
        """Exactly one of the two. Raises InvalidInput."""
        if (text is None) == (row_id is None):
            raise InvalidInput("name the row by `text` or by `row_id`, one of them")
        return cls("text", normalise_text(text)) if text is not None else cls("id", row_id or "")

    def digest(self, deps: Deps, tenant_id: str) -> int:
        """What the indexes of a tenant have in its place."""
        import numpy as np

        from finmaas_registry.row_index import key_digests

        hashed = np.array([int.from_bytes(hash_key(self.value))], np.uint64)
        return int(key_digests(hashed, self.kind, derive_row_key(deps, tenant_id))[0])


@dataclass(frozen=True)
class Found:
    """A version that holds the row, at these places of its files."""

    version: DatasetVersionRow
    rows: list[int]


def find_row(deps: Deps, caller: Caller, query: RowQuery) -> list[Found]:
    """Every version in the caller's sight that holds the row, oldest first. Holds no session while it reads indexes."""
    with read_unit(deps.sessions) as session:
        reports = session.scalars(scoped(select(DatasetReportRow), caller))
        by_version = {report.version_id: report for report in reports}
        query_versions = scoped(select(DatasetVersionRow), caller).where(DatasetVersionRow.state != PURGED)
        versions = session.scalars(query_versions.order_by(DatasetVersionRow.id)).unique().all()
    digests: dict[str, int] = {}
    found = []
    for version in versions:
        report = by_version.get(version.id)
        if report is None:
            continue
        tenant = version.tenant_id
        digests.setdefault(tenant, query.digest(deps, tenant))
        if rows := open_index(deps, report.index_digest).find(query.kind, digests[tenant]):
            found.append(Found(version, rows))
    return found


def trace(session: Session, caller: Caller, found: list[Found]) -> dict[str, Any]:
    """What learned from versions: jobs, the models of these and those built on them, the endpoints that serve them."""
    ids = [one.version.id for one in found]
    jobs = session.scalars(scoped(select(JobRow), caller).where(JobRow.dataset_version_id.in_(ids))).unique().all()
    direct = scoped(select(ModelVersionRow), caller).where(ModelVersionRow.dataset_version_id.in_(ids))
    models = {row.id: row for row in session.scalars(direct).unique()}
    trained = set(models)
    fresh = set(models)
    while fresh:
        built = scoped(select(ModelVersionRow), caller).where(ModelVersionRow.base_version_id.in_(sorted(fresh)))
        further = {row.id: row for row in session.scalars(built).unique() if row.id not in models}
        models |= further
        fresh = set(further)
    serving = scoped(select(EndpointRow), caller).where(EndpointRow.model_version_id.in_(sorted(models)))
    return {
        "versions": [_tell_version(one) for one in found],
        "jobs": [{"id": job.id, "kind": job.kind, "state": job.state} for job in jobs],
        "models": [
            {"id": row.id, "ref": row.ref, "because": "trained on it" if row.id in trained else "built on such a model"}
            for row in sorted(models.values(), key=lambda row: row.id)
        ],
        "endpoints": [
            {"name": row.full_name, "model": row.model_ref, "state": row.state}
            for row in session.scalars(serving).unique()
        ],
    }


def compare_versions(deps: Deps, old: Indexed, new: Indexed, sample: int) -> dict[str, Any]:
    """Rows and schema, counted, with some rows of each kind. Holds no database session while it reads.

    InvalidInput for versions of two tenants.
    """
    from finmaas_registry.dataset_diff import diff_rows, diff_schemas

    if old[0].tenant_id != new[0].tenant_id:
        raise InvalidInput("the versions belong to different tenants; compare versions of one")
    indexes = [open_index(deps, report.index_digest) for _, report in (old, new)]
    found = diff_rows(indexes[0], old[0].splits, indexes[1], new[0].splits)
    changed = zip(
        _rows_at(deps, old[0], found.before[:sample]), _rows_at(deps, new[0], found.after[:sample]), strict=True
    )
    return {
        "before": old[0].ref,
        "after": new[0].ref,
        "by": found.by,
        "schema": diff_schemas(old[0].schema, new[0].schema),
        "counts": {
            "added": len(found.added),
            "removed": len(found.removed),
            "changed": len(found.after),
            "moved": len(found.moved),
            "same": found.same,
        },
        "added": _rows_at(deps, new[0], found.added[:sample]),
        "removed": _rows_at(deps, old[0], found.removed[:sample]),
        "changed": [{"before": before, "after": after} for before, after in changed],
    }


def place_of(splits: dict[str, int], row: int) -> tuple[str, int]:
    """The split and the place in its file of a row that is numbered through the version. IndexError past the last."""
    for split in SPLITS:
        size = splits.get(split, 0)
        if row < size:
            return split, row
        row -= size
    raise IndexError(row)


def _rows_at(deps: Deps, version: DatasetVersionRow, rows: Iterable[Any]) -> list[dict[str, Any]]:
    from finmaas_registry.preview import read_rows_at

    places = [place_of(version.splits, int(row)) for row in rows]
    found: list[dict[str, Any]] = []
    for split in SPLITS:
        wanted = [place for name, place in places if name == split]
        if wanted:
            digest = next(file["sha256"] for file in version.files if file["path"] == f"data/{split}.parquet")
            found.extend({**row, "_split": split} for row in read_rows_at(deps.store, digest, wanted))
    return found


def _tell_version(one: Found) -> dict[str, Any]:
    places = [place_of(one.version.splits, row) for row in one.rows]
    return {
        "id": one.version.id,
        "ref": one.version.ref,
        "rows": len(places),
        "splits": sorted({split for split, _ in places}),
        "is_latest": one.version.number == one.version.dataset.latest_version,
    }

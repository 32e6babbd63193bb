"""Datasets: registering what an import made as an immutable version, and finding versions by reference."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict, NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.blobs import VersionBlobRow
from finmaas_platform.db.datasets import DatasetReportRow, DatasetRow, DatasetVersionRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.dataset_versions import DRAFT, MOVES, PURGED, RELEASED, count_expired, find_objections
from finmaas_platform.domain.names import check_name
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.blobs import hold_blobs, index_version
from finmaas_platform.services.locks import ask_for_lock
from finmaas_platform.services.projects import get_project
from finmaas_platform.services.versions import MAX_KNOWN, lock_project, parse_version_ref, unknown_name, unknown_number
from finmaas_registry.store import Stored

if TYPE_CHECKING:
    from finmaas_registry.dataset_import import ImportedDataset


def register_dataset_version(
    session: Session,
    caller: Caller,
    now: datetime,
    project: ProjectRow,
    name: str,
    made: ImportedDataset,
    *,
    always: bool = False,
) -> tuple[DatasetVersionRow, bool]:
    """The version that holds an import's files, and whether it is new: equal content is the same version.

    `always` makes a new one even so: after a deletion the newest must be the one without the row.
    """
    check_name(name, "dataset name")
    lock_project(session, project)
    dataset = _find_dataset(session, caller, project, name)
    if not always and dataset and (same := _find_same(session, caller, dataset, made.manifest.digest)):
        _keep_report(session, now, same, made)
        return same, False
    dataset = dataset or _add_dataset(session, caller, now, project, name)
    dataset.latest_version += 1
    row = DatasetVersionRow(
        id=new_id("dataset_version"),
        tenant_id=project.tenant_id,
        project_id=project.id,
        dataset=dataset,
        number=dataset.latest_version,
        shape=made.shape,
        rows=made.rows,
        splits=made.splits,
        schema=made.schema,
        stats=made.stats,
        files=[file.as_json() for file in made.manifest.files],
        size_bytes=made.manifest.size_bytes,
        digest=made.manifest.digest,
        source=made.source,
        created_at=now,
        created_by=caller.name,
        state=DRAFT,
    )
    session.add(row)
    session.flush()
    files = made.manifest.files
    hold_blobs(session, now, row.tenant_id, [Stored(file.sha256, file.size) for file in files])
    index_version(session, row.tenant_id, "dataset", row.id, files)
    _keep_report(session, now, row, made)
    after = {"ref": row.ref, "rows": row.rows, "digest": row.digest}
    record_audit(session, caller, now, "dataset_version.create", row.id, after=after, tenant_id=project.tenant_id)
    return row, True


def get_report(session: Session, caller: Caller, version: DatasetVersionRow) -> DatasetReportRow:
    """What the import found out; NotFound for versions from before there were reports."""
    query = scoped(select(DatasetReportRow), caller).where(DatasetReportRow.version_id == version.id)
    if found := session.scalar(query):
        return found
    raise NotFound(f"{version.ref} has no report: it was imported before there were any; import its file again")


def release_version(
    session: Session,
    caller: Caller,
    now: datetime,
    version: DatasetVersionRow,
    accepted: list[str],
    lock_days: int = 0,
) -> DatasetVersionRow:
    """Draft becomes released. Conflict names what the report holds against it, unless it is accepted by name."""
    caller.require(Role.TENANT_ADMIN, Role.ML_ENGINEER, Role.APPROVER)
    if version.state == RELEASED:
        return version
    if RELEASED not in MOVES[version.state]:
        raise Conflict(f"{version.ref} is {version.state} and cannot be released")
    report = get_report(session, caller, version).report
    objections = find_objections(report, count_expired(report, now.date()), accepted)
    if objections:
        told = "; ".join(f"{one.name}: {one.message}" for one in objections)
        names = " ".join(f"--accept {one.name}" for one in objections)
        raise Conflict(f"{version.ref} cannot be released: {told}; mend the rows, or take it on you with {names}")
    version.state, version.released_at, version.released_by = RELEASED, now, caller.name
    before, after = {"state": DRAFT}, {"state": RELEASED, "accepted": sorted(accepted)}
    tenant_id = version.tenant_id
    record_audit(session, caller, now, "dataset_version.release", version.id, before, after, tenant_id=tenant_id)
    ask_for_lock(session, now, "dataset", version, lock_days)
    return version


def check_readable(version: DatasetVersionRow) -> None:
    """Raises Conflict for a version whose rows were purged."""
    if version.state == PURGED:
        raise Conflict(f"the rows of {version.ref} were purged by a deletion request; use a later version")


def resolve_dataset_version(session: Session, caller: Caller, project: ProjectRow, ref: str) -> DatasetVersionRow:
    """The version a reference names, from within a project; NotFound suggests near names."""
    parsed = parse_version_ref(ref, "dataset")
    owner = project if parsed.project is None else get_project(session, caller, parsed.project)
    dataset = get_dataset(session, caller, owner, parsed.name)
    return get_dataset_version(session, caller, dataset, parsed.number or dataset.latest_version)


def get_dataset(session: Session, caller: Caller, project: ProjectRow, name: str) -> DatasetRow:
    """The dataset of a name; NotFound suggests near names."""
    if found := _find_dataset(session, caller, project, name):
        return found
    known = scoped(select(DatasetRow.name), caller).where(DatasetRow.project_id == project.id)
    newest = known.order_by(DatasetRow.id.desc()).limit(MAX_KNOWN)
    raise unknown_name("dataset", name, project.ref, session.scalars(newest))


def get_dataset_version(session: Session, caller: Caller, dataset: DatasetRow, number: int) -> DatasetVersionRow:
    """One version of a dataset; NotFound names the newest."""
    query = scoped(select(DatasetVersionRow), caller).where(
        DatasetVersionRow.dataset_id == dataset.id, DatasetVersionRow.number == number
    )
    if found := session.scalar(query):
        return found
    raise unknown_number("dataset", dataset.name, number, dataset.latest_version)


def select_datasets(session: Session, caller: Caller, project: str | None) -> Select[DatasetRow]:
    """The datasets in the caller's sight, of one project if it is named."""
    query = scoped(select(DatasetRow), caller)
    return query if project is None else query.where(DatasetRow.project_id == get_project(session, caller, project).id)


def select_versions(caller: Caller, dataset: DatasetRow) -> Select[DatasetVersionRow]:
    """The versions of a dataset."""
    return scoped(select(DatasetVersionRow), caller).where(DatasetVersionRow.dataset_id == dataset.id)


def _find_dataset(session: Session, caller: Caller, project: ProjectRow, name: str) -> DatasetRow | None:
    query = scoped(select(DatasetRow), caller).where(DatasetRow.project_id == project.id, DatasetRow.name == name)
    return session.scalar(query)


def _keep_report(session: Session, now: datetime, row: DatasetVersionRow, made: ImportedDataset) -> None:
    """The report belongs to the import: the same content imported with other tags or ids is told about anew."""
    hold_blobs(session, now, row.tenant_id, [Stored(made.index.sha256, made.index.size)])
    report = session.get(DatasetReportRow, row.id)  # unscoped: of a version that was found in scope or just made
    report = report or DatasetReportRow(version_id=row.id, tenant_id=row.tenant_id)
    if report.index_digest != made.index.sha256:
        old = session.get(VersionBlobRow, (row.id, report.index_digest or ""))  # unscoped: of this version
        if old is not None:
            session.delete(old)
        index_version(session, row.tenant_id, "dataset_index", row.id, [made.index])
    report.report, report.index_digest, report.index_size = made.report, made.index.sha256, made.index.size
    session.add(report)


def _find_same(session: Session, caller: Caller, dataset: DatasetRow, digest: str) -> DatasetVersionRow | None:
    query = scoped(select(DatasetVersionRow), caller).where(
        DatasetVersionRow.dataset_id == dataset.id,
        DatasetVersionRow.digest == digest,
        DatasetVersionRow.state != PURGED,
    )
    return session.scalars(query).first()


def _add_dataset(session: Session, caller: Caller, now: datetime, project: ProjectRow, name: str) -> DatasetRow:
    dataset = DatasetRow(
        id=new_id("dataset"),
        tenant_id=project.tenant_id,
        project_id=project.id,
        project=project,
        name=name,
        latest_version=0,
        created_at=now,
        created_by=caller.name,
    )
    session.add(dataset)
    return dataset

"""Requests that a row be forgotten: what holds it, new versions without it, what must be retrained, the purge.

open       recorded; each dataset whose newest version held the row has a newer one without it
approved   somebody else has agreed that the versions that hold it go
purged     their rows are gone from the registry; garbage collection frees the bytes

The request keeps the keyed digest of the row and never the row. Every step is audited, and each may be repeated after a
crash: what is there already is not made twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.blobs import BlobRow, VersionBlobRow
from finmaas_platform.db.datasets import DatasetReportRow, DatasetVersionRow, DeletionRequestRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.deps import Deps
from finmaas_platform.domain.approvals import find_four_eyes_fault
from finmaas_platform.domain.dataset_versions import PURGED
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.approval_rules import find_author, to_person
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.dataset_imports import convert_version
from finmaas_platform.services.dataset_rows import Found, RowQuery, find_row, trace
from finmaas_platform.services.datasets import register_dataset_version
from finmaas_platform.services.drafts import void_drafts

if TYPE_CHECKING:
    from finmaas_registry.dataset_import import ImportedDataset

OPEN, APPROVED = "open", "approved"


def forget_row(deps: Deps, caller: Caller, query: RowQuery, reason: str) -> DeletionRequestRow:
    """Records the request and makes the versions without the row. NotFound when no version holds it."""
    caller.require(Role.TENANT_ADMIN, Role.ML_ENGINEER)
    found = find_row(deps, caller, query)
    with unit_of_work(deps.sessions) as session:
        row = _open_request(session, deps, caller, query, reason, found)
    latest = [one for one in found if one.version.number == one.version.dataset.latest_version]
    made = [_make_without(deps, caller, one) for one in latest]
    with unit_of_work(deps.sessions) as session:
        row = get_request(session, caller, row.id)
        row.made = made
        after = {"digest": row.digest, "made": made}
        _audit(session, caller, deps.clock.now(), row, "forget", None, after)
        return row


def approve_request(session: Session, deps: Deps, caller: Caller, request_id: str) -> DeletionRequestRow:
    """Somebody else agrees. NotAllowed for its author, and for whom four eyes cannot tell from them."""
    caller.require(Role.TENANT_ADMIN, Role.APPROVER)
    row = get_request(session, caller, request_id)
    if row.state != OPEN:
        raise Conflict(f"{row.id} is {row.state}; only an open request can be approved")
    if fault := find_four_eyes_fault(find_author(session, row), to_person(session, caller)):
        raise NotAllowed(f"{row.id} cannot be approved by {caller.name}: {fault}")
    row.state, row.approved_at, row.approved_by = APPROVED, deps.clock.now(), caller.name
    after = {"state": APPROVED}
    _audit(session, caller, row.approved_at, row, "approve", {"state": OPEN}, after)
    return row


def purge_request(session: Session, deps: Deps, caller: Caller, request_id: str) -> DeletionRequestRow:
    """Takes the rows of every version that holds the row out of the registry. The versions' records stay; open drafts
    of these datasets, and drafts with files of these versions, are void.

    Conflict before somebody else has approved the request.
    """
    caller.require(Role.TENANT_ADMIN, Role.ML_ENGINEER)
    row = get_request(session, caller, request_id)
    if row.state == PURGED:
        return row
    if row.state != APPROVED:
        raise Conflict(
            f"{row.id} is {row.state}; somebody else approves first: finmaas dataset forget-approve {row.id}"
        )
    now = deps.clock.now()
    ids = [version["id"] for version in row.found["versions"]]
    query = scoped(select(DatasetVersionRow), caller).where(DatasetVersionRow.id.in_(ids))
    versions = session.scalars(query).unique().all()
    # What a draft was begun with, or its author has sent anew, may hold the row too.
    names = {(version.dataset.project_id, version.dataset.name) for version in versions}
    digests = {file["sha256"] for version in versions for file in version.files}
    void_drafts(session, caller, now, row.tenant_id, names, digests)
    for version in versions:
        _purge_version(session, version)
        after = {"state": PURGED, "request": row.id}
        if version.locked_until is not None and version.locked_until > now:
            after["locked_until"] = version.locked_until.isoformat()
        record_audit(session, caller, now, "dataset_version.purge", version.id, None, after, tenant_id=row.tenant_id)
    row.state, row.purged_at = PURGED, now
    _audit(session, caller, now, row, "purge", {"state": APPROVED}, {"state": PURGED})
    return row


def get_request(session: Session, caller: Caller, request_id: str) -> DeletionRequestRow:
    """One request; NotFound."""
    query = scoped(select(DeletionRequestRow), caller).where(DeletionRequestRow.id == request_id)
    if found := session.scalar(query):
        return found
    raise NotFound(f"there is no deletion request {request_id[:60]}; finmaas dataset forget-list shows them")


def select_requests(caller: Caller) -> Select[DeletionRequestRow]:
    """The requests of the caller's tenant."""
    return scoped(select(DeletionRequestRow), caller)


def _open_request(
    session: Session, deps: Deps, caller: Caller, query: RowQuery, reason: str, found: list[Found]
) -> DeletionRequestRow:
    tenants = {one.version.tenant_id for one in found}
    if not tenants:
        raise NotFound(
            "no version in your sight holds this row; give its question as it was imported, or its id where the import "
            "named an id column"
        )
    if len(tenants) > 1:
        raise InvalidInput("several tenants hold this row; ask as a principal of one of them")
    tenant_id, now = tenants.pop(), deps.clock.now()
    row = DeletionRequestRow(
        id=new_id("deletion_request"),
        tenant_id=tenant_id,
        kind=query.kind,
        digest=f"{query.digest(deps, tenant_id):016x}",
        reason=reason,
        state=OPEN,
        found=trace(session, caller, found),
        made=[],
        created_at=now,
        created_by=caller.name,
        author_id=caller.id,
        author_token_holders=sorted(caller.token_holders),
    )
    session.add(row)
    after = {"kind": row.kind, "digest": row.digest, "versions": [one.version.ref for one in found]}
    _audit(session, caller, now, row, "create", None, after)
    return row


def _make_without(deps: Deps, caller: Caller, found: Found) -> dict[str, Any]:
    """The dataset's newest version again, but for the row; says what it is called. None is left: that is said too."""
    version = found.version
    with read_unit(deps.sessions) as session:
        report = session.get(DatasetReportRow, version.id)  # unscoped: of a version that was found in scope
    assert report is not None
    if version.rows == len(found.rows):
        return {"of": version.ref, "ref": None, "why": "no other row is in it"}

    def register(made: ImportedDataset) -> dict[str, Any]:
        with unit_of_work(deps.sessions) as session:
            dataset = version.dataset
            row, _ = register_dataset_version(
                session, caller, deps.clock.now(), dataset.project, dataset.name, made, always=True
            )
            return {"of": version.ref, "ref": row.ref, "rows": row.rows}

    return convert_version(deps, version, report, found.rows, register)


def _purge_version(session: Session, version: DatasetVersionRow) -> None:
    """No row names its blobs any more; its own record stays, without what could tell of its rows."""
    report = session.get(DatasetReportRow, version.id)  # unscoped: of a version that was found in scope
    digests = {file["sha256"] for file in version.files} | ({report.index_digest} if report else set())
    named = select(VersionBlobRow.digest).where(  # unscoped: of one version and its own tenant
        VersionBlobRow.tenant_id == version.tenant_id,
        VersionBlobRow.version_id != version.id,
        VersionBlobRow.digest.in_(digests),
    )
    kept = set(session.scalars(named))
    own = delete(VersionBlobRow).where(VersionBlobRow.version_id == version.id)  # unscoped: of one version
    session.execute(own)
    held = delete(BlobRow).where(  # unscoped: of the version's own tenant
        BlobRow.tenant_id == version.tenant_id, BlobRow.digest.in_(sorted(digests - kept))
    )
    session.execute(held)
    if report is not None:
        session.delete(report)
    version.state, version.files, version.stats = PURGED, [], {}


def _audit(
    session: Session,
    caller: Caller,
    now: datetime,
    row: DeletionRequestRow,
    what: str,
    before: dict[str, Any] | None,
    after: dict[str, Any],
) -> None:
    record_audit(session, caller, now, f"deletion_request.{what}", row.id, before, after, tenant_id=row.tenant_id)

"""Who may see a blob, and who holds it. Strict: the digest of another tenant's file opens nothing.

principal        what its tenant has put or owns; platform-wide ones everything
job              the files of its inputs, and what the job itself has put
node             the files of model versions
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidInput, NotAllowed, NotFound
from finmaas_core.quantities import check_digest
from finmaas_platform.db.blobs import PLATFORM, BlobRow, JobBlobRow, VersionBlobRow
from finmaas_platform.db.jobs import JobRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.principals import Caller, CallerKind, Role
from finmaas_platform.services.blob_touches import batches, touch_stored
from finmaas_registry.manifest import FileEntry
from finmaas_registry.store import Stored


def check_may_read(session: Session, caller: Caller, digest: str) -> None:
    """Raises NotFound unless the caller may read the blob; the same words whether or not it exists."""
    check_digest(digest)
    if not _may_read(session, caller, digest):
        raise out_of_sight(digest)


def check_may_put(caller: Caller) -> None:
    """Raises NotAllowed unless the caller may put blobs at all."""
    if caller.kind is not CallerKind.JOB:
        caller.require(Role.TENANT_ADMIN, Role.ML_ENGINEER, Role.ANNOTATOR)


def record_put(session: Session, caller: Caller, now: datetime, *stored: Stored) -> None:
    """Notes that the caller's tenant (and job) holds stored blobs. NotAllowed for a job token that names no job."""
    hold_blobs(session, now, caller.tenant_id or PLATFORM, stored)
    if caller.kind is CallerKind.JOB:
        if caller.job_id is None or caller.tenant_id is None:
            raise NotAllowed("this job token names no job; fetch a new one")
        for digest in sorted({one.digest for one in stored}):
            if session.get(JobBlobRow, (caller.job_id, digest)) is None:
                session.add(JobBlobRow(job_id=caller.job_id, digest=digest, tenant_id=caller.tenant_id))


def hold_blobs(session: Session, now: datetime, tenant_id: str, blobs: Iterable[Stored]) -> None:
    """Makes a tenant a holder of blobs that are in the store; those it holds already stay as they are.

    Whoever names blobs calls this in the same transaction: it keeps them from being collected. InvalidInput for one
    that was collected already.
    """
    sizes = {stored.digest: stored.size for stored in blobs}
    touch_stored(session, now, sizes)
    for batch in batches(sizes):
        # unscoped: the tenant that is to hold them
        query = select(BlobRow.digest).where(BlobRow.tenant_id == tenant_id, BlobRow.digest.in_(batch))
        held = set(session.scalars(query))
        session.add_all(
            BlobRow(tenant_id=tenant_id, digest=digest, size_bytes=sizes[digest], created_at=now)
            for digest in batch
            if digest not in held
        )
        session.flush()


def find_in_sight(session: Session, caller: Caller, digests: Iterable[str]) -> dict[str, int]:
    """The sizes of those blobs that a principal's tenant, or a job, has put or holds."""
    found: dict[str, int] = {}
    for batch in batches(digests):
        query = scoped(select(BlobRow.digest, BlobRow.size_bytes), caller).where(BlobRow.digest.in_(batch))
        found.update((digest, size) for digest, size in session.execute(query))
    if caller.kind is CallerKind.PRINCIPAL:
        return found
    return {digest: size for digest, size in found.items() if _may_read(session, caller, digest)}


def check_files_are_put(session: Session, caller: Caller, files: Sequence[FileEntry]) -> None:
    """Raises InvalidInput for the first file whose blob the caller has not put, or whose size is another."""
    sizes = find_in_sight(session, caller, [file.sha256 for file in files])
    for file in files:
        size = sizes.get(file.sha256)
        if size is None:
            raise InvalidInput(
                f"the bytes of {file.path} were not sent: PUT /api/v1/blobs/{file.sha256} first", path=file.path
            )
        if size != file.size:
            raise InvalidInput(
                f"{file.path} is {size} bytes long, not {file.size}; read the file again", path=file.path
            )


def find_size(session: Session, caller: Caller, digest: str) -> int | None:
    """The size of a blob that the caller may read, else None."""
    check_digest(digest)
    if not _may_read(session, caller, digest):
        return None
    return session.scalars(scoped(select(BlobRow.size_bytes), caller).where(BlobRow.digest == digest)).first()


def get_size(session: Session, caller: Caller, digest: str) -> int:
    """The size of a blob that the caller may read; NotFound, in the same words whether or not it exists."""
    size = find_size(session, caller, digest)
    if size is None:
        raise out_of_sight(digest)
    return size


def out_of_sight(digest: str) -> NotFound:
    """What is said of a blob that the caller may not read."""
    return NotFound(f"there is no blob {digest} in your sight")


def index_version(session: Session, tenant_id: str, kind: str, version_id: str, files: Iterable[FileEntry]) -> None:
    """Notes which blobs a new version names."""
    for digest in sorted({file.sha256 for file in files}):
        session.add(VersionBlobRow(version_id=version_id, digest=digest, tenant_id=tenant_id, kind=kind))


def unindex_version(session: Session, version_id: str, digests: Collection[str] | None = None) -> None:
    """Takes back what `index_version` noted: for some blobs, or for all. For drafts; versions never change."""
    query = delete(VersionBlobRow).where(VersionBlobRow.version_id == version_id)
    session.execute(query if digests is None else query.where(VersionBlobRow.digest.in_(digests)))


def to_entries(files: Iterable[Mapping[str, Any]]) -> list[FileEntry]:
    """The `files` column of a version as entries."""
    return [FileEntry(file["path"], file["sha256"], file["size"]) for file in files]


def _may_read(session: Session, caller: Caller, digest: str) -> bool:
    if caller.kind is CallerKind.NODE:
        query = select(VersionBlobRow.version_id)  # unscoped: nodes serve every tenant
        query = query.where(VersionBlobRow.digest == digest, VersionBlobRow.kind == "model")
        return session.scalars(query).first() is not None
    if caller.kind is CallerKind.JOB:
        return _is_own_or_input(session, caller, digest)
    if caller.kind is not CallerKind.PRINCIPAL:
        return False
    return session.scalars(scoped(select(BlobRow), caller).where(BlobRow.digest == digest)).first() is not None


def _is_own_or_input(session: Session, caller: Caller, digest: str) -> bool:
    if session.get(JobBlobRow, (caller.job_id, digest)) is not None:
        return True
    job = session.scalars(scoped(select(JobRow), caller).where(JobRow.id == caller.job_id)).first()
    if job is None:
        return False
    inputs = [job.dataset_version_id, job.base_version_id, job.subject_version_id]
    # unscoped: an input may come from a project that another tenant granted; the job's row names it.
    query = select(VersionBlobRow.version_id).where(
        VersionBlobRow.digest == digest, VersionBlobRow.version_id.in_([one for one in inputs if one])
    )
    return session.scalars(query).first() is not None

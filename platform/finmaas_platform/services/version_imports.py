"""Versions that come from elsewhere, and what one needs to go elsewhere: its document, and its origin.

Of what another site says only the files count, and its signature where a trust root is configured: both are checked
here. Its metrics and lineage are kept beside the version, as a record, and never taken for results of this site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidInput
from finmaas_platform.db.approvals import ModelSignatureRow
from finmaas_platform.db.datasets import DatasetVersionRow
from finmaas_platform.db.jobs import JobRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.db.origins import OriginRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.model_checks import CheckedModel
from finmaas_platform.services.models import register_model_version, resolve_model_version
from finmaas_registry.manifest import FileEntry, make_manifest


def describe_model(session: Session, caller: Caller, now: datetime, row: ModelVersionRow) -> dict[str, Any]:
    """The document of a model version: files, lineage as far as the caller sees it, signature, origin."""
    return {
        **_describe(session, caller, now, "model", row),
        "model_kind": row.kind,
        "description": row.description,
        "metrics": row.metrics,
        "state": row.state,
        "materials": row.materials,
        "lineage": {
            "base": _identify(_find(session, caller, ModelVersionRow, row.base_version_id)),
            "dataset": _identify(_find(session, caller, DatasetVersionRow, row.dataset_version_id)),
            "job": _describe_job(_find(session, caller, JobRow, row.job_id)),
        },
        "signature": _describe_signature(session, caller, row),
    }


def describe_dataset(session: Session, caller: Caller, now: datetime, row: DatasetVersionRow) -> dict[str, Any]:
    """The document of a dataset version."""
    return {
        **_describe(session, caller, now, "dataset", row),
        "shape": row.shape,
        "rows": row.rows,
        "splits": row.splits,
        "schema": row.schema,
        "stats": row.stats,
        "source": row.source,
        "state": row.state,
    }


def import_model(
    session: Session,
    caller: Caller,
    now: datetime,
    project: ProjectRow,
    name: str,
    source: str,
    checked: CheckedModel,
    document: Mapping[str, Any],
    base: str | None = None,
    description: str = "",
    verified_by: str | None = None,
) -> ModelVersionRow:
    """Registers a candidate that came from elsewhere, with its origin. Raises what `register_model_version` raises.

    The base of an adapter is the version that is named, else one here with the files that its document tells of.
    """
    check_document(document, checked.manifest.files)
    base_row = _find_base(session, caller, project, document, base) if checked.kind == "adapter" or base else None
    row = register_model_version(
        session,
        caller,
        now,
        project,
        name,
        checked,
        base_version_id=base_row.id if base_row else None,
        description=description,
    )
    keep_origin(session, caller, now, "model", row, source, document, verified_by)
    return row


def keep_origin(
    session: Session,
    caller: Caller,
    now: datetime,
    kind: str,
    row: ModelVersionRow | DatasetVersionRow,
    source: str,
    document: Mapping[str, Any],
    verified_by: str | None = None,
) -> None:
    """Notes where a version came from, with an audit event; a note stays unless a verified one comes after it."""
    found = find_origin(session, caller, row.id)
    if found is not None and (found.verified_by is not None or verified_by is None):
        return
    kept = {key: value for key, value in document.items() if key != "files"}
    if found is None:
        found = OriginRow(version_id=row.id, tenant_id=row.tenant_id, kind=kind)
        session.add(found)
    found.source, found.document, found.verified_by = source, kept, verified_by
    found.created_at, found.created_by = now, caller.name
    after = {"ref": row.ref, "digest": row.digest, "source": source, "from": document.get("ref")}
    after |= {"signed": document.get("signature") is not None, "verified_by": verified_by}
    record_audit(session, caller, now, f"{kind}_version.import", row.id, after=after, tenant_id=row.tenant_id)


def find_origin(session: Session, caller: Caller, version_id: str) -> OriginRow | None:
    """Where a version came from; None for one that was made here."""
    return session.scalar(scoped(select(OriginRow), caller).where(OriginRow.version_id == version_id))


def _describe(
    session: Session, caller: Caller, now: datetime, kind: str, row: ModelVersionRow | DatasetVersionRow
) -> dict[str, Any]:
    origin = find_origin(session, caller, row.id)
    return {
        "kind": kind,
        **(_identify(row) or {}),
        "files": row.files,
        "created_at": row.created_at.isoformat(),
        "created_by": row.created_by,
        "exported_at": now.isoformat(),
        "exported_by": caller.name,
        "origin": {"source": origin.source, "document": origin.document} if origin else None,
    }


def _identify(row: ModelVersionRow | DatasetVersionRow | None) -> dict[str, Any] | None:
    return None if row is None else {"id": row.id, "ref": row.ref, "digest": row.digest, "size_bytes": row.size_bytes}


def _describe_job(row: JobRow | None) -> dict[str, Any] | None:
    return None if row is None else {"id": row.id, "kind": row.kind, "spec": row.spec, "created_by": row.created_by}


def _describe_signature(session: Session, caller: Caller, row: ModelVersionRow) -> dict[str, Any] | None:
    found = session.scalar(scoped(select(ModelSignatureRow), caller).where(ModelSignatureRow.version_id == row.id))
    if found is None:
        return None
    return {"bundle": found.bundle, "key_id": found.key_id, "signed_at": found.signed_at.isoformat()}


def _find(session: Session, caller: Caller, table: Any, row_id: str | None) -> Any:
    return None if row_id is None else session.scalar(scoped(select(table), caller).where(table.id == row_id))


def check_document(document: Mapping[str, Any], files: Sequence[FileEntry]) -> None:
    """Raises InvalidInput unless the files are those that a document's digest stands for."""
    told, found = document.get("digest"), make_manifest(files).digest
    if told is not None and told != found:
        raise InvalidInput(f"the files have the digest {found}, the document says {told}; take its own archive")


def _find_base(
    session: Session, caller: Caller, project: ProjectRow, document: Mapping[str, Any], base: str | None
) -> ModelVersionRow | None:
    if base is not None:
        return resolve_model_version(session, caller, project, base)
    told = (document.get("lineage") or {}).get("base") or {}
    query = scoped(select(ModelVersionRow), caller).where(
        ModelVersionRow.tenant_id == project.tenant_id, ModelVersionRow.digest == str(told.get("digest"))
    )
    if found := session.scalars(query.order_by(ModelVersionRow.id)).first():
        return found
    known = f" ({told['ref']} where it was made)" if told.get("ref") else ""
    raise InvalidInput(f"the base of this adapter{known} is not here; import that first, or name it with `base`")

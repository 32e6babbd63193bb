"""A project's rules of approval: setting them, and what they say of a version. The deciding is in the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_platform.db.approvals import ApprovalRulesRow
from finmaas_platform.db.audit_events import AuditEventRow
from finmaas_platform.db.datasets import DatasetVersionRow, DeletionRequestRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.db.principals import PrincipalRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.approvals import Evaluation, Facts, Person, Rules, read_rules
from finmaas_platform.domain.principals import Caller, PrincipalKind, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.privacy import find_privacy_findings
from finmaas_platform.services.signatures import holds
from finmaas_platform.services.versions import lock_project
from finmaas_registry.signing import TrustRoot

KEEPERS = (Role.TENANT_ADMIN, Role.APPROVER)
_MOST_CREATORS = 50


def find_rules(session: Session, caller: Caller, project: ProjectRow) -> ApprovalRulesRow | None:
    """The rules of a project; None when it has set none, and the default holds."""
    return session.scalar(scoped(select(ApprovalRulesRow), caller).where(ApprovalRulesRow.project_id == project.id))


def get_rules(session: Session, caller: Caller, project: ProjectRow) -> Rules:
    """The rules that hold in a project: the default protects the alias `production`, and asks nothing else."""
    row = find_rules(session, caller, project)
    return Rules() if row is None else read_rules(row.document)


def store_rules(
    session: Session, caller: Caller, now: datetime, project: ProjectRow, document: Mapping[str, Any]
) -> ApprovalRulesRow:
    """Sets the rules of a project; what is approved already stays so. InvalidInput names what cannot be used."""
    caller.require(*KEEPERS)
    plain = read_rules(document).model_dump(mode="json", exclude_none=True)
    lock_project(session, project)
    row = find_rules(session, caller, project)
    before = None if row is None else row.document
    if row is not None and before == plain:
        return row
    if row is None:
        row = ApprovalRulesRow(project_id=project.id, project=project, tenant_id=project.tenant_id)
        session.add(row)
    row.document = plain
    row.updated_at, row.updated_by = now, caller.name
    session.flush()
    record_audit(session, caller, now, "approval_rules.set", project.id, before, plain, tenant_id=project.tenant_id)
    return row


def gather_facts(
    session: Session, caller: Caller, version: ModelVersionRow, approver: Person | None, trust: TrustRoot
) -> Facts:
    """What the rules look at."""
    base = _find_base(session, caller, version)
    return Facts(
        ref=version.ref,
        evaluations=[_to_evaluation(entry) for entry in version.metrics.get("evaluations", ())],
        privacy=find_privacy(session, caller, version),
        base=None if base is None else base.ref,
        base_signed=None if base is None else holds(session, trust, base),
        author=find_author(session, version),
        approver=approver,
    )


def to_person(session: Session, caller: Caller) -> Person:
    """The caller as four eyes see them."""
    return Person(
        id=caller.id,
        name=caller.name,
        made_by=_find_creators(session, caller.id),
        token_holders=caller.token_holders,
        is_service=caller.principal_kind is not PrincipalKind.USER,
        by_oidc=caller.by_oidc,
    )


def find_author(session: Session, version: ModelVersionRow | DeletionRequestRow) -> Person | None:
    """Who stands behind a version or a request; None where that is not known."""
    return None if version.author_id is None else _find(session, version.author_id, version.author_token_holders)


def find_authors(session: Session, version: ModelVersionRow) -> list[Person | None]:
    """Its author first, then the others who committed to the draft that it was."""
    others = [_find(session, one["id"], one["token_holders"]) for one in version.co_authors]
    return [find_author(session, version), *others]


def _find(session: Session, principal_id: str, token_holders: Sequence[str]) -> Person | None:
    row = session.get(PrincipalRow, principal_id)  # unscoped: an admin of the platform may be an author
    if row is None:
        return None
    return Person(row.id, row.name, _find_creators(session, row.id), frozenset(token_holders))


def _find_creators(session: Session, principal_id: str) -> frozenset[str]:
    """Who made a principal, and who made those, up to the first one; and who said which login it is."""
    found = _find_linkers(session, principal_id)
    row = session.get(PrincipalRow, principal_id)  # unscoped: creators of a principal may be of the platform
    made: set[str] = set()
    while row is not None and row.created_by_id and row.created_by_id not in made and len(made) < _MOST_CREATORS:
        made.add(row.created_by_id)
        row = session.get(PrincipalRow, row.created_by_id)  # unscoped: as above
    return frozenset((found | made) - {principal_id})


def _find_linkers(session: Session, principal_id: str) -> set[str]:
    """Who linked a principal to a login: it may have been a login of their own, now or before."""
    events = session.scalars(
        select(AuditEventRow).where(  # unscoped: of one principal
            AuditEventRow.action == "principal.update", AuditEventRow.target == principal_id
        )
    )
    return {one.caller_id for one in events if _says_who(one.after) and _says_who(one.after) != _says_who(one.before)}


def _says_who(told: Mapping[str, Any] | None) -> tuple[Any, Any] | None:
    """Issuer and subject in what an audit event tells of a principal; None where it had none."""
    return (told.get("issuer"), told["subject"]) if told and told.get("subject") else None


def _find_base(session: Session, caller: Caller, version: ModelVersionRow) -> ModelVersionRow | None:
    if version.base_version_id is None:
        return None
    return session.scalar(scoped(select(ModelVersionRow), caller).where(ModelVersionRow.id == version.base_version_id))


def find_privacy(session: Session, caller: Caller, version: ModelVersionRow) -> dict[str, list[str] | None]:
    """What the privacy reports say of the data that a version learned from; None where there is no report."""
    if version.dataset_version_id is None:
        return {}
    query = scoped(select(DatasetVersionRow), caller).where(DatasetVersionRow.id == version.dataset_version_id)
    return {row.ref: find_privacy_findings(session, row) for row in session.scalars(query)}


def _to_evaluation(entry: Mapping[str, Any]) -> Evaluation:
    name = str(entry["dataset"]).partition("@")[0].rpartition("/")[2]
    return Evaluation(entry["job_id"], name, entry["split"], entry["scores"])

"""Cards of model versions: generated until somebody writes one; every edition is kept."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from finmaas_core.errors import VersionMismatch
from finmaas_core.ids import new_id
from finmaas_platform.db.approvals import ModelCardRow, ModelEventRow, ModelSignatureRow
from finmaas_platform.db.jobs import JobRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.cards import CardFacts, Language, render_card
from finmaas_platform.domain.model_versions import APPROVERS, MAKERS
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.approval_rules import find_privacy
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.lineage import get_lineage
from finmaas_platform.services.models import lock_version


def select_editions(caller: Caller, version: ModelVersionRow, language: Language) -> Select[ModelCardRow]:
    """The editions of a card that people wrote."""
    query = scoped(select(ModelCardRow), caller)
    return query.where(ModelCardRow.version_id == version.id, ModelCardRow.language == language)


def find_edition(session: Session, caller: Caller, version: ModelVersionRow, language: Language) -> ModelCardRow | None:
    """The newest edition; None while the card is the generated one."""
    return session.scalar(select_editions(caller, version, language).order_by(ModelCardRow.number.desc()).limit(1))


def get_card(session: Session, caller: Caller, version: ModelVersionRow, language: Language) -> str:
    """The card as it counts now, as Markdown."""
    found = find_edition(session, caller, version, language)
    return found.text if found is not None else generate_card(session, caller, version, language)


def generate_card(session: Session, caller: Caller, version: ModelVersionRow, language: Language) -> str:
    """The card that follows from what is known."""
    graph = get_lineage(session, caller, "model_version", version.id, ("up",), depth=2)
    job = None
    if version.job_id is not None:
        job = session.scalar(scoped(select(JobRow), caller).where(JobRow.id == version.job_id))
    events = scoped(select(ModelEventRow), caller).where(
        ModelEventRow.version_id == version.id, ModelEventRow.alias.is_(None)
    )
    signed = select(ModelSignatureRow.key_id).where(ModelSignatureRow.version_id == version.id)  # unscoped: in scope
    facts = CardFacts(
        ref=version.ref,
        kind=version.kind,
        state=version.state,
        description=version.description,
        digest=version.digest,
        size_bytes=version.size_bytes,
        author=version.created_by,
        created=version.created_at.isoformat(timespec="seconds"),
        origins=[(node.kind.replace("_", " "), node.ref) for node in graph.nodes if node != graph.root],
        parameters={} if job is None else job.spec,
        evaluations=version.metrics.get("evaluations", ()),
        privacy=find_privacy(session, caller, version),
        materials=version.materials,
        approvals=[
            f"{row.at.isoformat(timespec='seconds')} {row.action}: {row.before} → {row.after}, {row.by_name}"
            + (f" ({row.note})" if row.note else "")
            for row in session.scalars(events.order_by(ModelEventRow.at))
        ],
        key_id=session.scalar(signed),
    )
    return render_card(facts, language)


def store_card(
    session: Session,
    caller: Caller,
    now: datetime,
    version: ModelVersionRow,
    language: Language,
    text: str,
    expected: int | None,
) -> ModelCardRow:
    """A new edition. `expected` is the number of the newest, 0 for the generated card; VersionMismatch."""
    caller.require(*MAKERS, *APPROVERS)
    lock_version(session, version)
    newest = find_edition(session, caller, version, language)
    number = 0 if newest is None else newest.number
    if expected is not None and expected != number:
        raise VersionMismatch(
            f"If-Match names edition {expected}, the newest is {number}; read it again and repeat your change",
            current_version=number,
        )
    row = ModelCardRow(
        id=new_id("model_card"),
        tenant_id=version.tenant_id,
        version_id=version.id,
        language=language,
        number=number + 1,
        text=text,
        at=now,
        by=caller.name,
    )
    session.add(row)
    after = {"ref": version.ref, "language": language, "edition": row.number}
    record_audit(session, caller, now, "model_card.set", version.id, None, after, tenant_id=version.tenant_id)
    return row

"""Outside providers: kept by platform-admins, opened to single projects, their secrets sealed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from ipaddress import ip_address
from urllib.parse import urlsplit

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from finmaas_core.errors import AlreadyExists, InvalidInput, NotFound
from finmaas_core.ids import new_id
from finmaas_core.sealing import seal_secret
from finmaas_platform.db.base import insert_unique
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.providers import ProviderApprovalRow, ProviderRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.names import check_name
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.snapshots import bump_snapshot
from finmaas_serving.gateway.external import PURPOSE


def select_providers() -> Select[ProviderRow]:
    """All providers: their names are no secret, and everybody may see what could be asked for."""
    return select(ProviderRow)  # unscoped: of no tenant


def get_provider(session: Session, name: str) -> ProviderRow:
    """By name; NotFound."""
    row = session.scalar(select_providers().where(ProviderRow.name == name))
    if row is None:
        raise NotFound(f"there is no provider {name}; `finmaas provider list` shows them")
    return row


def create_provider(
    session: Session, caller: Caller, now: datetime, pepper: str, name: str, base_url: str, secret: str
) -> ProviderRow:
    """A new provider that no project may use yet; platform-admins only. InvalidInput for a secret of several lines."""
    caller.require()
    if not (secret.isascii() and secret.isprintable()) or secret != secret.strip():
        raise InvalidInput("the secret must be one line of printable ASCII: it goes into a header", param="secret")
    row = ProviderRow(
        id=new_id("provider"),
        name=check_name(name, "provider name"),
        base_url=check_base_url(base_url),
        sealed=seal_secret(pepper.encode(), PURPOSE, secret),
        created_at=now,
        created_by=caller.id,
    )
    insert_unique(session, row, f"the provider {name} exists already; delete it first, or choose another name")
    bump_snapshot(session)
    record_audit(session, caller, now, "provider.create", row.id, after={"name": name, "base_url": row.base_url})
    return row


def delete_provider(session: Session, caller: Caller, now: datetime, row: ProviderRow) -> None:
    """Takes a provider away, its approvals with it; plans that name it go on without."""
    caller.require()
    approvals = ProviderApprovalRow.provider_id == row.id
    session.execute(delete(ProviderApprovalRow).where(approvals))  # unscoped: a provider is of no tenant
    session.delete(row)
    bump_snapshot(session)
    record_audit(session, caller, now, "provider.delete", row.id, before={"name": row.name, "base_url": row.base_url})


def approve_provider(
    session: Session, caller: Caller, now: datetime, row: ProviderRow, project: ProjectRow
) -> ProviderApprovalRow:
    """Lets a project's requests leave the house for a provider, masked; for platform-admins and approvers.

    AlreadyExists when it may already.
    """
    caller.require(Role.APPROVER)
    if _find_approval(session, caller, row, project) is not None:
        raise AlreadyExists(f"{project.ref} is approved for {row.name} already")
    approval = ProviderApprovalRow(
        provider_id=row.id,
        project_id=project.id,
        project=project,
        tenant_id=project.tenant_id,
        approved_at=now,
        approved_by=caller.id,
    )
    session.add(approval)
    bump_snapshot(session)
    after = {"provider": row.name, "project": project.ref}
    record_audit(session, caller, now, "provider.approve", row.id, after=after, tenant_id=project.tenant_id)
    return approval


def withdraw_approval(session: Session, caller: Caller, now: datetime, row: ProviderRow, project: ProjectRow) -> None:
    """Takes an approval back; NotFound when there is none."""
    caller.require(Role.APPROVER)
    approval = _find_approval(session, caller, row, project)
    if approval is None:
        raise NotFound(f"{project.ref} is not approved for {row.name}")
    session.delete(approval)
    bump_snapshot(session)
    before = {"provider": row.name, "project": project.ref}
    record_audit(session, caller, now, "provider.withdraw", row.id, before, tenant_id=project.tenant_id)


def find_approvals(session: Session, caller: Caller, row: ProviderRow) -> Sequence[ProviderApprovalRow]:
    """The approvals in the caller's sight."""
    query = scoped(select(ProviderApprovalRow), caller).where(ProviderApprovalRow.provider_id == row.id)
    return session.scalars(query.order_by(ProviderApprovalRow.approved_at)).all()


def check_base_url(text: str) -> str:
    """An address that ends before `/chat/completions`; InvalidInput unless it is https, or http on this machine."""
    parts = urlsplit(text.rstrip("/"))
    try:
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        port_fits = False
    known = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))
    plain = text.isascii() and text.isprintable() and " " not in text  # it goes into the head of requests
    if not plain or not known or not parts.hostname or not port_fits or parts.query or parts.fragment or parts.username:
        raise InvalidInput(
            f"{text[:200]!r} cannot be a provider's address; write https://host/v1, without user, query or fragment",
            param="base_url",
        )
    return text.rstrip("/")


def _find_approval(
    session: Session, caller: Caller, row: ProviderRow, project: ProjectRow
) -> ProviderApprovalRow | None:
    query = scoped(select(ProviderApprovalRow), caller)
    fits = (ProviderApprovalRow.provider_id == row.id, ProviderApprovalRow.project_id == project.id)
    return session.scalar(query.where(*fits))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False

"""Principals: users and service accounts with a role."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from finmaas_core.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.base import insert_unique
from finmaas_platform.db.principals import PrincipalRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.names import check_name
from finmaas_platform.domain.principals import Caller, PrincipalKind, Role, check_role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.snapshots import bump_snapshot
from finmaas_platform.services.tenants import get_tenant


def select_principals(caller: Caller) -> Select[PrincipalRow]:
    """The principals of the caller's tenant, for those who look after them; others see themselves."""
    query = scoped(select(PrincipalRow), caller)
    if caller.role in (Role.PLATFORM_ADMIN, Role.TENANT_ADMIN, Role.AUDITOR):
        return query
    return query.where(PrincipalRow.id == caller.id)


def get_principal(session: Session, caller: Caller, principal_id: str) -> PrincipalRow:
    """The principal of that id; NotFound when there is none in the caller's sight."""
    found = session.scalar(select_principals(caller).where(PrincipalRow.id == principal_id))
    if found is None:
        raise NotFound(f"there is no principal {principal_id}; `finmaas principal list` shows those you look after")
    return found


def create_principal(
    session: Session, caller: Caller, now: datetime, name: str, role: Role, tenant: str | None, kind: PrincipalKind
) -> PrincipalRow:
    """A new principal. AlreadyExists when the tenant has one of that name; NotAllowed for a role above the caller's."""
    owner = None if tenant is None else get_tenant(session, caller, tenant)
    check_role(caller, role, None if owner is None else owner.id)
    row = PrincipalRow(
        id=new_id("principal"),
        tenant=owner,
        tenant_id=None if owner is None else owner.id,
        name=check_name(name, "principal name"),
        kind=kind.value,
        role=role.value,
        disabled=False,
        created_at=now,
        created_by_id=caller.id,
    )
    insert_unique(session, row, f"the principal {name} exists already; choose another name")
    record_audit(session, caller, now, "principal.create", row.id, after=_describe(row), tenant_id=row.tenant_id)
    return row


def update_principal(
    session: Session,
    caller: Caller,
    now: datetime,
    row: PrincipalRow,
    *,
    role: Role | None = None,
    disabled: bool | None = None,
    identity: tuple[str, str] | None = None,
) -> None:
    """Changes role, disables or enables, links to an identity (issuer, subject; empty ones unlink).

    Conflict when no working platform-admin would be left.
    """
    check_role(caller, role or Role(row.role), row.tenant_id)
    before = _describe(row)
    row.role = role.value if role is not None else row.role
    row.disabled = disabled if disabled is not None else row.disabled
    if identity is not None:
        _link(session, row, *identity)
    after = _describe(row)
    if after == before:
        return
    session.flush()
    _check_admin_left(session)
    if before["subject"] or after["subject"]:
        bump_snapshot(session)  # gateways know people who log in
    record_audit(session, caller, now, "principal.update", row.id, before, after, tenant_id=row.tenant_id)


def _link(session: Session, row: PrincipalRow, issuer: str, subject: str) -> None:
    """One person at the provider is one principal here: else they could be two pairs of eyes."""
    if bool(issuer) != bool(subject):
        raise InvalidInput("an identity has both an issuer and a subject; give both, or set FINMAAS_OIDC_ISSUER")
    if subject and row.kind == PrincipalKind.SERVICE:
        raise InvalidInput(f"{row.name} is a service account; only people log in")
    query = select(PrincipalRow.id).where(  # unscoped: an identity is one principal's on the whole platform
        PrincipalRow.issuer == issuer, PrincipalRow.subject == subject, PrincipalRow.id != row.id
    )
    if subject and session.scalar(query) is not None:
        raise AlreadyExists(f"{subject} of {issuer} is another principal's already; unlink that one first")
    row.issuer, row.subject = issuer or None, subject or None


def _check_admin_left(session: Session) -> None:
    admins = select(func.count(PrincipalRow.id)).where(  # unscoped: the whole platform's admins are counted
        PrincipalRow.role == Role.PLATFORM_ADMIN, PrincipalRow.disabled.is_(False)
    )
    if not session.scalar(admins):
        raise Conflict("this is the last platform-admin; make another one first")


def _describe(row: PrincipalRow) -> dict[str, object]:
    names = ("name", "role", "kind", "disabled", "issuer", "subject")
    return {name: getattr(row, name) for name in names}

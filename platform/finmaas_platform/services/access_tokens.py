"""Access tokens: shown once when made, kept as an HMAC."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from finmaas_core.errors import NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.access_tokens import AccessTokenRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.credentials import choose_expiry
from finmaas_platform.domain.principals import Caller, Role, check_role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.principals import get_principal
from finmaas_platform.services.tokens import TokenPrefix, hash_token, new_token


def select_access_tokens(caller: Caller, principal_id: str | None = None) -> Select[AccessTokenRow]:
    """The tokens of the tenant's principals, for its admins and auditors; others see their own."""
    query = scoped(select(AccessTokenRow), caller)
    if caller.role not in (Role.PLATFORM_ADMIN, Role.TENANT_ADMIN, Role.AUDITOR):
        query = query.where(AccessTokenRow.principal_id == caller.id)
    return query if principal_id is None else query.where(AccessTokenRow.principal_id == principal_id)


def create_access_token(
    session: Session, caller: Caller, now: datetime, pepper: str, principal_id: str, expires_in_s: int | None
) -> tuple[AccessTokenRow, str]:
    """A new token for the caller, or by an admin for a principal whose role the admin could give."""
    principal = get_principal(session, caller, principal_id)
    if principal.id != caller.id:
        check_role(caller, Role(principal.role), principal.tenant_id)
    token = new_token(TokenPrefix.ACCESS)
    row = AccessTokenRow(
        id=new_id("access_token"),
        hash=hash_token(pepper, token),
        principal=principal,
        principal_id=principal.id,
        tenant_id=principal.tenant_id,
        created_at=now,
        created_by=caller.id,
        expires_at=choose_expiry(now, expires_in_s),
        revoked_at=None,
        holders=_find_holders(caller, principal.id),
    )
    session.add(row)
    after = {"principal": principal.name, "expires_at": row.expires_at and row.expires_at.isoformat()}
    record_audit(session, caller, now, "access_token.create", row.id, after=after, tenant_id=row.tenant_id)
    return row, token


def _find_holders(caller: Caller, principal_id: str) -> list[str]:
    """Who but the principal may hold a new token: its maker, and whoever may hold the token that it is made with."""
    return sorted({caller.id, *caller.token_holders} - {principal_id})


def revoke_access_token(session: Session, caller: Caller, now: datetime, token_id: str) -> AccessTokenRow:
    """Ends a token at once; ending it again changes nothing. NotFound when it is not in the caller's sight."""
    row = session.scalar(select_access_tokens(caller).where(AccessTokenRow.id == token_id))
    if row is None:
        raise NotFound(f"there is no access token {token_id}; `finmaas token list` shows yours")
    if row.principal_id != caller.id:
        check_role(caller, Role(row.principal.role), row.tenant_id)
    if row.revoked_at is None:
        row.revoked_at = now
        record_audit(session, caller, now, "access_token.revoke", row.id, tenant_id=row.tenant_id)
    return row

"""From a bearer token to a caller. What the caller may then do is decided by roles and tenant scope."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_core.errors import NotAuthenticated
from finmaas_core.identity import Identity
from finmaas_platform.db.access_tokens import AccessTokenRow
from finmaas_platform.db.job_tokens import JobTokenRow
from finmaas_platform.db.principals import PrincipalRow
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.deps import PlatformSecrets
from finmaas_platform.domain.principals import Caller, CallerKind, PrincipalKind, Role
from finmaas_platform.domain.tenants import TenantState
from finmaas_platform.services.tokens import TokenPrefix, hash_token

WRONG_TOKEN = "this token is wrong, revoked or expired; ask an admin for a new one"  # noqa: S105 - a message


def authenticate(session: Session, secrets: PlatformSecrets, token: str, now: datetime) -> Caller:
    """The caller behind a token. Raises NotAuthenticated, with the same words for every reason.

    Unlike most services it has no caller to scope by: it is what makes one.
    """
    if token.startswith(TokenPrefix.NODE) and secrets.is_cluster_token(token):
        return Caller(CallerKind.NODE, "node", "a Ray node")
    if token.startswith(TokenPrefix.GATEWAY) and secrets.is_gateway_token(token):
        return Caller(CallerKind.GATEWAY, "gateway", "a gateway")
    hashed = hash_token(secrets.pepper, token)
    if token.startswith(TokenPrefix.ACCESS):
        return _authenticate_principal(session, hashed, now)
    if token.startswith(TokenPrefix.JOB):
        return _authenticate_job(session, hashed, now)
    raise NotAuthenticated(WRONG_TOKEN)


def _authenticate_principal(session: Session, hashed: str, now: datetime) -> Caller:
    row = session.scalar(select(AccessTokenRow).where(AccessTokenRow.hash == hashed))
    if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        raise NotAuthenticated(WRONG_TOKEN)
    return _as_caller(session, row.principal, frozenset(row.holders))


def authenticate_signed(session: Session, principal_id: str) -> Caller:
    """The principal whose id stands in something that we signed, if it may act still; NotAuthenticated."""
    row = session.get(PrincipalRow, principal_id)
    if row is None:
        raise NotAuthenticated(WRONG_TOKEN)
    return _as_caller(session, row)


def authenticate_identity(session: Session, identity: Identity) -> Caller:
    """The principal that an identity of the provider is linked to; NotAuthenticated says how to link one."""
    query = select(PrincipalRow).where(PrincipalRow.issuer == identity.issuer, PrincipalRow.subject == identity.subject)
    row = session.scalar(query)
    if row is None:
        raise NotAuthenticated(
            f"{identity.name} of {identity.issuer} is no principal here; an admin links one: "
            f"finmaas principal link <name> --subject {identity.subject}"
        )
    return replace(_as_caller(session, row), by_oidc=True)


def _as_caller(session: Session, principal: PrincipalRow, holders: frozenset[str] = frozenset()) -> Caller:
    if principal.disabled:
        raise NotAuthenticated(WRONG_TOKEN)
    state = _tenant_state(session, principal.tenant_id)
    if state is TenantState.CLOSED:
        raise NotAuthenticated(WRONG_TOKEN)
    return Caller(
        CallerKind.PRINCIPAL,
        principal.id,
        principal.name,
        role=Role(principal.role),
        tenant_id=principal.tenant_id,
        is_frozen=state is TenantState.FROZEN,
        principal_kind=PrincipalKind(principal.kind),
        token_holders=holders,
    )


def _tenant_state(session: Session, tenant_id: str | None) -> TenantState:
    if tenant_id is None:
        return TenantState.ACTIVE
    tenant = session.get_one(TenantRow, tenant_id)
    return TenantState(tenant.state)


def _authenticate_job(session: Session, hashed: str, now: datetime) -> Caller:
    row = session.get(JobTokenRow, hashed)
    if row is None or row.expires_at <= now:
        raise NotAuthenticated(WRONG_TOKEN)
    return Caller(
        CallerKind.JOB,
        row.job_id,
        f"job {row.job_id}, attempt {row.attempt}",
        tenant_id=row.tenant_id,
        job_id=row.job_id,
        attempt=row.attempt,
    )

"""API keys: a project's credential at the gateway, shown once when made, kept as an HMAC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from finmaas_core.errors import NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.api_keys import ApiKeyRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.credentials import check_models, choose_expiry
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.projects import get_project
from finmaas_platform.services.snapshots import bump_snapshot
from finmaas_platform.services.tokens import TokenPrefix, hash_token, new_token

KEEPERS = (Role.TENANT_ADMIN, Role.APP_DEVELOPER)


def select_api_keys(session: Session, caller: Caller, project: str | None = None) -> Select[ApiKeyRow]:
    """The keys of the caller's tenant, of one project if named."""
    caller.require(*KEEPERS, Role.AUDITOR)
    query = scoped(select(ApiKeyRow), caller)
    return query if project is None else query.where(ApiKeyRow.project_id == get_project(session, caller, project).id)


def create_api_key(
    session: Session,
    caller: Caller,
    now: datetime,
    pepper: str,
    project: str,
    name: str,
    models: Sequence[str],
    expires_in_s: int | None,
    expires_at: datetime | None,
) -> tuple[ApiKeyRow, str]:
    """A new key of a project; the text is shown here and never again."""
    caller.require(*KEEPERS)
    owner = get_project(session, caller, project)
    key = new_token(TokenPrefix.API_KEY)
    row = ApiKeyRow(
        id=new_id("api_key"),
        hash=hash_token(pepper, key),
        tenant_id=owner.tenant_id,
        project=owner,
        project_id=owner.id,
        name=name,
        models=check_models(models),
        created_at=now,
        created_by=caller.id,
        expires_at=choose_expiry(now, expires_in_s, expires_at),
        revoked_at=None,
    )
    session.add(row)
    bump_snapshot(session)
    after = {
        "project": owner.ref,
        "name": name,
        "models": row.models,
        "expires_at": row.expires_at and row.expires_at.isoformat(),
    }
    record_audit(session, caller, now, "api_key.create", row.id, after=after, tenant_id=row.tenant_id)
    return row, key


def revoke_api_key(session: Session, caller: Caller, now: datetime, key_id: str) -> ApiKeyRow:
    """Ends a key; ending it again changes nothing. NotFound when it is not in the caller's sight."""
    row = session.scalar(scoped(select(ApiKeyRow), caller).where(ApiKeyRow.id == key_id))
    if row is None:
        raise NotFound(f"there is no API key {key_id}; `finmaas key list` shows yours")
    caller.require(*KEEPERS)
    if row.revoked_at is None:
        row.revoked_at = now
        bump_snapshot(session)
        record_audit(session, caller, now, "api_key.revoke", row.id, tenant_id=row.tenant_id)
    return row

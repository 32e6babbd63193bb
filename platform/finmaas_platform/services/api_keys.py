"""API keys: a project's credential at the gateway, shown once when made, kept as an HMAC."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict, InvalidInput, NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.api_keys import ApiKeyRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.credentials import (
    ANY_METHOD,
    check_methods,
    check_models,
    check_networks,
    choose_expiry,
    is_live,
)
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
    methods: Sequence[str] = (ANY_METHOD,),
    networks: Sequence[str] = (),
    priority: str = "interactive",
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
        methods=check_methods(methods),
        networks=check_networks(networks),
        priority=priority,
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
        "methods": row.methods,
        "networks": row.networks,
        "priority": priority,
        "expires_at": row.expires_at and row.expires_at.isoformat(),
    }
    record_audit(session, caller, now, "api_key.create", row.id, after=after, tenant_id=row.tenant_id)
    return row, key


def revoke_api_key(session: Session, caller: Caller, now: datetime, key_id: str) -> ApiKeyRow:
    """Ends a key; ending it again changes nothing. NotFound when it is not in the caller's sight."""
    row = _get_key(session, caller, key_id)
    caller.require(*KEEPERS)
    _revoke(session, caller, now, [row])
    return row


def rotate_api_key(
    session: Session, caller: Caller, now: datetime, pepper: str, key_id: str, overlap_s: int
) -> tuple[ApiKeyRow, str]:
    """A new key like the old one, which ends after `overlap_s` seconds, or when it would have before.

    Conflict for a key that has ended: there is nothing to overlap with. The new one lasts as long as the old one did.
    """
    old = _get_key(session, caller, key_id)
    caller.require(*KEEPERS)
    if not is_live(old.revoked_at, old.expires_at, now):
        raise Conflict(f"{key_id} has ended already; make a new key with `finmaas key create`")
    lifetime = None if old.expires_at is None else old.expires_at - old.created_at
    until = now + timedelta(seconds=overlap_s)
    old.expires_at = until if old.expires_at is None else min(until, old.expires_at)
    expires_at = None if lifetime is None else now + lifetime
    made = create_api_key(
        session,
        caller,
        now,
        pepper,
        old.project.ref,
        old.name,
        old.models,
        None,
        expires_at,
        old.methods,
        old.networks,
        old.priority,
    )
    after = {"replaced_by": made[0].id, "expires_at": old.expires_at.isoformat()}
    record_audit(session, caller, now, "api_key.rotate", old.id, after=after, tenant_id=old.tenant_id)
    return made


def revoke_api_keys(
    session: Session, caller: Caller, now: datetime, project: str | None, older_than_s: int | None, *, dry_run: bool
) -> list[ApiKeyRow]:
    """Ends every living key of the caller's sight that fits, and returns them; with `dry_run` only returns them.

    InvalidInput when nothing narrows the choice: that would end the keys of everybody.
    """
    if project is None and older_than_s is None:
        raise InvalidInput("give a project or an age; without either every key would be revoked")
    caller.require(*KEEPERS)
    query = select_api_keys(session, caller, project).where(ApiKeyRow.revoked_at.is_(None))
    if older_than_s is not None:
        query = query.where(ApiKeyRow.created_at <= now - timedelta(seconds=older_than_s))
    rows = [row for row in session.scalars(query.order_by(ApiKeyRow.id)) if is_live(None, row.expires_at, now)]
    if not dry_run:
        _revoke(session, caller, now, rows)
    return rows


def _get_key(session: Session, caller: Caller, key_id: str) -> ApiKeyRow:
    row = session.scalar(scoped(select(ApiKeyRow), caller).where(ApiKeyRow.id == key_id))
    if row is None:
        raise NotFound(f"there is no API key {key_id}; `finmaas key list` shows yours")
    return row


def _revoke(session: Session, caller: Caller, now: datetime, rows: Iterable[ApiKeyRow]) -> None:
    ended = [row for row in rows if row.revoked_at is None]
    for row in ended:
        row.revoked_at = now
        record_audit(session, caller, now, "api_key.revoke", row.id, tenant_id=row.tenant_id)
    if ended:
        bump_snapshot(session)

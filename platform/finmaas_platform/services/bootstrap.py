"""The first start of an installation, and what every later start checks: secrets, schema, the first admin.

Safe to run again at any time: what is there stays. Secrets are files that only their owner can read.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from finmaas_core.clock import Clock
from finmaas_core.errors import EnvironmentFault
from finmaas_core.home import Home, read_secret, write_secret
from finmaas_core.ids import new_id
from finmaas_core.telemetry import get_logger
from finmaas_platform.db.access_tokens import AccessTokenRow
from finmaas_platform.db.base import SessionFactory, unit_of_work
from finmaas_platform.db.installation import InstallationRow
from finmaas_platform.db.migrations.schema_version import ensure_schema
from finmaas_platform.db.principals import PrincipalRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.principals import PrincipalKind, Role
from finmaas_platform.domain.tenants import TenantState
from finmaas_platform.services.audit import SYSTEM, record_audit
from finmaas_platform.services.snapshots import bump_snapshot
from finmaas_platform.services.tokens import TokenPrefix, hash_token, new_token
from finmaas_serving.gateway.tally import derive_metrics_token

DEFAULT_NAME = "default"
ADMIN_NAME = "admin"
_INSTALLATION_ID = 1
_PEPPER_CHECK = "finmaas pepper check"


def bootstrap(home: Home, engine: Engine, sessions: SessionFactory, clock: Clock) -> None:
    """Makes what is missing. WrongSchema or EnvironmentFault when what is there cannot be used."""
    home.make()
    ensure_secrets(home)
    ensure_schema(engine)
    pepper = read_secret(home.pepper)
    with unit_of_work(sessions) as session:
        now = clock.now()
        _check_pepper(session, home, pepper, now)
        _ensure_default_tenant(session, now)
        _ensure_admin(session, home, pepper, now)


def ensure_secrets(home: Home) -> None:
    """Makes the secret files that are missing; needs no database, so that Ray can be started first."""
    home.make()
    makers: dict[str, Callable[[], str]] = {
        str(home.pepper): lambda: secrets.token_urlsafe(32),
        str(home.cluster_token): lambda: new_token(TokenPrefix.NODE),
        str(home.gateway_token): lambda: new_token(TokenPrefix.GATEWAY),
        str(home.ray_token): lambda: secrets.token_urlsafe(32),
    }
    for path in (home.pepper, home.cluster_token, home.gateway_token, home.ray_token):
        if not path.exists():
            write_secret(path, makers[str(path)]())
            get_logger().info("bootstrap.secret_made", file=path.name)
    metrics_token = derive_metrics_token(read_secret(home.gateway_token))
    if not home.metrics_token.exists() or read_secret(home.metrics_token) != metrics_token:
        write_secret(home.metrics_token, metrics_token)


def _check_pepper(session: Session, home: Home, pepper: str, now: datetime) -> None:
    """A pepper that was lost cannot be made anew: every token in the database would be dead, silently."""
    expected = hash_token(pepper, _PEPPER_CHECK)
    row = session.get(InstallationRow, _INSTALLATION_ID)
    if row is None:
        session.add(InstallationRow(id=_INSTALLATION_ID, pepper_check=expected, created_at=now))
    elif row.pepper_check != expected:
        raise EnvironmentFault(
            f"{home.pepper} is not the one that this database's tokens and keys were made with; bring it back from a "
            "backup (`finmaas backup` keeps it)"
        )


def _ensure_default_tenant(session: Session, now: datetime) -> None:
    if session.scalar(select(TenantRow.id).limit(1)) is not None:  # unscoped: is there any tenant?
        return
    tenant = TenantRow(
        id=new_id("tenant"), name=DEFAULT_NAME, display_name="Default", state=TenantState.ACTIVE, created_at=now
    )
    project = ProjectRow(
        id=new_id("project"),
        tenant=tenant,
        tenant_id=tenant.id,
        name=DEFAULT_NAME,
        display_name="Default",
        created_at=now,
    )
    session.add_all([tenant, project])
    bump_snapshot(session)
    record_audit(session, SYSTEM, now, "tenant.create", tenant.id, after={"name": tenant.name}, tenant_id=tenant.id)
    record_audit(session, SYSTEM, now, "project.create", project.id, after={"ref": project.ref}, tenant_id=tenant.id)


def _ensure_admin(session: Session, home: Home, pepper: str, now: datetime) -> None:
    """The first platform-admin. The file is written before the commit: a start that dies between begins again."""
    admins = select(PrincipalRow.id).where(PrincipalRow.role == Role.PLATFORM_ADMIN)  # unscoped: is there any admin?
    if session.scalar(admins.limit(1)) is not None:
        return
    token = new_token(TokenPrefix.ACCESS)
    admin = PrincipalRow(
        id=new_id("principal"),
        tenant_id=None,
        name=ADMIN_NAME,
        kind=PrincipalKind.USER,
        role=Role.PLATFORM_ADMIN,
        disabled=False,
        created_at=now,
    )
    session.add(admin)
    session.flush()
    row = AccessTokenRow(
        id=new_id("access_token"),
        hash=hash_token(pepper, token),
        principal_id=admin.id,
        tenant_id=None,
        created_at=now,
        created_by=SYSTEM.id,
        expires_at=None,
        revoked_at=None,
    )
    session.add(row)
    record_audit(session, SYSTEM, now, "principal.create", admin.id, after={"name": admin.name, "role": admin.role})
    record_audit(session, SYSTEM, now, "access_token.create", row.id, after={"principal": admin.name})
    write_secret(home.admin_token, token)

"""kill -9 while an alias moves: it points at the old version or the new one, and its history says the same."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from sqlalchemy import select

from finmaas_core.ids import new_id
from finmaas_platform.db.approvals import ModelAliasRow, ModelEventRow
from finmaas_platform.db.audit_events import AuditEventRow
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.models import ModelRow, ModelVersionRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.deps import Deps

KILLS = 4
MOVER = """
import sys
from datetime import datetime, timezone
from finmaas_platform.db.base import make_engine, make_session_factory, unit_of_work
from finmaas_platform.db.models import ModelRow, ModelVersionRow
from finmaas_platform.db.schema import metadata
from finmaas_platform.domain.principals import Caller, CallerKind, Role
from finmaas_platform.services.model_lifecycle import set_alias

sessions = make_session_factory(make_engine(sys.argv[1]))
caller = Caller(CallerKind.PRINCIPAL, "pri_1", "admin", Role.PLATFORM_ADMIN)
number = 0
while True:
    number += 1
    with unit_of_work(sessions) as session:
        model = session.get_one(ModelRow, "mdl_1")
        version = session.get_one(ModelVersionRow, f"mdv_{number % 2 + 1}")
        set_alias(session, caller, datetime.now(timezone.utc), model, "canary", version)
    print(number, flush=True)
"""


def test_an_alias_is_never_between(deps: Deps) -> None:
    _make_versions(deps)
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", MOVER, deps.settings.sqlalchemy_url], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(random.randint(1, 8)):
            assert process.stdout.readline()
        time.sleep(random.random() * 0.01)
        process.kill()
        process.wait()
        _check(deps)


def _check(deps: Deps) -> None:
    with deps.sessions() as session:
        alias = session.scalars(select(ModelAliasRow)).one()
        events = session.scalars(select(ModelEventRow).order_by(ModelEventRow.at)).all()
        audit = session.scalars(select(AuditEventRow).where(AuditEventRow.target == alias.id)).all()
    assert alias.version_id in ("mdv_1", "mdv_2")
    assert events[-1].after == alias.points_at.ref
    assert len(events) == len(audit) == alias.version
    assert [event.before for event in events[1:]] == [event.after for event in events[:-1]]


def _make_versions(deps: Deps) -> None:
    now = deps.clock.now()
    assert Path(deps.settings.paths.database).exists()
    with unit_of_work(deps.sessions) as session:
        project = session.scalars(select(ProjectRow)).one()
        owner = {"tenant_id": project.tenant_id, "project_id": project.id, "created_at": now, "created_by": "test"}
        model = ModelRow(id="mdl_1", name="m", latest_version=2, **owner)
        session.add(model)
        for number in (1, 2):
            session.add(
                ModelVersionRow(
                    id=f"mdv_{number}", model=model, number=number, kind="full", description="", files=[],
                    size_bytes=1, digest=new_id("model"), metrics={}, **owner,
                )
            )  # fmt: skip

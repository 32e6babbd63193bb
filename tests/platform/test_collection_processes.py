"""Garbage collection beside pushes in real processes, on PostgreSQL and one folder, some of them killed with -9.

The grace period is far shorter than anybody may set it, so pushes lose blobs between asking and registering. They are
then told so and send again; what was registered stays whole.
"""

from __future__ import annotations

import hashlib
import os
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from finmaas_core.clock import SystemClock
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.blobs import BlobTouchRow, VersionBlobRow
from finmaas_platform.db.leases import SharedWorkRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.deps import Deps
from finmaas_platform.services.collection import Collection, collect_steps, find_named
from finmaas_platform.services.kept_blobs import KeptBlobs
from finmaas_registry.store import FolderStore

KILLS = 4
LINES_BETWEEN = 10
COMMON = """
import hashlib, json, random, struct, sys, time
from datetime import timedelta
from pathlib import Path
from sqlalchemy import select
from finmaas_core.clock import SystemClock
from finmaas_core.errors import FinmaasError
from finmaas_core.settings import Settings
from finmaas_platform.cluster.memory import MemoryCluster
from finmaas_platform.db.base import make_engine, make_session_factory, read_unit, unit_of_work
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.schema import metadata
from finmaas_platform.deps import Deps, PlatformSecrets
from finmaas_platform.domain.principals import Caller, CallerKind, Role
from finmaas_platform.services.kept_blobs import KeptBlobs
from finmaas_registry.store import FolderStore

url, folder, seed = sys.argv[1:]
clock, sessions = SystemClock(), make_session_factory(make_engine(url))
store = KeptBlobs(FolderStore(Path(folder)), sessions, clock)
deps = Deps(Settings(home=Path(folder)), sessions, clock, store, MemoryCluster(), PlatformSecrets("p", "c", "g"))
with read_unit(sessions) as session:
    project = session.scalars(select(ProjectRow)).first()
"""
PUSHER = (
    COMMON
    + """
from finmaas_platform.services.blob_parts import compose, find_missing
from finmaas_platform.services.blobs import record_put
from finmaas_platform.services.model_checks import check_model
from finmaas_platform.services.models import register_model_version
from finmaas_registry.blocks import Block
from finmaas_registry.manifest import FileEntry

caller = Caller(CallerKind.PRINCIPAL, "pri_1", "pusher", Role.ML_ENGINEER, project.tenant_id)
rng = random.Random(seed)

def digest_of(data): return hashlib.sha256(data).hexdigest()

def put(data):
    stored = store.put_expected(digest_of(data), [data])
    with unit_of_work(sessions) as session:
        record_put(session, caller, clock.now(), stored)

def push(files, blocks):
    if find_missing(deps, caller, [digest_of(b"".join(blocks))]):
        for data in blocks:
            if find_missing(deps, caller, [digest_of(data)]):
                put(data)
        compose(deps, caller, digest_of(b"".join(blocks)), [Block(digest_of(data), len(data)) for data in blocks])
    for data in files.values():
        if find_missing(deps, caller, [digest_of(data)]):
            put(data)
    all_files = files | {"model.safetensors": b"".join(blocks)}
    entries = [FileEntry(path, digest_of(data), len(data)) for path, data in all_files.items()]
    checked = check_model(deps, caller, "full", entries)
    with unit_of_work(sessions) as session:
        owner = session.get_one(ProjectRow, project.id)
        register_model_version(session, caller, clock.now(), owner, f"m{rng.randrange(3)}", checked)

while True:
    body = rng.randbytes(4096) if rng.random() < 0.5 else bytes([rng.randrange(8)]) * 4096
    head = json.dumps({"w": {"dtype": "U8", "shape": [4096], "data_offsets": [0, 4096]}}).encode()
    files = {"config.json": b"{}", "tokenizer.json": json.dumps({"n": rng.randrange(40)}).encode()}
    put(rng.randbytes(100))  # and something that nothing ever names
    while True:
        try:
            push(files, [struct.pack("<Q", len(head)) + head, body])
            break
        except FinmaasError as error:
            print("again", error.code, flush=True)
    print("pushed", flush=True)
"""
)
COLLECTOR = (
    COMMON
    + """
from finmaas_core.errors import Conflict
from finmaas_platform.services.collection import Collection, collect_steps

from finmaas_platform.db.models import ModelVersionRow
from sqlalchemy import func

grace_s, before = 0.25, -1
while True:
    try:
        with read_unit(sessions) as session:
            versions = session.scalars(select(func.count(ModelVersionRow.id))).one()
        # While nothing could be registered since the last time it waits longer, so no machine is too slow for this.
        grace_s, before = (0.25 if versions > before else grace_s * 2), versions
        found = Collection(False)
        for step in collect_steps(deps, found, timedelta(seconds=grace_s)):
            pass
        print("collected", found.removed, flush=True)
    except Conflict:
        time.sleep(0.05)  # another one runs
"""
)


class Crowd:
    """Processes, and the lines that they print."""

    def __init__(self, url: str, folder: Path) -> None:
        self._words = [url, str(folder)]
        self.lines: queue.Queue[str] = queue.Queue()
        self.running: list[tuple[str, subprocess.Popen[str]]] = []

    def start(self, script: str) -> None:
        words = [sys.executable, "-c", script, *self._words, str(random.randrange(1 << 30))]
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
        )
        self.running.append((script, process))
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def wait_for(self, word: str, times: int) -> list[str]:
        seen: list[str] = []
        while sum(line.startswith(word) for line in seen) < times:
            seen.append(self.lines.get(timeout=90))
            print(seen[-1].strip())
            assert all(process.poll() is None for _, process in self.running), "none ends by itself"
        return seen

    def kill_one(self, script: str) -> None:
        chosen = random.choice([one for one in self.running if one[0] == script])
        self.running.remove(chosen)
        self._kill(chosen[1])

    def kill_all(self) -> None:
        for _, process in self.running:
            self._kill(process)
        self.running.clear()

    def _kill(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        process.wait(30)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.put(line)


@pytest.fixture
def crowd(deps: Deps, tmp_path: Path) -> Iterator[Crowd]:
    made = Crowd(deps.settings.sqlalchemy_url, tmp_path / "blobs")
    yield made
    made.kill_all()


def free_lease(deps: Deps) -> None:
    """As if the time of a killed collection's lease had passed."""
    with unit_of_work(deps.sessions) as session:
        session.execute(update(SharedWorkRow).values(lease_token=None, lease_expires_at=None))


@pytest.mark.integration
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_versions_stay_whole_and_garbage_goes(deps: Deps, crowd: Crowd, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "blobs")
    mine = replace(deps, clock=SystemClock(), store=KeptBlobs(store, deps.sessions, SystemClock()))
    for script in (PUSHER, PUSHER, COLLECTOR, COLLECTOR):
        crowd.start(script)
    seen = crowd.wait_for("collected", 2)
    for turn in range(KILLS):
        seen += crowd.wait_for("pushed", LINES_BETWEEN)
        script = (COLLECTOR, PUSHER)[turn % 2]
        crowd.kill_one(script)
        free_lease(mine)
        crowd.start(script)
    crowd.kill_all()
    free_lease(mine)

    assert sum(int(line.split()[1]) for line in seen if line.startswith("collected")) > 0, "they did meet"
    with read_unit(deps.sessions) as session:
        versions = [*session.scalars(select(ModelVersionRow)).unique()]
    assert len(versions) >= LINES_BETWEEN
    for version in versions:
        for file in version.files:
            data = b"".join(mine.store.open(file["sha256"]))
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (file["sha256"], file["size"]), version.ref

    at_last = Collection(False)
    for _ in collect_steps(mine, at_last, timedelta(seconds=-60)):
        pass
    with read_unit(deps.sessions) as session:
        named = find_named(session, SystemClock().now())
        assert named >= {*session.scalars(select(VersionBlobRow.digest))}
        assert session.scalars(select(BlobTouchRow).where(BlobTouchRow.deleting.is_(True))).all() == []
        lie = {*store.list()}
        composed = {file["sha256"] for version in versions for file in version.files} - lie
    assert lie | composed == named, "all that is named lies there, and nothing else"
    store.sweep()
    assert [*(tmp_path / "blobs" / "tmp").iterdir()] == []
    for version in versions:
        for file in version.files:
            assert hashlib.sha256(b"".join(mine.store.open(file["sha256"]))).hexdigest() == file["sha256"]

"""Garbage collection: what it takes, what it leaves, and that no order of events loses what is needed."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from finmaas_core.clock import FakeClock
from finmaas_core.errors import Conflict, FinmaasError, InvalidInput, Unavailable
from finmaas_core.settings import Settings
from finmaas_platform.cluster.memory import MemoryCluster
from finmaas_platform.db.base import Base, make_engine, make_session_factory, unit_of_work
from finmaas_platform.db.schema import metadata
from finmaas_platform.deps import Deps, PlatformSecrets
from finmaas_platform.domain.principals import Caller, CallerKind, Role
from finmaas_platform.services.blob_parts import compose, find_missing
from finmaas_platform.services.blobs import check_files_are_put, hold_blobs, index_version, record_put, unindex_version
from finmaas_platform.services.collection import GRACE, Collection, collect, collect_steps, roots
from finmaas_platform.services.kept_blobs import KeptBlobs
from finmaas_registry.blocks import Block
from finmaas_registry.manifest import FileEntry
from finmaas_registry.store import FolderStore, Stored

Headers = dict[str, str]
WRITER = Caller(CallerKind.PRINCIPAL, "pri_1", "writer", Role.ML_ENGINEER, "ten_1")
ADMIN = Caller(CallerKind.PRINCIPAL, "pri_0", "admin", Role.PLATFORM_ADMIN, None)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(deps: Deps, data: bytes) -> str:
    stored = deps.store.put_expected(digest_of(data), [data])
    with unit_of_work(deps.sessions) as session:
        record_put(session, WRITER, deps.clock.now(), stored)
    return stored.digest


def name(deps: Deps, version: str, digest: str, size: int) -> None:
    """What registering a version does about blobs, in one transaction."""
    files = [FileEntry("f", digest, size)]
    with unit_of_work(deps.sessions) as session:
        check_files_are_put(session, WRITER, files)
        hold_blobs(session, deps.clock.now(), "ten_1", [Stored(digest, size)])
        index_version(session, "ten_1", "model", version, files)


class TestCollect:
    def test_takes_only_what_nothing_names_after_the_grace_period(self, deps: Deps, clock: FakeClock) -> None:
        named, loose = put(deps, b"named"), put(deps, b"loose")
        name(deps, "mdv_1", named, 5)
        assert collect(deps, ADMIN, dry_run=False).removed == 0
        clock.advance(GRACE.total_seconds() + 1)
        young = put(deps, b"young")
        dry = collect(deps, ADMIN, dry_run=True)
        assert (dry.blobs, dry.named, dry.waiting, dry.removed, dry.removed_bytes) == (3, 1, 1, 1, 5)
        assert {*deps.store.list()} == {named, loose, young}
        assert collect(deps, ADMIN, dry_run=False).examples == [loose]
        assert {*deps.store.list()} == {named, young}
        assert find_missing(deps, WRITER, [named, loose, young]) == [loose]
        put(deps, b"loose")

    def test_asking_for_a_blob_keeps_it(self, deps: Deps, clock: FakeClock) -> None:
        digest = put(deps, b"asked for")
        clock.advance(GRACE.total_seconds() + 1)
        assert find_missing(deps, WRITER, [digest]) == []
        assert collect(deps, ADMIN, dry_run=False).removed == 0

    def test_keeps_the_blocks_of_a_file_that_is_wanted(self, deps: Deps, clock: FakeClock) -> None:
        blocks = [Block(put(deps, data), len(data)) for data in (b"one", b"three")]
        whole = compose(deps, WRITER, digest_of(b"onethree"), blocks)
        clock.advance(GRACE.total_seconds() + 1)
        assert find_missing(deps, WRITER, [whole.digest]) == []
        assert collect(deps, ADMIN, dry_run=False).removed == 0
        name(deps, "mdv_1", *whole)
        clock.advance(GRACE.total_seconds() + 1)
        assert collect(deps, ADMIN, dry_run=False).removed == 0
        assert b"".join(deps.store.open(whole.digest)) == b"onethree"
        with unit_of_work(deps.sessions) as session:
            unindex_version(session, "mdv_1")
        assert collect(deps, ADMIN, dry_run=False).removed == 3
        assert [*deps.store.list()] == []

    def test_adopts_what_no_row_knows_and_takes_it_a_period_later(self, deps: Deps, clock: FakeClock) -> None:
        assert isinstance(deps.store, KeptBlobs)
        deps.store.inner.put([b"an upload that was killed before its row"])
        assert collect(deps, ADMIN, dry_run=False).removed == 0
        clock.advance(GRACE.total_seconds() + 1)
        assert collect(deps, ADMIN, dry_run=False).removed == 1

    def test_what_is_being_removed_cannot_be_used(self, deps: Deps, clock: FakeClock) -> None:
        digest = put(deps, b"loose")
        clock.advance(GRACE.total_seconds() + 1)
        steps = collect_steps(deps, Collection(dry_run=False), GRACE)
        while next(steps) != "marked":
            pass
        with pytest.raises(Unavailable, match="try again"):
            put(deps, b"loose")
        with pytest.raises(InvalidInput):
            name(deps, "mdv_1", digest, 5)
        assert [*steps][-1] == "forgotten"
        put(deps, b"loose")

    def test_one_at_a_time(self, deps: Deps, clock: FakeClock) -> None:
        first = collect_steps(deps, Collection(dry_run=False), GRACE)
        next(first)
        with pytest.raises(Conflict, match="running already"):
            collect(deps, ADMIN, dry_run=False)
        clock.advance(1000)  # the first one was killed; its lease runs out
        collect(deps, ADMIN, dry_run=False)
        first.close()

    def test_is_for_platform_admins(self, client: TestClient, engineer: Headers, admin: Headers) -> None:
        assert client.post("/api/v1/collections", json={}, headers=engineer).status_code == 403
        answer = client.post("/api/v1/collections", json={}, headers=admin)
        assert (answer.status_code, answer.json()["dry_run"]) == (200, True)
        assert client.post("/api/v1/collections", json={"grace_hours": 0}, headers=admin).status_code == 422


class TestRoots:
    def test_every_column_with_a_digest_is_known(self) -> None:
        """A new table that holds a blob's digest must be added to `roots`, or here with its reason."""
        not_blobs = {
            "dataset_versions.digest": "of the manifest",
            "model_versions.digest": "of the manifest",
            "policies.digest": "of a document",
            "traffic_plans.digest": "of a document",
            "provenance_claims.digest": "of a claim",
            "deletion_requests.digest": "keyed, of a row",
            "blobs.digest": "who sees it, no name",
            "blob_touches.digest": "the subject",
            "blob_recipes.digest": "blocks follow the file",
            "blob_locks.digest": "kept by the bucket, no name",
        }
        from datetime import UTC, datetime

        named = {str(column) for query in roots(datetime.now(UTC)) for column in query.selected_columns}
        found = {
            f"{table.name}.{column.name}"
            for table in Base.metadata.tables.values()
            for column in table.columns
            if column.name.endswith(("digest", "sha256"))
        }
        unknown = found - named - set(not_blobs)
        assert not unknown, f"is {sorted(unknown)} the digest of a blob? then add it to services/collection.py:roots"


CONTENTS = [b"a", b"bb", b"ccc", b"dddd"]


class Uploads(RuleBasedStateMachine):
    """Uploads, versions and collections in any order, each stopped or killed between any two of its steps."""

    told = Bundle("told")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        home = Path(self._folder.name)
        self.clock = FakeClock()
        engine = make_engine(f"sqlite:///{home / 'db'}")
        metadata.create_all(engine)
        sessions = make_session_factory(engine)
        self.store = FolderStore(home / "blobs")
        secrets = PlatformSecrets("p", "c", "g")
        kept = KeptBlobs(self.store, sessions, self.clock)
        self.deps = Deps(Settings(home=home), sessions, self.clock, kept, MemoryCluster(), secrets)
        self.versions: dict[str, bytes] = {}
        self.collecting: Iterator[str] | None = None
        self.killed: list[Iterator[str]] = []
        self.engine = engine

    def teardown(self) -> None:
        self.collecting = None
        self.killed.clear()
        self.engine.dispose()
        self._folder.cleanup()

    @rule(target=told, data=st.sampled_from(CONTENTS))
    def upload(self, data: bytes) -> tuple[bytes, object]:
        """Asks, sends what is missing; then the client believes that it is there."""
        try:
            if find_missing(self.deps, WRITER, [digest_of(data)]):
                put(self.deps, data)
        except Unavailable:
            return data, None
        return data, self.clock.now()

    @rule(target=told, parts=st.lists(st.sampled_from(CONTENTS), min_size=2, max_size=3))
    def upload_blocks(self, parts: list[bytes]) -> tuple[bytes, object]:
        whole = b"".join(parts)
        try:
            if find_missing(self.deps, WRITER, [digest_of(whole)]):
                for data in parts:
                    if find_missing(self.deps, WRITER, [digest_of(data)]):
                        put(self.deps, data)
                compose(self.deps, WRITER, digest_of(whole), [Block(digest_of(d), len(d)) for d in parts])
        except Unavailable:
            return whole, None
        return whole, self.clock.now()

    @rule(data=st.sampled_from(CONTENTS))
    def upload_killed_before_its_row(self, data: bytes) -> None:
        try:
            self.deps.store.put_expected(digest_of(data), [data])
        except Unavailable:
            return

    @rule(upload=told)
    def register(self, upload: tuple[bytes, object]) -> None:
        """Within the grace period it must work; later it may be refused, but never make a broken version."""
        data, since = upload
        version = f"mdv_{len(self.versions)}"
        try:
            name(self.deps, version, digest_of(data), len(data))
        except FinmaasError:
            assert since is None or self.clock.now() - since > GRACE - timedelta(minutes=10)  # type: ignore[operator]
        else:
            self.versions[version] = data

    @rule()
    def collect_a_step(self) -> None:
        try:
            if self.collecting is None:
                self.collecting = collect_steps(self.deps, Collection(dry_run=False), GRACE)
            if next(self.collecting, None) is None:
                self.collecting = None
        except Conflict:
            self.collecting = None

    @rule()
    def collect_to_the_end(self) -> None:
        try:
            for _ in collect_steps(self.deps, Collection(dry_run=False), GRACE):
                pass
        except Conflict:
            assert self.collecting is not None

    @rule()
    def kill_the_collection(self) -> None:
        """It never runs again; its lease runs out."""
        if self.collecting is not None:
            self.killed.append(self.collecting)  # kept: a generator that is dropped would tidy up
            self.collecting = None
            self.clock.advance(600)

    @rule(hours=st.sampled_from([0.1, 12, 25]))
    def time_passes(self, hours: float) -> None:
        self.clock.advance(hours * 3600)

    @invariant()
    def every_version_is_whole(self) -> None:
        for data in self.versions.values():
            assert b"".join(self.deps.store.open(digest_of(data))) == data


TestUploads = Uploads.TestCase
TestUploads.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)

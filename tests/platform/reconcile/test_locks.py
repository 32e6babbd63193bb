"""Object locks of released versions: set after the commit, once; retried; renewed; respected by all that removes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from model_files import FILES
from model_files import put as put_files
from s3_server import own_prefix

from finmaas_core.clock import FakeClock
from finmaas_core.errors import Unavailable
from finmaas_core.settings import Settings
from finmaas_platform.app import wire_app
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.locks import BlobLockRow, VersionLockRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.principals import Caller, CallerKind, Role
from finmaas_platform.reconcile import locks as reconcile_locks
from finmaas_platform.reconcile.locks import LockReconciler
from finmaas_platform.services import locks
from finmaas_platform.services.collection import GRACE, collect
from finmaas_platform.services.kept_blobs import KeptBlobs
from finmaas_registry.s3_client import S3Address
from finmaas_registry.s3_store import S3Store
from finmaas_registry.store import MemoryStore

Headers = dict[str, str]
Step = Callable[..., None]
URL = "/api/v1/models/default/default/tiny"
ADMIN = Caller(CallerKind.PRINCIPAL, "pri_0", "admin", Role.PLATFORM_ADMIN, None)
DAYS = 30


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Locking(MemoryStore):
    """A store with locks that can be away, and that counts what it is asked."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(lock_clock=clock)
        self.away = False
        self.asked: list[tuple[str, datetime]] = []

    def retain(self, digest: str, until: datetime) -> bool:
        if self.away:
            raise Unavailable("the store does not answer")
        self.asked.append((digest, until))
        return super().retain(digest, until)


@pytest.fixture
def store(clock: FakeClock) -> Locking:
    return Locking(clock)


@pytest.fixture
def reconciler(deps: Deps) -> LockReconciler:
    made = LockReconciler(deps)
    made.prepare()
    return made


@pytest.fixture
def approve(
    client: TestClient, engineer: Headers, make_principal: Callable[..., Headers]
) -> Callable[[dict[str, bytes]], str]:
    """Makes a version of some files and approves it; gives its id."""
    approver = make_principal("approver")

    def make(files: dict[str, bytes]) -> str:
        body = {"files": put_files(client, engineer, files)}
        version = client.post(f"{URL}/versions", json=body, headers=engineer).json()
        for verb, who in (("validate", engineer), ("approve", approver)):
            answer = client.post(f"{URL}/versions/{version['version']}/{verb}", json={}, headers=who)
            assert answer.status_code == 200, answer.text
        return str(version["id"])

    return make


def lock_of(deps: Deps, version: str) -> VersionLockRow:
    with read_unit(deps.sessions) as session:
        return session.get_one(VersionLockRow, version)


def told(client: TestClient, admin: Headers) -> list[dict[str, Any]]:
    answer = client.get("/api/v1/audit-events?action=model_version.lock", headers=admin).json()
    return [event["after"] for event in reversed(answer["items"])]


class TestRounds:
    def test_an_approved_version_is_locked_whole_and_says_until_when(
        self, approve: Any, deps: Deps, store: Locking, reconciler: LockReconciler, step: Step, client: TestClient,
        engineer: Headers, admin: Headers, clock: FakeClock,
    ) -> None:  # fmt: skip
        approve(FILES)
        assert store.asked == [], "nothing waits for the store before the commit"
        step(reconciler)
        until = (clock.now() + timedelta(days=DAYS)).replace(microsecond=0)
        assert sorted(store.asked) == sorted((digest_of(data), until) for data in FILES.values())
        shown = client.get(f"{URL}/versions/1", headers=engineer).json()
        assert datetime.fromisoformat(shown["locked_until"]) == until
        assert told(client, admin) == [{"state": "locked", "until": until.isoformat()}]
        step(reconciler, seconds=3)
        assert len(store.asked) == len(FILES), "once"

    def test_a_candidate_is_not_locked(
        self, client: TestClient, engineer: Headers, store: Locking, reconciler: LockReconciler, step: Step
    ) -> None:
        client.post(f"{URL}/versions", json={"files": put_files(client, engineer, FILES)}, headers=engineer)
        step(reconciler)
        assert store.asked == []

    def test_a_store_that_is_away_is_asked_again(
        self, approve: Any, deps: Deps, store: Locking, reconciler: LockReconciler, step: Step, clock: FakeClock
    ) -> None:
        version = approve(FILES)
        store.away = True
        step(reconciler)
        assert (lock_of(deps, version).state, lock_of(deps, version).fault) == ("pending", "the store does not answer")
        store.away = False
        clock.advance(locks.RETRY.total_seconds())
        step(reconciler)
        assert (lock_of(deps, version).state, lock_of(deps, version).fault) == ("locked", "")

    @pytest.mark.parametrize("after", range(4))
    def test_killed_after_any_step_the_rest_is_locked_by_the_next(
        self, approve: Any, deps: Deps, store: Locking, reconciler: LockReconciler, step: Step, clock: FakeClock,
        monkeypatch: pytest.MonkeyPatch, after: int,
    ) -> None:  # fmt: skip
        """A round of one file a step, whose process ends after so many calls to the store, before it notes them."""
        monkeypatch.setattr(locks, "FILES_AT_ONCE", 1)
        monkeypatch.setattr(reconcile_locks, "PARALLEL", 1)
        version = approve(FILES)
        clock.advance(1)
        for _ in range(after):
            reconciler.run_once()
        whole = reconcile_locks.finish_step
        monkeypatch.setattr(reconcile_locks, "finish_step", _end_process)
        with pytest.raises(KeyboardInterrupt):
            reconciler.run_once()
        monkeypatch.setattr(reconcile_locks, "finish_step", whole)
        clock.advance(120)  # its lease ends
        other = LockReconciler(deps)
        step(other, seconds=2)
        assert lock_of(deps, version).state == "locked"
        assert {digest for digest, _ in store.asked} == {digest_of(data) for data in FILES.values()}
        assert len(store.asked) <= len(FILES) + 1, "what was noted is not asked for again"

    def test_it_is_renewed_while_the_version_is_approved_and_not_after(
        self, approve: Any, deps: Deps, store: Locking, reconciler: LockReconciler, step: Step, clock: FakeClock,
        client: TestClient, engineer: Headers, make_principal: Callable[..., Headers],
    ) -> None:  # fmt: skip
        version = approve(FILES)
        step(reconciler)
        first = lock_of(deps, version).until
        assert first is not None
        clock.advance(timedelta(days=DAYS / 2 + 1).total_seconds())
        step(reconciler)
        second = lock_of(deps, version).until
        assert second is not None
        assert second - first > timedelta(days=DAYS / 2)
        answer = client.post(f"{URL}/versions/1/retire", json={}, headers=make_principal("tenant-admin"))
        assert answer.status_code == 200, answer.text
        clock.advance(timedelta(days=DAYS / 2 + 1).total_seconds())
        step(reconciler)
        assert (lock_of(deps, version).until, lock_of(deps, version).due_at) == (second, None)

    def test_a_blob_that_another_version_keeps_longer_stays_so(
        self, approve: Any, deps: Deps, store: Locking, reconciler: LockReconciler, step: Step, clock: FakeClock
    ) -> None:
        shared = digest_of(FILES["config.json"])
        later = clock.now() + timedelta(days=2 * DAYS)
        with unit_of_work(deps.sessions) as session:
            locks.keep_end(session, shared, later)
        approve(FILES)
        step(reconciler)
        assert dict(store.asked)[shared] == later
        with read_unit(deps.sessions) as session:
            assert session.get_one(BlobLockRow, shared).until == later

    def test_versions_from_before_there_were_locks_are_locked_at_the_next_start(
        self, approve: Any, deps: Deps, store: Locking, step: Step
    ) -> None:
        version = approve(FILES)
        with unit_of_work(deps.sessions) as session:
            session.delete(session.get_one(VersionLockRow, version))
        reconciler = LockReconciler(deps)
        reconciler.prepare()
        step(reconciler)
        assert lock_of(deps, version).state == "locked"

    def test_zero_days_switch_it_off(self, deps: Deps, app: FastAPI, approve: Any, store: Locking, step: Step) -> None:
        object.__setattr__(deps, "settings", deps.settings.model_copy(update={"lock_model_days": 0}))
        approve(FILES)
        reconciler = LockReconciler(deps)
        reconciler.prepare()
        step(reconciler)
        assert store.asked == []

    def test_a_bucket_without_object_lock_is_told_once(
        self, approve: Any, deps: Deps, store: Locking, reconciler: LockReconciler, step: Step, client: TestClient,
        admin: Headers, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(Locking, "retain", lambda *_: False)
        version = approve(FILES)
        step(reconciler, seconds=3)
        again = LockReconciler(deps)
        again.prepare()
        step(again)
        assert [one["state"] for one in told(client, admin)] == ["unsupported"]
        assert lock_of(deps, version).state == "unsupported"
        with read_unit(deps.sessions) as session:
            assert session.get_one(ModelVersionRow, version).locked_until is None
            assert locks.find_held(session, deps.clock.now()) == {}

    def test_a_folder_is_never_asked(self, approve: Any, deps: Deps, client: TestClient, admin: Headers) -> None:
        object.__setattr__(deps, "store", KeptBlobs(MemoryStore(), deps.sessions, deps.clock))
        approve(FILES)
        LockReconciler(deps).prepare()
        assert LockReconciler(deps).run_once() > 0
        assert told(client, admin) == []


class TestCollection:
    def test_locked_garbage_is_held_and_reported_until_its_day(
        self, deps: Deps, store: Locking, clock: FakeClock
    ) -> None:
        digest = store.put([b"released once"]).digest
        until = clock.now() + timedelta(days=DAYS)
        with unit_of_work(deps.sessions) as session:
            locks.keep_end(session, digest, until)
        collect(deps, ADMIN, dry_run=False)
        clock.advance(GRACE.total_seconds() + 1)
        for dry_run in (True, False):
            found = collect(deps, ADMIN, dry_run=dry_run)
            assert (found.held, found.held_until, found.removed) == (1, until, 0)
        clock.advance(timedelta(days=DAYS).total_seconds())
        assert collect(deps, ADMIN, dry_run=False).removed == 1
        with read_unit(deps.sessions) as session:
            assert session.get(BlobLockRow, digest) is None

    def test_a_lock_of_which_no_row_tells_stops_no_collection(
        self, deps: Deps, store: Locking, clock: FakeClock
    ) -> None:
        locked, loose = (store.put([data]).digest for data in (b"locked", b"loose"))
        until = clock.now() + timedelta(days=DAYS)
        store.retain(locked, until)
        collect(deps, ADMIN, dry_run=False)
        clock.advance(GRACE.total_seconds() + 1)
        found = collect(deps, ADMIN, dry_run=False)
        assert (found.held, found.held_until, found.removed, found.examples) == (1, until, 1, [loose])
        assert {*deps.store.list()} == {locked}
        found = collect(deps, ADMIN, dry_run=False)
        assert (found.held, found.removed) == (1, 0)
        assert deps.store.put_expected(locked, [b"locked"]).digest == locked, "it can be used again"


class TestRealServer:
    def test_approval_to_collection(
        self, approve: Any, deps: Deps, settings: Settings, app: FastAPI, s3_address: S3Address, step: Step,
        clock: FakeClock, client: TestClient, engineer: Headers, make_principal: Callable[..., Headers],
    ) -> None:  # fmt: skip
        """Against a bucket with object lock: nobody removes an approved version's bytes, collection says until when."""
        store = S3Store(own_prefix(s3_address))
        wired = replace(deps, store=KeptBlobs(store, deps.sessions, clock))
        wire_app(app, settings, wired)
        version = approve(FILES)
        reconciler = LockReconciler(wired)
        reconciler.prepare()
        clock.advance((datetime.now(UTC) - clock.now()).total_seconds())
        step(reconciler)
        lock = lock_of(deps, version)
        assert (lock.state, lock.fault) == ("locked", "")
        for data in FILES.values():
            assert store.delete(digest_of(data)) == lock.until
            assert b"".join(store.open(digest_of(data))) == data
        assert store.retain(digest_of(FILES["config.json"]), clock.now() + timedelta(days=1)), "an earlier end is fine"
        with unit_of_work(deps.sessions) as session:
            session.delete(session.get_one(VersionLockRow, version))
        again = LockReconciler(wired)
        again.prepare()
        step(again)
        assert lock_of(deps, version).state == "locked", "set twice is the same as once"


def _end_process(*_: object) -> None:
    raise KeyboardInterrupt

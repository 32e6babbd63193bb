"""The ledger under any order of events: gateways ask, spend, settle, give back, die and come again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from finmaas_core.clock import FakeClock
from finmaas_platform.db.allowances import AllowanceRow
from finmaas_platform.db.base import make_engine, make_session_factory, unit_of_work
from finmaas_platform.db.ledger import LedgerSliceRow, LedgerWindowRow
from finmaas_platform.db.schema import metadata
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.allowances import decide_hand
from finmaas_platform.reconcile.ledger import CLEAN_EVERY_S, LedgerCleaner
from finmaas_platform.services import ledger
from finmaas_platform.services.ledger_cleaning import clean_ledger

LIMIT = 1000
START = 1767225600


class Rig:
    """A ledger over a database, and gateways that are honest."""

    def __init__(self, sessions: Any) -> None:
        self.sessions, self.clock = sessions, FakeClock()
        with unit_of_work(sessions) as session:
            session.execute(text("DELETE FROM allowances"))
            session.execute(text("DELETE FROM ledger_gateways"))
            tenant = session.scalars(select(TenantRow)).first()
            if tenant is None:
                now = self.clock.now()
                tenant = TenantRow(id="ten_1", name="t", display_name="", state="active", created_at=now)
                session.add(tenant)
                session.flush()
            session.add(
                AllowanceRow(
                    id="alw_1", tenant_id=tenant.id, scope="tenant", scope_id=tenant.id, model="", label="t",
                    unit="tokens", window_kind="month", amount=LIMIT, currency="", created_at=self.clock.now(),
                    created_by="x",
                )
            )  # fmt: skip
        self.gateways = {name: Honest(self, name) for name in ("a", "b", "c")}
        self.spent = 0

    def check(self) -> None:
        """What is handed out and settled is never over the limit, and the sums agree with the slices."""
        with self.sessions() as session:
            for window in session.scalars(select(LedgerWindowRow)):
                slices = session.scalars(select(LedgerSliceRow).where(LedgerSliceRow.window_id == window.id)).all()
                held = sum(s.granted - s.returned - s.settled for s in slices if not s.closed)
                assert window.outstanding == held
                assert window.settled == sum(s.settled for s in slices)
                assert window.settled + window.outstanding <= LIMIT
                assert all(s.granted - s.returned - s.settled >= 0 for s in slices)


class Honest:
    """A gateway as the ledger meets it: never spends more than it was told it holds."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig, self.name = rig, name
        self.spool: list[dict[str, Any]] = []
        self.seq = 0
        self.open()

    def open(self) -> None:
        with unit_of_work(self.rig.sessions) as session:
            self.epoch = ledger.open_epoch(session, self.name, self.rig.clock.now())
        self.granted = self.returned = self.used = self.slice = 0

    @property
    def idle(self) -> int:
        return self.granted - self.returned - self.used

    def step(self, need: int, *, lost: bool = False, last: bool = True) -> ledger.Step:
        told = [ledger.Told(self.slice, self.granted, self.returned, 0, 0)] if self.slice else []
        want = ledger.Want("alw_1", START, 0, self.granted, need, 1)
        with unit_of_work(self.rig.sessions) as session:
            now = self.rig.clock.now()
            found = ledger.take_step(session, self.name, self.epoch, told, [want], ledger.Asking(), now, last=last)
        if not lost:
            for grant in found.grants:
                self.slice, self.granted = grant["slice"], max(self.granted, grant["granted"])
        return found

    def spend(self, amount: int) -> None:
        amount = min(amount, self.idle)
        if amount > 0:
            self.used += amount
            self.seq += 1
            self.rig.spent += amount
            self.spool.append({"epoch": self.epoch, "charges": [(self.slice, amount)], "seq": self.seq})

    def deliver(self, count: int) -> None:
        batch, self.spool = self.spool[:count], self.spool[count:]
        with unit_of_work(self.rig.sessions) as session:
            ledger.settle(session, self.name, batch)

    def give_back(self) -> None:
        self.returned += max(0, self.idle)
        self.step(0)

    def die(self) -> None:
        """Killed and started again: it knows nothing but its spool, and closes the old only once that is read."""
        self.open()
        self.deliver(len(self.spool))
        with unit_of_work(self.rig.sessions) as session:
            ledger.close_epochs(session, self.name, self.epoch, self.rig.clock.now())


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    engine = make_engine(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'l.db'}")
    metadata.create_all(engine)
    yield make_session_factory(engine)
    engine.dispose()


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["ask", "ask-lost", "spend", "deliver", "give-back", "die"]),
        st.integers(1, 500),
    ),
    min_size=1,
    max_size=25,
)


class TestAnyOrder:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(events=EVENTS)
    def test_never_over_and_nothing_is_lost(self, sessions: Any, events: list[tuple[str, str, int]]) -> None:
        rig = Rig(sessions)
        for name, what, amount in events:
            one = rig.gateways[name]
            match what:
                case "ask":
                    one.step(amount)
                case "ask-lost":
                    one.step(amount, lost=True)
                case "spend":
                    one.spend(amount)
                case "deliver":
                    one.deliver(amount % 5)
                case "give-back":
                    one.give_back()
                case _:
                    one.die()
            rig.check()
        assert rig.spent <= LIMIT
        for one in rig.gateways.values():
            one.die()
        rig.check()
        with sessions() as session:
            window = session.scalars(select(LedgerWindowRow)).first()
            settled = window.settled if window else 0
        assert settled == rig.spent  # every charge, once, and nothing is held any more
        left = LIMIT - settled
        if left:  # and whoever asks gets all that is left: nothing is refused that is there
            assert rig.gateways["a"].step(left).grants[0]["granted"] >= left

    @given(st.integers(0, 10**15), st.integers(0, 10**15), st.integers(1, 50))
    def test_a_hand_is_never_more_than_the_pool(self, pool: int, need: int, gateways: int) -> None:
        hand = decide_hand(pool, need, gateways)
        assert 0 <= hand.grant <= pool
        assert hand.grant >= min(pool, need)


both = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgres", marks=pytest.mark.integration)], indirect=True
)


@both
class TestAtOnce:
    def test_many_that_ask_at_once_get_no_more_than_there_is(self, deps: Deps) -> None:
        rig = Rig(deps.sessions)
        gateways = [Honest(rig, f"g{number}") for number in range(8)]
        gate = threading.Barrier(8)
        failed: list[BaseException] = []

        def work(one: Honest) -> None:
            gate.wait()
            try:
                for amount in (90, 70, 50):
                    one.step(amount)
                    one.spend(amount // 2)
                    one.deliver(9)
            except BaseException as error:  # noqa: BLE001 - a thread's failure is told by the test
                failed.append(error)

        threads = [threading.Thread(target=work, args=(one,)) for one in gateways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failed
        rig.check()
        with deps.sessions() as session:
            window = session.scalars(select(LedgerWindowRow)).one()
        assert window.settled + window.outstanding <= LIMIT

    def test_a_delivery_that_comes_twice_at_once_settles_once(
        self, deps: Deps, client: Any, gateway: dict[str, str], make_principal: Callable[..., Any]
    ) -> None:
        rig = Rig(deps.sessions)
        one = rig.gateways["a"]
        one.step(100)
        with deps.sessions() as session:
            tenant = session.scalars(select(TenantRow)).first()
        assert tenant is not None
        record = {
            "seq": 1, "request_id": "r1", "at": "2026-01-01T00:00:00Z", "key_id": "k", "project_id": "p",
            "tenant_id": tenant.id, "endpoint_id": "e", "path": "/v1/x", "status": 200, "stream": False,
            "prompt_tokens": 1, "completion_tokens": 1, "duration_ms": 1.0, "finish": "complete",
            "counted_by": "engine", "epoch": one.epoch, "charges": [[one.slice, 40]],
        }  # fmt: skip
        body = {"gateway_id": "a", "records": [record]}
        threads = [
            threading.Thread(target=lambda: client.post("/api/v1/gateway/usage", json=body, headers=gateway))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        with deps.sessions() as session:
            assert session.scalars(select(LedgerWindowRow)).one().settled == 40


class TestCleaning:
    def test_slices_go_and_sums_stay(self, sessions: Any) -> None:
        rig = Rig(sessions)
        one, other = rig.gateways["a"], rig.gateways["b"]
        for gateway in (one, other):
            gateway.step(100)
            gateway.spend(60)
            gateway.deliver(1)
        one.die()

        def clean(days: int) -> tuple[int, int, int]:
            """Slices that went and that are left, and what was settled."""
            later = rig.clock.now() + timedelta(days=days)
            with unit_of_work(sessions) as session:
                gone = clean_ledger(session, later)
            with sessions() as session:
                windows = session.scalars(
                    select(LedgerWindowRow).join(AllowanceRow).where(AllowanceRow.id == "alw_1")
                ).all()
                held = session.scalars(select(LedgerSliceRow).where(LedgerSliceRow.window_id == windows[0].id)).all()
                return gone, len(held), sum(window.settled for window in windows)

        assert clean(400) == (0, 2, 120)  # the other gateway holds something still
        other.die()
        assert clean(31 + 34) == (0, 2, 120)  # January's window has ended for less than 35 days
        gone, left, settled = clean(31 + 36)
        assert (gone >= 2, left, settled) == (True, 0, 120)

    def test_its_work_is_done_by_one_and_again(self, deps: Deps) -> None:
        cleaner = LedgerCleaner(deps)
        cleaner.prepare()
        assert cleaner.run_once() == cleaner.run_once() == CLEAN_EVERY_S


class TestEpochs:
    def test_numbers_are_not_used_again_after_a_restore(self, sessions: Any) -> None:
        rig = Rig(sessions)
        first = rig.gateways["a"].epoch
        with unit_of_work(sessions) as session:
            session.execute(text("DELETE FROM ledger_gateways"))
        rig.clock.advance(timedelta(minutes=1).total_seconds())
        with unit_of_work(sessions) as session:
            assert ledger.open_epoch(session, "a", rig.clock.now()) > first

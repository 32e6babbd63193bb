"""Where a request goes, and when a canary is given up: pure, as tables and properties."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finmaas_serving.gateway.canary import Bounds, CanaryWatch, Outcome, decide_rollback, find_p95
from finmaas_serving.gateway.lanes import Reservation, Verdict, decide_turn, estimate_wait
from finmaas_serving.gateway.snapshot import Route
from finmaas_serving.gateway.traffic import (
    CANARY,
    FALLBACK,
    SPLIT,
    Canary,
    Hop,
    Plan,
    Traffic,
    choose_targets,
    is_shadowed,
    order_split,
)


def hop(name: str, role: str = SPLIT) -> Hop:
    return Hop(Route(f"ep_{name}", f"t/p/{name}", name, "prj", f"ep_{name}", name, "ready"), role)


def names(hops: tuple[Hop, ...]) -> str:
    return " ".join(one.route.short_name for one in hops)


def plan(canary: float | None = None, *, sticky: bool = True) -> Plan:
    traffic = Traffic("d", sticky=sticky, canary=None if canary is None else Canary("ep_new", canary))
    split = ((hop("a"), 3.0), (hop("b"), 1.0))
    return Plan(traffic, split, hop("new", CANARY) if canary is not None else None, None, (hop("f", FALLBACK),))


class TestChooseTargets:
    @pytest.mark.parametrize(
        ("canary", "number", "given_up", "expected"),
        [
            (None, 0.1, (), "a b f"),
            (None, 0.74, (), "a b f"),
            (None, 0.76, (), "b a f"),
            (0.05, 0.04, (), "new a b f"),
            (0.05, 0.06, (), "a b f"),
            (0.05, 0.04, ("d",), "a b f"),
            (1.0, 0.99, (), "new b a f"),
        ],
    )
    def test_in_order(self, canary: float | None, number: float, given_up: tuple[str, ...], expected: str) -> None:
        assert names(choose_targets(plan(canary), b"", number, given_up)) == expected

    def test_sessions_follow_the_weights_whatever_the_number(self) -> None:
        chosen = Counter(choose_targets(plan(), b"%d" % i, 0.99)[0].route.short_name for i in range(4000))
        assert 0.70 < chosen["a"] / 4000 < 0.80

    def test_a_session_keeps_its_target_when_a_canary_comes_and_goes(self) -> None:
        for i in range(300):
            session = b"%d" % i
            with_canary = choose_targets(plan(0.1), session, 0.5)
            without = choose_targets(plan(0.1), session, 0.5, ("d",))
            assert with_canary in (without, (hop("new", CANARY), *without))

    def test_not_sticky_sessions_are_drawn(self) -> None:
        assert names(choose_targets(plan(sticky=False), b"s", 0.9)) == "b a f"

    @given(st.floats(1, 100), st.floats(1, 100), st.floats(1.01, 3))
    def test_more_weight_takes_sessions_and_moves_no_others(self, one: float, two: float, factor: float) -> None:
        before, after = ((hop("a"), one), (hop("b"), two)), ((hop("a"), one * factor), (hop("b"), two))
        for i in range(60):
            session = b"%d" % i
            if order_split(before, session, 0.5)[0].route.short_name == "a":
                assert order_split(after, session, 0.5)[0].route.short_name == "a"

    @given(st.floats(0, 0.999999))
    def test_every_target_is_there_once(self, number: float) -> None:
        assert sorted(names(choose_targets(plan(0.3), b"", number)).replace("new ", "").split()) == ["a", "b", "f"]

    def test_without_a_shadow_nothing_is_copied(self) -> None:
        assert not is_shadowed(plan(), 0.0)


def outcomes(good: int, bad: int, latency_ms: float = 10) -> list[Outcome]:
    return [Outcome(False, latency_ms)] * good + [Outcome(True, None)] * bad


class TestDecideRollback:
    @pytest.mark.parametrize(
        ("seen", "bounds", "reason"),
        [
            ([], Bounds(), None),
            (outcomes(100, 5), Bounds(), None),
            (outcomes(94, 6), Bounds(), "6 of its 100 requests failed"),
            (outcomes(0, 1), Bounds(), None),  # too few to tell
            (outcomes(0, 2), Bounds(), "2 of its 2 requests failed"),  # whatever the next 18 do
            (outcomes(19, 0, 900), Bounds(max_latency_ms=500), None),
            (outcomes(20, 0, 900), Bounds(max_latency_ms=500), "took 900 ms"),
            (outcomes(100, 0, 100) + outcomes(4, 0, 900), Bounds(max_latency_ms=500), None),
            (outcomes(100, 0, 100) + outcomes(7, 0, 900), Bounds(max_latency_ms=500), "took 900 ms"),
            (outcomes(20, 0, 900), Bounds(), None),
            (outcomes(5, 1), Bounds(max_error_rate=0, min_requests=1000), "1 of its 6"),
            (outcomes(5, 50), Bounds(max_error_rate=1.0), None),
        ],
    )
    def test_says_why(self, seen: list[Outcome], bounds: Bounds, reason: str | None) -> None:
        found = decide_rollback(seen, bounds)
        assert (found is None) if reason is None else (found is not None and reason in found)

    @given(st.lists(st.floats(0, 1e6), min_size=1))
    def test_p95_is_exceeded_by_a_twentieth_at_most(self, values: list[float]) -> None:
        found = find_p95(values)
        assert found in values
        assert sum(value > found for value in values) <= len(values) / 20  # type: ignore[operator]

    def test_a_watch_tells_once_and_forgets_what_is_gone(self) -> None:
        watch = CanaryWatch()
        bounds = Bounds(min_requests=1)
        assert watch.note("d", Outcome(True), bounds)
        assert watch.note("d", Outcome(True), bounds) is None
        watch.keep_only({"other"})
        assert watch.given_up == {}


RESERVED = {"bob": Reservation("bob", 2), "eve": Reservation("eve", 1, "refuse")}


class TestDecideTurn:
    @pytest.mark.parametrize(
        ("tenant", "running", "expected"),
        [
            ("acme", {"acme": 6}, Verdict.GO),  # 10 places, 3 kept
            ("acme", {"acme": 7}, Verdict.WAIT),
            ("acme", {"acme": 7, "bob": 2}, Verdict.WAIT),  # eve's is kept still
            ("acme", {"acme": 6, "bob": 2, "eve": 1}, Verdict.GO),
            ("bob", {"acme": 7}, Verdict.GO),
            ("bob", {"acme": 6, "bob": 2}, Verdict.GO),  # beyond its own: shares
            ("bob", {"acme": 7, "bob": 2}, Verdict.WAIT),
            ("eve", {"eve": 1}, Verdict.REFUSE),
            ("eve", {"acme": 10}, Verdict.WAIT),  # over capacity after a change: waits, is not refused
        ],
    )
    def test_as_the_table_says(self, tenant: str, running: dict[str, int], expected: Verdict) -> None:
        assert decide_turn(tenant, running, sum(running.values()), 10, RESERVED) is expected

    @given(st.lists(st.tuples(st.sampled_from(["acme", "bob", "eve"]), st.booleans()), max_size=80))
    def test_reserved_places_are_there_whenever_they_are_wanted(self, steps: list[tuple[str, bool]]) -> None:
        running: Counter[str] = Counter()
        for tenant, comes in steps:
            if comes and decide_turn(tenant, running, running.total(), 10, RESERVED) is Verdict.GO:
                running[tenant] += 1
            elif not comes and running[tenant]:
                running[tenant] -= 1
            assert running.total() <= 10
            for name, one in RESERVED.items():
                if running[name] < one.slots:
                    assert decide_turn(name, running, running.total(), 10, RESERVED) is Verdict.GO

    def test_waits_are_estimated_from_what_goes_before(self) -> None:
        assert estimate_wait(9, 2.0, 4) == 5.0
        assert estimate_wait(0, 0.0, 0) == 0.0

"""Weighted fair queueing: shares, order, room; as tables and as properties."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finmaas_serving.gateway.fair import BATCH_TURN, Entry, FairQueue

NEVER = 1e9


def entry(tenant: str, cost: float = 1.0, *, batch: bool = False, name: int = 0) -> Entry[int]:
    return Entry(name, tenant, batch, cost, NEVER)


def filled(*entries: Entry[int], room: int = 10_000, weights: dict[str, float] | None = None) -> FairQueue[int]:
    queue: FairQueue[int] = FairQueue(room, weights)
    for one in entries:
        queue.add(one)
    return queue


def order(queue: FairQueue[int]) -> list[str]:
    out = []
    while (one := queue.take()) is not None:
        out.append(one.tenant)
    return out


class TestShares:
    @pytest.mark.parametrize(
        ("weights", "costs", "expected"),
        [
            ({}, {"a": 1, "b": 1}, {"a": 50, "b": 50}),
            ({"a": 3.0}, {"a": 1, "b": 1}, {"a": 75, "b": 25}),
            ({}, {"a": 3, "b": 1}, {"a": 25, "b": 75}),  # equal cost, not equal count
            ({"a": 2.0, "b": 1.0, "c": 1.0}, {"a": 1, "b": 1, "c": 1}, {"a": 50, "b": 25, "c": 25}),
        ],
    )
    def test_follow_weight_and_cost(
        self, weights: dict[str, float], costs: dict[str, float], expected: dict[str, int]
    ) -> None:
        queue = filled(*(entry(t, c) for t, c in costs.items() for _ in range(100)), weights=weights)
        served = Counter(one.tenant for _ in range(100) if (one := queue.take()))
        assert all(abs(served[tenant] - count) <= 1 for tenant, count in expected.items()), served

    @settings(max_examples=60)
    @given(
        st.dictionaries(st.sampled_from("abcde"), st.floats(0.5, 8), min_size=2),
        st.lists(st.floats(0.1, 10), min_size=300, max_size=300),
    )
    def test_served_cost_over_weight_is_even_while_all_wait(
        self, weights: dict[str, float], costs: list[float]
    ) -> None:
        names = sorted(weights)
        # Each tenant has a backlog that outlasts the test; its costs are drawn for each request.
        queue = filled(*(entry(n, c) for n in names for c in costs), weights=weights)
        served: Counter[str] = Counter()
        for _ in range(200):
            one = queue.take()
            assert one is not None
            served[one.tenant] += one.cost  # type: ignore[assignment]
        even = [served[n] / weights[n] for n in names]
        # The bound of start-time fair queueing: one request of each of the two.
        bound = 2 * max(10.0 / weights[n] for n in names)
        assert max(even) - min(even) <= bound + 1e-6

    def test_a_newcomer_neither_gains_nor_pays_for_the_time_it_was_away(self) -> None:
        queue = filled(*(entry("a") for _ in range(50)))
        for _ in range(20):
            queue.take()
        for _ in range(5):
            queue.add(entry("b"))
        assert Counter(order(queue)[:10]) == {"a": 5, "b": 5}


class TestOrder:
    def test_a_tenants_requests_keep_their_order(self) -> None:
        queue = filled(*(entry("a", cost, name=i) for i, cost in enumerate([9, 1, 5, 1])))
        assert [one.item for _ in range(4) if (one := queue.take())] == [0, 1, 2, 3]

    def test_interactive_first_and_batch_never_starves(self) -> None:
        queue = filled(*(entry("b", batch=True) for _ in range(3)), *(entry("a") for _ in range(40)))
        out = order(queue)
        assert [i for i, tenant in enumerate(out) if tenant == "b"] == [BATCH_TURN - 1, 2 * BATCH_TURN - 1, 29]

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0.1, 5)), min_size=1, max_size=60))
    def test_all_are_served_once(self, requests: list[tuple[str, bool, float]]) -> None:
        queue = filled(*(entry(t, c, batch=b, name=i) for i, (t, b, c) in enumerate(requests)))
        out = []
        while (one := queue.take()) is not None:
            out.append(one.item)
        assert sorted(out) == list(range(len(requests)))
        assert len(queue) == 0

    def test_who_may_not_go_is_passed_over_and_keeps_its_place(self) -> None:
        queue = filled(entry("a"), entry("b"))
        taken = queue.take(lambda tenant: tenant != "a")
        assert taken is not None
        assert taken.tenant == "b"
        assert queue.take(lambda tenant: tenant == "b") is None
        assert order(queue) == ["a"]


class TestRoom:
    def test_a_flood_drops_its_own(self) -> None:
        queue = filled(*(entry("flood", name=i) for i in range(8)), room=8)
        out = queue.add(entry("calm"))
        assert out is not None
        assert (out.tenant, out.item) == ("flood", 7)
        last = entry("flood")
        assert queue.add(last) is last
        assert Counter(order(queue)) == {"flood": 7, "calm": 1}

    def test_batch_leaves_first(self) -> None:
        queue = filled(entry("a"), entry("b", batch=True), room=2)
        out = queue.add(entry("a"))
        assert out is not None
        assert out.batch

    def test_weights_count_in_who_leaves(self) -> None:
        queue = filled(*(entry("big") for _ in range(4)), *(entry("small") for _ in range(2)), room=6,
                       weights={"big": 4.0})  # fmt: skip
        out = queue.add(entry("big"))
        assert out is not None
        assert out.tenant == "small"

    def test_no_room_at_all(self) -> None:
        queue: FairQueue[int] = FairQueue(0)
        one = entry("a")
        assert queue.add(one) is one
        assert len(queue) == 0

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60), st.integers(1, 9), st.data())
    def test_never_more_than_fit_and_none_is_lost(
        self, requests: list[tuple[str, bool]], room: int, data: st.DataObject
    ) -> None:
        queue: FairQueue[int] = FairQueue(room)
        left, inside = set(), {}
        for i, (tenant, batch) in enumerate(requests):
            one = inside[i] = entry(tenant, batch=batch, name=i)
            if (out := queue.add(one)) is not None:
                left.add(out.item)
            assert len(queue) <= room
            if data.draw(st.booleans()):  # somebody goes away by itself
                gone = inside[data.draw(st.integers(0, i))]
                if gone.waits:
                    queue.remove(gone)
                    left.add(gone.item)
        served = set()
        while (taken := queue.take()) is not None:
            served.add(taken.item)
        assert served | left == set(range(len(requests)))
        assert not served & left

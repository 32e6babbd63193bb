"""Which replica takes a request, and how one that fails is left alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finmaas_serving.gateway.balance import (
    FAILURES,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    Breaker,
    Ring,
    choose_replica,
    is_left_alone,
    prefix_of,
)


@dataclass(eq=False)
class Candidate:
    in_flight: int = 0
    failed_until: float = 0.0
    probing: bool = False
    name: str = ""


class TestChooseReplica:
    def test_least_in_flight(self) -> None:
        candidates = [Candidate(3), Candidate(1), Candidate(2)]
        assert all(choose_replica(candidates, (), 0, turn) is candidates[1] for turn in range(5))

    def test_equal_loads_take_turns(self) -> None:
        candidates = [Candidate() for _ in range(3)]
        assert {id(choose_replica(candidates, (), 0, turn)) for turn in range(3)} == {id(c) for c in candidates}

    def test_nobody(self) -> None:
        empty: list[Candidate] = []
        assert choose_replica(empty, (), 0, 0) is None

    @given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=1), st.integers(0, 99))
    def test_tried_and_failed_ones_come_last(self, states: list[tuple[int, bool, bool]], turn: int) -> None:
        candidates = [Candidate(load, 10.0 if failed else 0.0) for load, failed, _ in states]
        tried = [c for c, (_, _, was_tried) in zip(candidates, states, strict=True) if was_tried]
        chosen = choose_replica(candidates, tried, 5.0, turn)
        assert chosen is not None
        best = min((c in tried, c.failed_until > 5.0, c.in_flight) for c in candidates)
        assert (chosen in tried, chosen.failed_until > 5.0, chosen.in_flight) == best


def replicas(count: int) -> list[Candidate]:
    return [Candidate(name=f"10.0.0.{i}:80") for i in range(count)]


class TestAffinity:
    def test_the_same_beginning_goes_to_the_same_replica(self) -> None:
        candidates = replicas(5)
        ring = Ring(candidates)
        for number in range(50):
            prefix = prefix_of("acme", b"system prompt %d" % number)
            chosen = {id(choose_replica(candidates, (), 0, turn, ring, prefix)) for turn in range(5)}
            assert len(chosen) == 1

    def test_tenants_do_not_share_a_place(self) -> None:
        assert prefix_of("acme", b"x") != prefix_of("other", b"x")

    def test_only_the_beginning_counts(self) -> None:
        assert prefix_of("acme", b"a" * 512 + b"x") == prefix_of("acme", b"a" * 512 + b"y")

    def test_beginnings_spread_evenly(self) -> None:
        candidates = replicas(4)
        ring = Ring(candidates)
        counts = Counter(
            one.name
            for i in range(4000)
            if (one := choose_replica(candidates, (), 0, 0, ring, prefix_of("acme", b"%d" % i)))
        )
        assert min(counts.values()) > 500
        assert max(counts.values()) < 1800

    def test_a_new_replica_takes_only_its_part(self) -> None:
        before, after = replicas(4), replicas(5)
        old, new = Ring(before), Ring(after)
        prefixes = [prefix_of("acme", b"%d" % i) for i in range(2000)]
        moved = sum(
            choose_replica(before, (), 0, 0, old, p).name != choose_replica(after, (), 0, 0, new, p).name  # type: ignore[union-attr]
            for p in prefixes
        )
        assert moved < 0.35 * len(prefixes)  # a fifth, and some for the unevenness of the ring

    @given(st.lists(st.integers(0, 40), min_size=2, max_size=8), st.integers(0, 2**32 - 1))
    def test_never_more_than_its_part_and_a_quarter(self, loads: list[int], prefix: int) -> None:
        candidates = replicas(len(loads))
        for candidate, load in zip(candidates, loads, strict=True):
            candidate.in_flight = load
        chosen = choose_replica(candidates, (), 0, 0, Ring(candidates), prefix)
        assert chosen is not None
        assert chosen.in_flight <= 1.25 * (sum(loads) + 1) / len(loads) + 1

    def test_goes_on_to_the_next_when_its_own_is_left_alone(self) -> None:
        candidates = replicas(3)
        ring, prefix = Ring(candidates), prefix_of("acme", b"hi")
        own = choose_replica(candidates, (), 0, 0, ring, prefix)
        assert own is not None
        own.failed_until = 10.0
        assert choose_replica(candidates, (), 5.0, 0, ring, prefix) is not own
        assert choose_replica(candidates, (), 10.0, 0, ring, prefix) is own  # the pause is over: one request tries it
        own.probing = True
        assert choose_replica(candidates, (), 10.0, 0, ring, prefix) is not own


class TestBreaker:
    @pytest.mark.parametrize(
        ("events", "left_alone"),
        [
            ("", False),
            ("f" * (FAILURES - 1), False),
            ("f" * FAILURES, True),
            ("ff.f", False),  # an answer between them
            ("r", True),  # refused: at once
            ("r.", False),
        ],
    )
    def test_opens_after_failures_in_a_row(self, events: str, left_alone: bool) -> None:
        breaker = Breaker()
        for event in events:
            if event == ".":
                breaker.note_answer()
            else:
                breaker.note_failure(100.0, at_once=event == "r")
        assert (breaker.failed_until > 100.0) is left_alone

    def test_pauses_double_up_to_a_bound(self) -> None:
        breaker, now, pauses = Breaker(), 0.0, []
        for _ in range(7):
            breaker.note_failure(now, at_once=True)
            pauses.append(breaker.failed_until - now)
            now = breaker.failed_until
        assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
        assert pauses[-1] == LONGEST_PAUSE_S

    def test_half_open_lets_one_through(self) -> None:
        candidate = replicas(1)[0]
        breaker = Breaker()
        breaker.note_failure(0.0, at_once=True)
        candidate.failed_until = breaker.failed_until
        assert is_left_alone(candidate, 1.0)
        assert not is_left_alone(candidate, 2.0)
        breaker.note_sent()
        candidate.probing = breaker.probing
        assert is_left_alone(candidate, 2.0)
        breaker.note_answer()
        assert breaker.failed_until == 0.0
        assert not breaker.probing

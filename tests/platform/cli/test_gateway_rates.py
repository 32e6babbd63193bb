"""Rates between two readings of the gateways' counts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from finmaas_platform.cli.gateway_rates import Rate, compute_rates, estimate_quantile, find_least
from finmaas_platform.sdk.objects import Allowance, Gateway, GatewayLine
from finmaas_serving.gateway.schemas import FIRST_TOKEN_BOUNDS_MS


def line(count: int, errors: int = 0, tokens: int = 0, **changes: Any) -> GatewayLine:
    times = [0] * (len(FIRST_TOKEN_BOUNDS_MS) + 1)
    times[1] = count
    fields = {"endpoint": "acme/risk/chat", "project": "acme/risk", "by_status": {200: count, 502: errors}}
    return GatewayLine(**{**fields, "completion_tokens": tokens, "first_token_ms": times, **changes})


def gateway(*lines: GatewayLine, name: str = "gw-1", started_at: float = 1.0) -> Gateway:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Gateway(gateway_id=name, state="ready", seen_at=at, started_at=started_at, lines=list(lines))


def allowance(scope: str, subject: str, settled: int, reserved: int = 0, **changes: Any) -> Allowance:
    fields = {"id": "alw_1", "unit": "tokens", "window": "day", "limit": 100, "created_at": datetime.now(UTC)}
    spent = {"settled": settled, "reserved": reserved}
    return Allowance(**{**fields, "scope": scope, "subject": subject, "spent": spent, **changes})


class TestLeft:
    RATE = Rate("acme/risk/chat", "acme/risk")

    def test_the_one_that_binds_most(self) -> None:
        found = find_least(
            self.RATE,
            [
                allowance("tenant", "acme", 10),
                allowance("project", "acme/risk", 60, 15, unit="money", currency="CNY", window="month"),
                allowance("model", "acme/risk/chat", 50),
            ],
        )
        assert found is not None
        assert (found.share, found.left, found.unit, found.window, found.subject) == (
            0.25,
            25,
            "CNY",
            "month",
            "project acme/risk",
        )

    def test_those_of_others_do_not_count(self) -> None:
        others = [
            allowance("tenant", "other", 99),
            allowance("project", "acme/fraud", 99),
            allowance("project", "acme/risk", 99, model="acme/risk/other"),
            allowance("key", "key_1", 99),
            allowance("project", "acme/risk", 99, unit="concurrency", window="now"),
        ]
        assert find_least(self.RATE, others) is None

    def test_a_limit_of_nothing_has_nothing_left(self) -> None:
        found = find_least(self.RATE, [allowance("tenant", "acme", 0, limit=0)])
        assert found is not None
        assert found.share == 0.0


class TestRates:
    def test_what_happened_in_between_over_all_gateways(self) -> None:
        before = [gateway(line(10, tokens=100)), gateway(line(5), name="gw-2")]
        after = [gateway(line(30, errors=4, tokens=300)), gateway(line(9), name="gw-2")]
        (rate,) = compute_rates(before, after, 2.0)
        assert (rate.requests_per_s, rate.errors_per_s, rate.tokens_per_s) == (14.0, 2.0, 100.0)
        assert (rate.requests, rate.tenant) == (43, "acme")
        assert rate.first_token_p50_ms == pytest.approx(7.5)

    def test_a_gateway_that_started_anew_counts_from_nothing(self) -> None:
        (rate,) = compute_rates([gateway(line(1000))], [gateway(line(4), started_at=2.0)], 2.0)
        assert rate.requests_per_s == 2.0

    def test_the_busiest_comes_first_and_the_idle_stay(self) -> None:
        idle, busy = line(50, endpoint="acme/risk/idle"), line(2)
        rates = compute_rates([gateway(idle)], [gateway(idle, busy)], 1.0)
        assert [(rate.endpoint, rate.requests_per_s) for rate in rates] == [
            ("acme/risk/chat", 2.0),
            ("acme/risk/idle", 0.0),
        ]
        assert rates[1].first_token_p99_ms is None


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [([0, 0, 0], 0.5, None), ([4, 0, 0], 0.5, 5.0), ([1, 1, 0], 0.99, 19.8), ([0, 0, 3], 0.5, 20.0)],
)
def test_quantiles_lie_within_their_bucket(counts: list[int], share: float, expected: float | None) -> None:
    assert estimate_quantile(counts, (10.0, 20.0), share) == pytest.approx(expected)

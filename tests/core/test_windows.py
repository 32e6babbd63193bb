"""Windows in time zones and fiscal calendars, and money."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finmaas_core.errors import InvalidInput
from finmaas_core.prices import Price, choose_price, parse_money, show_money
from finmaas_core.windows import WindowKind, find_window

ZONES = ("UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York", "America/Havana", "Africa/Cairo", "Asia/Kolkata",
         "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo")  # fmt: skip


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


class TestFindWindow:
    @pytest.mark.parametrize(
        ("kind", "moment", "zone", "fiscal_day", "start", "hours"),
        [
            ("minute", "2026-03-01 10:20:59", "UTC", 1, "2026-03-01 10:20:00", 1 / 60),
            ("day", "2026-03-01 00:00:00", "Asia/Shanghai", 1, "2026-03-01 00:00:00", 24),
            ("day", "2026-03-01 23:59:59", "Asia/Shanghai", 1, "2026-03-01 00:00:00", 24),
            ("day", "2026-03-29 12:00:00", "Europe/Berlin", 1, "2026-03-29 00:00:00", 23),  # the clock goes forward
            ("day", "2026-10-25 12:00:00", "Europe/Berlin", 1, "2026-10-25 00:00:00", 25),  # and back
            ("day", "2026-04-24 12:00:00", "Africa/Cairo", 1, "2026-04-24 01:00:00", 23),  # midnight does not exist
            ("day", "2026-11-01 12:00:00", "America/Havana", 1, "2026-11-01 00:00:00", 25),  # midnight comes twice
            ("day", "2026-04-05 12:00:00", "Australia/Lord_Howe", 1, "2026-04-05 00:00:00", 24.5),
            ("month", "2026-02-10 08:00:00", "UTC", 1, "2026-02-01 00:00:00", 28 * 24),
            ("month", "2024-02-10 08:00:00", "UTC", 1, "2024-02-01 00:00:00", 29 * 24),
            ("month", "2026-01-25 23:59:59", "Asia/Shanghai", 26, "2025-12-26 00:00:00", 31 * 24),
            ("month", "2026-01-26 00:00:00", "Asia/Shanghai", 26, "2026-01-26 00:00:00", 31 * 24),
            ("month", "2026-03-15 00:00:00", "Europe/Berlin", 1, "2026-03-01 00:00:00", 31 * 24 - 1),
        ],
    )
    def test_table(self, kind: str, moment: str, zone: str, fiscal_day: int, start: str, hours: float) -> None:
        begins, ends = find_window(WindowKind(kind), at(moment, zone), zone, fiscal_day)
        assert begins == at(start, zone)
        assert (ends - begins) / 3600 == pytest.approx(hours)

    @settings(max_examples=300, deadline=None)
    @given(
        st.sampled_from([WindowKind.DAY, WindowKind.MONTH, WindowKind.MINUTE]),
        st.integers(int(at("2020-01-01")), int(at("2035-01-01"))),
        st.sampled_from(ZONES),
        st.integers(1, 28),
    )
    def test_windows_meet_and_never_overlap(self, kind: WindowKind, moment: int, zone: str, fiscal_day: int) -> None:
        start, end = find_window(kind, moment, zone, fiscal_day)
        assert start <= moment < end
        assert find_window(kind, start, zone, fiscal_day) == (start, end)
        assert find_window(kind, end - 1, zone, fiscal_day) == (start, end)
        assert find_window(kind, end, zone, fiscal_day)[0] == end

    def test_now_has_no_bounds(self) -> None:
        assert find_window(WindowKind.NOW, 5.0, "UTC") == (0, 0)

    @pytest.mark.parametrize("zone", ["Mars/Olympus", "../etc/passwd", ""])
    def test_a_zone_that_is_none(self, zone: str) -> None:
        with pytest.raises(InvalidInput, match="time zone"):
            find_window(WindowKind.DAY, 0.0, zone)

    def test_a_day_that_not_every_month_has(self) -> None:
        with pytest.raises(InvalidInput, match="29"):
            find_window(WindowKind.MONTH, datetime(2026, 1, 1, tzinfo=UTC).timestamp(), "UTC", 29)


class TestPrices:
    PRICE = Price("2026-01-01", parse_money("2"), parse_money("0.5"), parse_money("6"), parse_money("9"))

    def test_cost_is_rounded_up_once(self) -> None:
        assert self.PRICE.cost(1000, 400, 500, 100) == 600 * 2000 + 400 * 500 + 400 * 6000 + 100 * 9000
        assert Price("2026-01-01", 1, 1, 1, 1).cost(1, 0, 1, 0) == 1

    @given(*(st.integers(0, 10**6) for _ in range(4)))
    def test_no_request_costs_more_than_its_bound(self, prompt: int, cached: int, output: int, reasoning: int) -> None:
        cached, reasoning = min(cached, prompt), min(reasoning, output)
        assert self.PRICE.cost(prompt, cached, output, reasoning) <= self.PRICE.most(prompt, output)

    def test_the_latest_that_began_is_valid(self) -> None:
        prices = [Price(day, 1, 1, 1, 1) for day in ("2026-03-01", "2026-01-01", "2026-02-01")]
        found = [choose_price(prices, day) for day in ("2025-12-31", "2026-01-31", "2026-02-01", "2027-01-01")]
        assert [price and price.valid_from for price in found] == [None, "2026-01-01", "2026-02-01", "2026-03-01"]

    @given(st.integers(0, 2**62))
    def test_money_reads_as_it_is_written(self, nano: int) -> None:
        assert parse_money(show_money(nano)) == nano

    @pytest.mark.parametrize("text", ["-1", "1e400", "NaN", "twelve", "0.0000000001", "inf"])
    def test_what_is_no_amount(self, text: str) -> None:
        with pytest.raises(InvalidInput):
            parse_money(text)

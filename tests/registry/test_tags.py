from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from finmaas_core.errors import InvalidInput
from finmaas_registry.tags import Tags, UnreadableTag, allows, find_usable, parse_consents, parse_dates


class TestConsent:
    @pytest.mark.parametrize(
        ("text", "training", "evaluation"),
        [
            ("yes", True, True),
            ("是", True, True),
            ("1", True, True),
            ("no", False, False),
            ("", False, False),
            (None, False, False),
            ("已撤回", False, False),
            ("training", True, False),
            ("Training; marketing", True, False),
            ("evaluation", False, True),
        ],
    )
    def test_is_for_a_purpose(self, text: str | None, training: bool, evaluation: bool) -> None:
        column = parse_consents(pa.array([text], pa.string()))
        assert allows(column, "training").to_pylist() == [training]
        assert allows(column, "evaluation").to_pylist() == [evaluation]

    @pytest.mark.parametrize("text", ["maybe", "trainin", "yes; no", "?", "training; no"])
    def test_what_cannot_be_understood_is_no_yes(self, text: str) -> None:
        with pytest.raises(UnreadableTag) as caught:
            parse_consents(pa.array(["yes", text]))
        assert (caught.value.at, caught.value.value) == (1, text)


class TestDates:
    def test_days(self) -> None:
        found = parse_dates(pa.array(["2027-12-31", "2027/01/02", None, "", "2027-12-31T08:00:00"]))
        assert found.to_pylist() == [dt.date(2027, 12, 31), dt.date(2027, 1, 2), None, None, dt.date(2027, 12, 31)]

    def test_what_is_no_day(self) -> None:
        with pytest.raises(UnreadableTag):
            parse_dates(pa.array(["next year"]))


class TestFindUsable:
    def test_leaves_out_what_expired_or_lacks_consent(self) -> None:
        table = pa.table(
            {
                "_consent": ["*", "", ";training;", "*", None],
                "_retain_until": pa.array([dt.date(2026, 1, 1), None, None, dt.date(2025, 12, 31), None]),
            }
        )
        assert find_usable(table, dt.date(2026, 1, 1)).to_pylist() == [True, False, True, False, False]
        assert find_usable(pa.table({"text": ["a"]}), dt.date(2026, 1, 1)) is None


class TestTags:
    def test_refuses_unknown_ways(self) -> None:
        with pytest.raises(InvalidInput, match="refuse or drop"):
            Tags(without_consent="keep")
        with pytest.raises(InvalidInput, match="no purpose"):
            Tags(purpose="two words")

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from finmaas_platform.domain.dataset_versions import count_expired, find_objections

CLEAN: dict[str, Any] = {"privacy": {"columns": {}}, "leakage": {"train_test": {"rows": 0}}}
FULL: dict[str, Any] = {"privacy": {"columns": {"text": {"rows": 3}}}, "leakage": {"train_test": {"rows": 2}}}


class TestFindObjections:
    @pytest.mark.parametrize(
        ("report", "expired", "accepted", "names"),
        [
            (CLEAN, 0, [], []),
            (CLEAN, 5, [], ["expired"]),
            (FULL, 0, [], ["privacy", "leakage"]),
            (FULL, 1, ["privacy", "expired"], ["leakage"]),
            (FULL, 1, ["privacy", "leakage", "expired"], []),
        ],
    )
    def test_what_is_not_accepted_stands_against_it(
        self, report: dict[str, Any], expired: int, accepted: list[str], names: list[str]
    ) -> None:
        assert [one.name for one in find_objections(report, expired, accepted)] == names


class TestCountExpired:
    def test_the_last_day_still_counts(self) -> None:
        report = {"retention": {"until": {"": 5, "2026-01-01": 2, "2026-01-02": 3}}}
        assert count_expired(report, date(2026, 1, 2)) == 2
        assert count_expired({"retention": None}, date(2026, 1, 2)) == 0

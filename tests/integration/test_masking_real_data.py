"""The guardrails on labelled texts: what must be found, and what must be left alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import bench_masking

pytestmark = [pytest.mark.integration]


@pytest.mark.parametrize(
    "rule", ["zh.cn_id_card", "zh.bank_card", "zh.cn_mobile", "en.bank_card", "en.iban", "en.us_ssn"]
)
def test_numbers_that_check_digits_or_form_tell_are_found(real_data: Path, rule: str) -> None:
    assert bench_masking.measure(real_data)["rules"][rule]["recall"] >= 0.98


def test_hotlines_fund_codes_and_amounts_are_left_alone(real_data: Path) -> None:
    assert bench_masking.measure(real_data)["zh_hits_in_texts_without_personal_data"] == []

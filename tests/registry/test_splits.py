from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finmaas_core.errors import InvalidInput
from finmaas_registry.splits import Fractions, choose_splits, hash_group, normalise_text, parse_fractions


class TestNormaliseText:
    @pytest.mark.parametrize(
        "same", ["Where is my CARD", "where  is my card ", "ｗｈｅｒｅ is my\tcard", "where\u3000is my card"]
    )
    def test_copies_are_one(self, same: str) -> None:
        assert normalise_text(same) == "where is my card"

    def test_folds_case_beyond_ascii(self) -> None:
        assert normalise_text("STRASSE") == normalise_text("straße")

    @given(st.text())
    def test_is_stable(self, text: str) -> None:
        once = normalise_text(text)
        assert normalise_text(once) == once


class TestChooseSplit:
    def test_the_hash_is_blake2b(self) -> None:
        assert hash_group("余额") == hashlib.blake2b("余额".encode(), digest_size=8).hexdigest()

    def test_shares_come_close_to_the_fractions(self) -> None:
        bounds = Fractions().bounds
        groups = np.array([int(hash_group(str(number)), 16) for number in range(20_000)], np.uint64)
        found = choose_splits(groups, bounds).tolist()
        assert [round(found.count(split) / len(found), 2) for split in range(3)] == [0.8, 0.1, 0.1]

    @given(st.integers(0, 2**64 - 1), st.sampled_from(["1,0,0", "0.7,0.3,0", "0.5,0,0.5", "0.1,0.2,0.7"]))
    def test_a_share_of_nothing_gets_nothing(self, place: int, splits: str) -> None:
        fractions = parse_fractions(splits)
        (chosen,) = choose_splits(np.array([place], np.uint64), fractions.bounds)
        assert [fractions.train, fractions.validation, fractions.test][chosen] > 0


class TestParseFractions:
    def test_takes_three(self) -> None:
        assert parse_fractions("0.7, 0.2,0.1") == Fractions(0.7, 0.2, 0.1)

    @pytest.mark.parametrize("text", ["", "0.8,0.2", "0.8,0.1,0.2", "a,b,c", "1.2,-0.1,-0.1", "nan,0,0", "0,0.5,0.5"])
    def test_refuses_the_rest(self, text: str) -> None:
        with pytest.raises(InvalidInput):
            parse_fractions(text)

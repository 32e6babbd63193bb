"""Scores of answers, against scikit-learn and by hand."""

from __future__ import annotations

import random

import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from finmaas_training.evaluation.scores import confusions, exact_match, macro_f1, parse_rate, score_labels


class TestExactMatch:
    @pytest.mark.parametrize(
        ("expected", "answered", "share"),
        [
            ([], [], 0.0),
            (["a", "b"], ["a", "b"], 1.0),
            (["a", "b"], [" a\n", "B"], 0.5),
            (["a"], [""], 0.0),
        ],
    )
    def test_counts_equal_texts(self, expected: list[str], answered: list[str], share: float) -> None:
        assert exact_match(expected, answered) == share


class TestParseRate:
    def test_a_wrong_label_parses_and_other_text_does_not(self) -> None:
        assert parse_rate(["a", "b ", "the label is a", ""], {"a", "b"}) == 0.5
        assert parse_rate([], {"a"}) == 0.0


class TestScoreLabels:
    @pytest.mark.parametrize("seed", range(5))
    def test_agrees_with_scikit_learn(self, seed: int) -> None:
        rng = random.Random(seed)
        expected = [rng.choice("abcde") for _ in range(200)]
        answered = [rng.choice([e, e, "a", "x", ""]) for e in expected]
        per_label = score_labels(expected, answered)
        labels = sorted(set(expected))
        assert list(per_label) == labels
        options = {"labels": labels, "average": None, "zero_division": 0}
        for name, function in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            theirs = function(expected, answered, **options)
            assert [s[name] for s in per_label.values()] == pytest.approx(theirs.tolist(), abs=1e-4)
        macro = f1_score(expected, answered, labels=labels, average="macro", zero_division=0)
        assert macro_f1(per_label) == pytest.approx(macro)

    def test_no_rows_no_score(self) -> None:
        assert macro_f1(score_labels([], [])) == 0.0


class TestConfusions:
    def test_most_frequent_first_and_free_text_left_out(self) -> None:
        expected = ["a", "a", "a", "b", "c"]
        answered = ["b", "b", "card 4711", "b", ""]
        assert confusions(expected, answered, {"a", "b", "c"}) == [
            {"expected": "a", "answered": "b", "rows": 2},
            {"expected": "a", "answered": None, "rows": 1},
            {"expected": "c", "answered": None, "rows": 1},
        ]

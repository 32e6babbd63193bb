"""The baselines that a model has to beat."""

from __future__ import annotations

from finmaas_platform.demo.intents import generate_rows
from finmaas_training.evaluation import baselines
from finmaas_training.evaluation.baselines import answer_majority, answer_tfidf


class TestAnswerMajority:
    def test_most_frequent_label_ties_by_alphabet(self) -> None:
        assert answer_majority(["b", "a", "b"], 2) == ["b", "b"]
        assert answer_majority(["b", "a"], 1) == ["a"]


class TestAnswerTfidf:
    def test_learns_english_and_chinese_from_few_rows(self) -> None:
        wanted = {"card_lost", "loan_prepay", "code_not_received", "account_open"}
        rows = [row for row in generate_rows(2400, seed=1) if row.label in wanted]
        train, test = rows[::2], rows[1::2]
        for language in ("en", "zh"):
            held = [row for row in test if row.language == language]
            answers = answer_tfidf([r.text for r in train], [r.label for r in train], [r.text for r in held])
            right = sum(answer == row.label for answer, row in zip(answers, held, strict=True))
            assert right / len(held) > 0.8  # some messages tell two matters, which n-grams cannot tell apart

    def test_one_label_only_is_the_answer(self) -> None:
        assert answer_tfidf(["x", "y"], ["a", "a"], ["z"]) == ["a"]

    def test_very_many_rows_are_sampled_by_the_seed(self, monkeypatch) -> None:
        monkeypatch.setattr(baselines, "MAX_TRAINING_ROWS", 20)
        texts, labels = ["lost card", "new loan"] * 30, ["card", "loan"] * 30
        assert answer_tfidf(texts, labels, ["card lost", "a loan"], seed=1) == ["card", "loan"]

"""Scores of answers against what was expected. Pure: no model, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

MAX_CONFUSIONS = 20


def exact_match(expected: Sequence[str], answered: Sequence[str]) -> float:
    """Share of answers that are the expected text, spaces at both ends aside; 0.0 without rows."""
    if not expected:
        return 0.0
    return sum(_same(a, b) for a, b in zip(expected, answered, strict=True)) / len(expected)


def parse_rate(answered: Sequence[str], labels: set[str]) -> float:
    """Share of answers that are one of the known labels, right or wrong."""
    return sum(answer.strip() in labels for answer in answered) / len(answered) if answered else 0.0


def score_labels(expected: Sequence[str], answered: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, f1 and rows of every expected label; an answer that is no label counts against recall only."""
    pairs = [(a.strip(), b.strip()) for a, b in zip(expected, answered, strict=True)]
    rows = Counter(a for a, _ in pairs)
    given = Counter(b for _, b in pairs)
    hits = Counter(a for a, b in pairs if a == b)
    return {label: _label_scores(hits[label], given[label], rows[label]) for label in sorted(rows)}


def macro_f1(per_label: Mapping[str, Mapping[str, float]]) -> float:
    """Plain mean of the f1 of all labels, rare ones weighing as much as common ones.

    Over the labels that occur in the split; scikit-learn's `f1_score(labels=those, average="macro")`.
    """
    return sum(scores["f1"] for scores in per_label.values()) / len(per_label) if per_label else 0.0


def confusions(expected: Sequence[str], answered: Sequence[str], known: set[str]) -> list[dict[str, Any]]:
    """The most frequent mistakes; what is no known label is shown as null, so that no free text gets into reports."""
    pairs = ((a.strip(), b.strip()) for a, b in zip(expected, answered, strict=True))
    wrong = Counter((a, b if b in known else None) for a, b in pairs if a != b)
    common = sorted(wrong.items(), key=lambda item: (-item[1], item[0][0], item[0][1] or ""))
    return [{"expected": a, "answered": b, "rows": n} for (a, b), n in common[:MAX_CONFUSIONS]]


def _label_scores(hits: int, given: int, rows: int) -> dict[str, float]:
    precision = hits / given if given else 0.0
    recall = hits / rows
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"precision": round(precision, 4), "recall": round(recall, 4), "f1": f1, "rows": rows}


def _same(expected: str, answered: str) -> bool:
    return expected.strip() == answered.strip()

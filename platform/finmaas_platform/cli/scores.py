"""Reads the flat scores of an evaluation (`exact_match`, `base_exact_match`, …) as one row per contender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finmaas_platform.cli.terminal import Column

# Prefix of the score names, and what a person calls it. The model under test has none.
CONTENDERS = (
    ("", "this model"),
    ("base_", "untuned base"),
    ("majority_", "majority class"),
    ("tfidf_", "TF-IDF + linear"),
)
MEASURES = (("exact_match", "Exact match"), ("macro_f1", "Macro F1"), ("parse_rate", "Is a label"))


@dataclass(frozen=True)
class Contender:
    """One who answered the rows, and its scores by measure."""

    name: str
    scores: Mapping[str, float]


def read_scores(result: Mapping[str, Any]) -> list[Contender]:
    """The contenders of an evaluation result, the model under test first; takes `{"scores": {…}}` or the scores."""
    flat = result.get("scores", result)
    found = []
    for prefix, name in CONTENDERS:
        scores = {measure: flat[prefix + measure] for measure, _ in MEASURES if prefix + measure in flat}
        if scores:
            found.append(Contender(name, scores))
    return found


def score_columns(contenders: Sequence[Contender]) -> list[Column]:
    """The columns of a table of contenders; a measure that nobody has gets none."""
    columns = [Column("", lambda c: c.name)]
    for measure, heading in MEASURES:
        if any(measure in contender.scores for contender in contenders):
            columns.append(Column(heading, _cell_of(measure), right=True))
    return columns


def _cell_of(measure: str) -> Any:
    def cell(contender: Contender) -> str:
        return f"{contender.scores[measure]:.3f}" if measure in contender.scores else ""

    return cell

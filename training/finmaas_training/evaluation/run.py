"""One evaluation: the model under test, the untuned base and the baselines answer the same rows; scores compare them.

Works on folders and knows neither the control plane nor Ray: the job around it fetches inputs and reports results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finmaas_core.errors import InvalidSpec
from finmaas_training.data import Message, rows_to_messages
from finmaas_training.evaluation import scores as scoring
from finmaas_training.evaluation.baselines import answer_majority, answer_tfidf
from finmaas_training.evaluation.generate import Generator, answer_all, load_generator
from finmaas_training.rows import read_usable
from finmaas_training.spec import EvaluationSpec

OnProgress = Callable[[int, int, str], None]
"""Rows answered, rows in all (over every stage), and the stage. It may raise to stop the evaluation."""

MAX_SLICES = 12  # an extra column with at most so many values gets a score per value


@dataclass(frozen=True)
class EvaluationResult:
    """`scores` are flat figures between 0 and 1 (see `run_evaluation`); `details` say where the mistakes are."""

    scores: dict[str, float]
    details: dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One row of the split: the conversation without its answer, the answer, and the row itself."""

    chat: list[Message]
    expected: str
    row: Mapping[str, Any]


def run_evaluation(
    spec: EvaluationSpec, dataset_dir: Path, subject_dir: Path, base_dir: Path | None, on_progress: OnProgress
) -> EvaluationResult:
    """Answer the rows of `spec.split` and score the answers.

    Scores: `exact_match`; for classification also `macro_f1` and `parse_rate` (answers that are a label at all). The
    same with prefix `base_`, `majority_` and `tfidf_` (without parse rate for these two) as far as the spec asks for
    them. Raises InvalidSpec for a split without rows or a shape that has no expected answer.
    """
    started = time.monotonic()
    shape, questions = read_questions(dataset_dir, spec.split, spec.max_rows)
    baselines = spec.baselines if shape == "classification" else ()
    models = {"": (subject_dir, base_dir)} | ({"base_": (base_dir, None)} if spec.base and base_dir else {})
    total = len(questions) * (len(models) + len(baselines))
    train = _training_rows(dataset_dir) if shape == "classification" else []
    labels = {row["label"] for row in train} | ({q.expected for q in questions} if train else set())
    answers: dict[str, list[str]] = {}
    for number, (prefix, (folder, below)) in enumerate(models.items()):
        assert folder is not None  # the untuned base is asked for only where its folder is given
        stage, before = "base model" if prefix else "model", number * len(questions)
        generator = load_generator(folder, below, spec.device)
        on_progress(before, total, stage)
        given = answer_all(
            generator,
            [question.chat for question in questions],
            max_new_tokens=_answer_room(spec, generator, labels),
            batch_size=spec.batch_size,
            on_batch=lambda done, before=before, stage=stage: on_progress(before + done, total, stage),  # type: ignore[misc]
        )
        answers[prefix] = [answer or "" for answer in given]
    for baseline in baselines:
        on_progress(len(answers) * len(questions), total, baseline)
        answers[f"{baseline}_"] = _answer_baseline(baseline, train, questions, spec.seed)
    on_progress(total, total, "scores")
    expected = [question.expected for question in questions]
    scores = _scores(expected, answers, labels)
    details = _details(questions, answers[""], labels, spec.split, shape)
    return EvaluationResult(scores, details | {"seconds": round(time.monotonic() - started, 2)})


def read_questions(dataset_dir: Path, split: str, max_rows: int | None) -> tuple[str, list[Question]]:
    """The shape of the dataset and the rows of the split, each with its expected answer."""
    path = dataset_dir / "data" / f"{split}.parquet"
    rows = read_usable(path)[0].to_pylist() if path.exists() else []
    if not rows:
        raise InvalidSpec(f"split {split!r} of the dataset has no rows; evaluate on one that has")
    shape = shape_of(rows[0])
    questions = []
    for row in rows[:max_rows]:
        *chat, answer = rows_to_messages(shape, row)
        questions.append(Question(chat, answer["content"].strip(), row))
    return shape, questions


def shape_of(columns: Mapping[str, Any]) -> str:
    """The shape that the columns of a dataset version tell. Raises InvalidSpec for one without an expected answer."""
    for shape, wanted in _SHAPES.items():
        if wanted <= set(columns):
            return shape
    raise InvalidSpec(
        f"the dataset's columns ({', '.join(columns)}) hold no expected answer; "
        "evaluate on classification (text, label), instruction (instruction, output) or chat (messages) rows"
    )


_SHAPES = {"classification": {"text", "label"}, "instruction": {"instruction", "output"}, "chat": {"messages"}}


def _training_rows(dataset_dir: Path) -> list[dict[str, Any]]:
    table, _ = read_usable(dataset_dir / "data" / "train.parquet", ["text", "label"])
    rows = [{"text": str(row["text"]), "label": str(row["label"]).strip()} for row in table.to_pylist()]
    if not rows:
        raise InvalidSpec("the dataset's training split is empty, so its labels are unknown; import more rows")
    return rows


def _answer_room(spec: EvaluationSpec, generator: Generator, labels: set[str]) -> int:
    """Tokens an answer may take: no more than the longest label and the end, where the labels are known."""
    if not labels:
        return spec.max_new_tokens
    longest = max(len(ids) for ids in generator.tokenizer(sorted(labels), add_special_tokens=False)["input_ids"])
    return min(spec.max_new_tokens, longest + 1)


def _answer_baseline(name: str, train: list[dict[str, Any]], questions: Sequence[Question], seed: int) -> list[str]:
    labels = [row["label"] for row in train]
    if name == "majority":
        return answer_majority(labels, len(questions))
    return answer_tfidf([row["text"] for row in train], labels, [str(q.row["text"]) for q in questions], seed)


def _scores(expected: list[str], answers: Mapping[str, list[str]], labels: set[str]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for prefix, answered in answers.items():
        scores[f"{prefix}exact_match"] = scoring.exact_match(expected, answered)
        if labels:
            scores[f"{prefix}macro_f1"] = scoring.macro_f1(scoring.score_labels(expected, answered))
        if labels and prefix in ("", "base_"):
            scores[f"{prefix}parse_rate"] = scoring.parse_rate(answered, labels)
    return {name: round(value, 4) for name, value in scores.items()}


def _details(
    questions: Sequence[Question], answered: list[str], labels: set[str], split: str, shape: str
) -> dict[str, Any]:
    expected = [question.expected for question in questions]
    details: dict[str, Any] = {"rows": len(questions), "split": split, "shape": shape}
    if labels:
        details["labels"] = scoring.score_labels(expected, answered)
        details["confusions"] = scoring.confusions(expected, answered, labels)
    details["slices"] = _slices(questions, answered)
    # Rows by their line in the imported file: whoever may read the dataset finds the text there, and only they.
    wrong = [q.row.get("_row") for q, answer in zip(questions, answered, strict=True) if q.expected != answer]
    details["wrong_rows"] = [row for row in wrong if row is not None][:100]
    return details


def _slices(questions: Sequence[Question], answered: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Exact match by the values of each extra column that has few, for example the language of a message."""
    own = {"text", "label", "instruction", "input", "output", "messages"}
    slices: dict[str, dict[str, dict[str, float]]] = {}
    for column in questions[0].row:
        if column in own or column.startswith("_"):
            continue
        values = {str(q.row.get(column)) for q in questions}
        if not 1 < len(values) <= MAX_SLICES:
            continue
        slices[column] = {}
        for value in sorted(values):
            pairs = [(q.expected, a) for q, a in zip(questions, answered, strict=True) if str(q.row[column]) == value]
            match = scoring.exact_match([e for e, _ in pairs], [a for _, a in pairs])
            slices[column][value] = {"exact_match": round(match, 4), "rows": len(pairs)}
    return slices

"""A whole evaluation on a tiny model that was really trained: scores, baselines, progress, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from finmaas_core.errors import InvalidSpec
from finmaas_training.base_model import BaseShape, build_base
from finmaas_training.data import rows_to_messages
from finmaas_training.evaluation.generate import answer_all, load_generator
from finmaas_training.evaluation.run import run_evaluation, shape_of
from finmaas_training.model import AnswerLoss, load_tokenizer
from finmaas_training.spec import EvaluationSpec

ROWS = [
    {"text": "my card is lost", "label": "lost", "language": "en", "_row": 1},
    {"text": "where is the new card", "label": "arrival", "language": "en", "_row": 2},
    {"text": "我的卡丢了", "label": "lost", "language": "zh", "_row": 3},
    {"text": "新卡什么时候到呢", "label": "arrival", "language": "zh", "_row": 4},
    {"text": "please stop my card, it was lost in a taxi", "label": "lost", "language": "en", "_row": 5},
]
SPEC = EvaluationSpec(model="tuned@1", dataset="cards@1", base="small@1", batch_size=2, device="cpu")
SHAPE = BaseShape(vocabulary=400, hidden=64, layers=1, heads=2, feed_forward=96, positions=64)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "base"
    build_base([row["text"] for row in ROWS] + ["lost", "arrival"], out, shape=SHAPE)
    return out


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base after learning ROWS by heart."""
    from finmaas_training.data import collate, encode_examples

    out = tmp_path_factory.mktemp("evaluation") / "tuned"
    tokenizer = load_tokenizer(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    examples = encode_examples(tokenizer, [rows_to_messages("classification", row) for row in ROWS], 64)
    batch = collate(examples, tokenizer.pad_token_id)
    ids, labels = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.labels)
    loss_of = AnswerLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(ids, labels).backward()
        optimizer.step()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return _write(tmp_path, {"train": ROWS, "test": ROWS})


class TestRunEvaluation:
    def test_scores_the_model_beside_base_and_baselines(self, dataset: Path, tuned: Path, base: Path) -> None:
        seen: list[tuple[int, int, str]] = []
        result = run_evaluation(SPEC, dataset, tuned, base, lambda *at: seen.append(at))
        assert result.scores["exact_match"] == result.scores["macro_f1"] == result.scores["parse_rate"] == 1.0
        assert result.scores["base_exact_match"] == result.scores["base_parse_rate"] == 0.0
        assert result.scores["majority_exact_match"] == 0.6
        assert result.scores["tfidf_exact_match"] == 1.0
        assert result.details["confusions"] == result.details["wrong_rows"] == []
        assert result.details["slices"]["language"]["zh"] == {"exact_match": 1.0, "rows": 2}
        assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
        assert seen[-1] == (20, 20, "scores")
        assert {stage for _, _, stage in seen} == {"model", "base model", "majority", "tfidf", "scores"}

    def test_without_base_and_baselines_only_the_model_answers(self, dataset: Path, tuned: Path) -> None:
        spec = SPEC.model_copy(update={"base": None, "baselines": (), "max_rows": 3})
        result = run_evaluation(spec, dataset, tuned, None, lambda *at: None)
        assert set(result.scores) == {"exact_match", "macro_f1", "parse_rate"}
        assert result.details["rows"] == 3

    @pytest.mark.parametrize("shape", ["instruction", "chat"])
    def test_other_shapes_count_exact_answers(self, shape: str, tmp_path: Path, tuned: Path, base: Path) -> None:
        rows = [_as(shape, row) for row in ROWS]
        result = run_evaluation(SPEC, _write(tmp_path, {"test": rows}), tuned, base, lambda *at: None)
        assert result.scores == {"exact_match": 1.0, "base_exact_match": 0.0}

    def test_mistakes_are_told_by_row(self, tmp_path: Path, tuned: Path) -> None:
        rows = [ROWS[0] | {"label": "arrival", "_row": 77}, ROWS[1]]
        spec = SPEC.model_copy(update={"base": None, "baselines": ()})
        result = run_evaluation(spec, _write(tmp_path, {"train": ROWS, "test": rows}), tuned, None, lambda *at: None)
        assert result.scores["exact_match"] == 0.5
        assert result.details["confusions"] == [{"expected": "arrival", "answered": "lost", "rows": 1}]
        assert result.details["wrong_rows"] == [77]

    def test_an_exception_from_progress_stops_it(self, dataset: Path, tuned: Path) -> None:
        def cancel(*_: object) -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            run_evaluation(SPEC, dataset, tuned, None, cancel)

    def test_an_empty_split_is_refused(self, dataset: Path, tuned: Path) -> None:
        with pytest.raises(InvalidSpec, match="'validation' of the dataset has no rows"):
            run_evaluation(SPEC.model_copy(update={"split": "validation"}), dataset, tuned, None, lambda *at: None)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
    def test_a_gpu_that_is_not_there_is_refused(self, dataset: Path, tuned: Path) -> None:
        with pytest.raises(InvalidSpec, match="device `gpu`"):
            run_evaluation(SPEC.model_copy(update={"device": "gpu"}), dataset, tuned, None, lambda *at: None)


class TestAnswerAll:
    def test_batching_and_padding_do_not_change_answers(self, tuned: Path) -> None:
        generator = load_generator(tuned, None, "cpu")
        chats = [rows_to_messages("classification", row)[:-1] for row in ROWS]
        alone = answer_all(generator, chats, max_new_tokens=8, batch_size=1)
        assert alone == [row["label"] for row in ROWS]
        assert answer_all(generator, chats, max_new_tokens=8, batch_size=5) == alone

    def test_an_answer_that_does_not_end_is_none(self, tuned: Path) -> None:
        generator = load_generator(tuned, None, "cpu")
        chats = [rows_to_messages("classification", ROWS[0])[:-1]]
        assert answer_all(generator, chats, max_new_tokens=1, batch_size=1) == [None]

    def test_a_prompt_that_is_too_long_loses_its_beginning(self, tuned: Path) -> None:
        generator = load_generator(tuned, None, "cpu")
        chats = [[{"role": "user", "content": "card " * 200}]]
        assert len(answer_all(generator, chats, max_new_tokens=4, batch_size=1)) == 1

    def test_an_adapter_needs_its_base(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_text("{}")
        with pytest.raises(InvalidSpec, match="is an adapter"):
            load_generator(tmp_path, None, "cpu")

    def test_an_adapter_answers_on_its_base(self, tuned: Path, tmp_path: Path) -> None:
        from peft import LoraConfig, get_peft_model

        model = AutoModelForCausalLM.from_pretrained(tuned)
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
        generator = load_generator(tmp_path / "adapter", tuned, "cpu")
        chats = [rows_to_messages("classification", row)[:-1] for row in ROWS]
        # A fresh adapter adds zero, so it answers as its base does.
        assert answer_all(generator, chats, max_new_tokens=8, batch_size=5) == [row["label"] for row in ROWS]


class TestShapeOf:
    def test_rows_without_an_expected_answer_are_refused(self) -> None:
        with pytest.raises(InvalidSpec, match="prompt, chosen, rejected"):
            shape_of({"prompt": "", "chosen": "", "rejected": ""})


def _as(shape: str, row: dict) -> dict:
    if shape == "instruction":
        return {"instruction": row["text"], "input": "", "output": row["label"]}
    return {"messages": rows_to_messages("classification", row)}


def _write(folder: Path, splits: dict[str, list[dict]]) -> Path:
    (folder / "data").mkdir()
    for split, rows in splits.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}.parquet")
    return folder

"""The base built from scratch: what it writes, that the seed decides it, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finmaas_core.errors import BadRow, InvalidInput
from finmaas_training.base_model import STEPS_BACK, BaseShape, build_base, cooccurrence_embeddings, main, read_texts

TEXTS = ["my card was lost", "my card has arrived", "我的卡丢了,请挂失", "card_lost", "card_arrived"] * 4
SMALL = BaseShape(vocabulary=400, hidden=64, layers=1, heads=2, feed_forward=96, positions=128)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "small"
    build_base(TEXTS, out, seed=3, shape=SMALL)
    return out


class TestBuildBase:
    def test_transformers_reads_the_folder(self, base: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(base)
        assert model.config.architectures == ["LlamaForCausalLM"]
        assert model.config.eos_token_id == AutoTokenizer.from_pretrained(base).eos_token_id
        assert model.dtype == torch.bfloat16

    def test_the_chat_template_marks_each_turn_with_one_token(self, base: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(base)
        chat = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "My card"}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert text == "<|system|>Be brief<|end|><|user|> my card<|end|><|assistant|>"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids[-2:] == [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|assistant|>")]

    @pytest.mark.parametrize("text", ["card_lost", "挂失", "unseen ẞ🙂 text", " spaces  kept "])
    def test_any_text_survives_the_tokenizer(self, base: Path, text: str) -> None:
        tokenizer = AutoTokenizer.from_pretrained(base)
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text

    def test_same_seed_same_bytes_other_seed_other_weights(self, base: Path, tmp_path: Path) -> None:
        for seed in (3, 4):
            build_base(TEXTS, tmp_path / str(seed), seed=seed, shape=SMALL)
        files = sorted(path.name for path in base.iterdir())
        assert files == sorted(path.name for path in (tmp_path / "3").iterdir())
        assert all((base / name).read_bytes() == (tmp_path / "3" / name).read_bytes() for name in files)
        weights = "model.safetensors"
        assert (base / weights).read_bytes() != (tmp_path / "4" / weights).read_bytes()

    def test_a_full_folder_or_empty_texts_are_refused(self, base: Path, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="already holds files"):
            build_base(TEXTS, base, shape=SMALL)
        with pytest.raises(InvalidInput, match="all empty"):
            build_base(["", " "], tmp_path / "out", shape=SMALL)
        assert not (tmp_path / "out").exists()


class TestPointHeadsBack:
    def test_the_first_heads_look_one_and_two_tokens_back_and_no_further(self, base: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager", dtype=torch.float32)
        tokens = torch.arange(20, 40).unsqueeze(0)
        first_layer = model(tokens, output_attentions=True).attentions[0][0]
        for head, distance in enumerate(STEPS_BACK):
            weights = first_layer[head].diagonal(-distance)[2:]
            assert weights.min() > 0.5


class TestCooccurrenceEmbeddings:
    def test_tokens_of_like_company_lie_close_and_unseen_ones_are_zero(self) -> None:
        # 1 and 2 stand between the same neighbours, 3 among others; 9 never occurs.
        rows = [[5, 1, 6], [5, 2, 6], [7, 3, 8]] * 20
        vectors = cooccurrence_embeddings(rows, vocabulary=10, dimensions=4, window=1)
        assert vectors.shape == (10, 4)
        assert vectors[1] @ vectors[2] > 0.9
        assert abs(vectors[1] @ vectors[3]) < 0.1
        assert np.allclose(np.linalg.norm(vectors[[1, 2, 3, 5]], axis=1), 1.0, atol=1e-4)
        assert not vectors[9].any()


class TestReadTexts:
    def test_named_columns_of_a_csv(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text("text,label,note\nlost card,card_lost,x\n", encoding="utf-8-sig")
        assert read_texts(path, ["text", "label"]) == ["lost card", "card_lost"]
        with pytest.raises(InvalidInput, match="no column 'texts'"):
            read_texts(path, ["texts"])

    def test_lines_of_a_text_file_and_strings_of_jsonl(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("one\n\ntwo\n", encoding="utf-8")
        (tmp_path / "b.jsonl").write_text('{"text": "three", "n": 4}\n\n', encoding="utf-8")
        assert read_texts(tmp_path / "a.txt") == ["one", "two"]
        assert read_texts(tmp_path / "b.jsonl") == ["three"]

    def test_a_line_that_is_not_json_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "b.jsonl").write_text('{"text": "three"}\n{"text": \n', encoding="utf-8")
        with pytest.raises(BadRow, match=r"b\.jsonl line 2"):
            read_texts(tmp_path / "b.jsonl")

    def test_other_kinds_of_files_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match=r"\.parquet"):
            read_texts(tmp_path / "a.docx")


class TestMain:
    def test_builds_from_a_file_and_prints_the_facts(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a.txt").write_text("\n".join(TEXTS), encoding="utf-8")
        main(["--texts", str(tmp_path / "a.txt"), "--out", str(tmp_path / "base"), "--seed", "1"])
        facts = json.loads(capsys.readouterr().out)
        assert facts["hidden"] == BaseShape().hidden
        assert facts["texts"] == len(TEXTS)
        assert (tmp_path / "base" / "model.safetensors").exists()

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finmaas_core.errors import InvalidInput
from finmaas_training.data import (
    IGNORED,
    Example,
    collate,
    count_batches,
    encode_example,
    plan_epoch,
    rows_to_messages,
    share_of,
)


class Letters:
    """A tokenizer of one token a letter, with a chat template of the usual form."""

    eos_token_id = 0

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [[ord(char) for char in text] for text in texts]}

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize
        return "".join(f"<{m['content']}>" for m in messages) + (":" if add_generation_prompt else "")


def _codes(text: str) -> list[int]:
    return [ord(char) for char in text]


class TestRowsToMessages:
    @pytest.mark.parametrize(
        ("shape", "row", "contents"),
        [
            ("classification", {"text": "hi", "label": 7}, ["hi", "7"]),
            ("instruction", {"instruction": "add", "input": "1 2", "output": "3"}, ["add\n\n1 2", "3"]),
            ("instruction", {"instruction": "sing", "input": None, "output": "la"}, ["sing", "la"]),
            (
                "chat",
                {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
                ["a", "b"],
            ),
        ],
    )
    def test_ends_with_the_answer(self, shape: str, row: dict[str, Any], contents: list[str]) -> None:
        messages = rows_to_messages(shape, row)
        assert [m["content"] for m in messages] == contents
        assert messages[-1]["role"] == "assistant"

    def test_chat_without_answer_is_refused_with_its_row(self) -> None:
        with pytest.raises(InvalidInput, match="row 12"):
            rows_to_messages("chat", {"_row": 12, "messages": [{"role": "user", "content": "a"}]})

    def test_preference_rows_are_refused(self) -> None:
        with pytest.raises(InvalidInput, match="preference"):
            rows_to_messages("preference", {"prompt": "a", "chosen": "b", "rejected": "c"})


class TestEncodeExample:
    CHAT = rows_to_messages("classification", {"text": "hello", "label": "yes"})

    def test_loss_falls_on_the_answer_and_its_end_alone(self) -> None:
        tokens, labels = encode_example(Letters(), self.CHAT, 100)
        assert tokens == [*_codes("<hello>:yes"), 0]
        assert labels == [IGNORED] * 8 + [*_codes("yes"), 0]

    def test_long_prompt_loses_its_beginning(self) -> None:
        tokens, labels = encode_example(Letters(), self.CHAT, 7)
        assert tokens == [*_codes("o>:yes"), 0]
        assert labels[:3] == [IGNORED] * 3

    def test_long_answer_loses_its_end_and_one_prompt_token_stays(self) -> None:
        tokens, labels = encode_example(Letters(), self.CHAT, 3)
        assert tokens == _codes(":ye")
        assert labels == [IGNORED, *_codes("ye")]


class TestPlanEpoch:
    @given(
        lengths=st.lists(st.integers(1, 200), min_size=1, max_size=300),
        workers=st.sampled_from([1, 2, 4]),
        share=st.integers(1, 16),
        seed=st.integers(0, 100),
        epoch=st.integers(0, 5),
    )
    def test_every_row_is_there_and_the_plan_is_repeatable(
        self, lengths: list[int], workers: int, share: int, seed: int, epoch: int
    ) -> None:
        batch_size = workers * share
        plan = plan_epoch(lengths, batch_size, seed, epoch)
        assert plan == plan_epoch(lengths, batch_size, seed, epoch)
        assert len(plan) == count_batches(len(lengths), batch_size)
        assert {len(batch) for batch in plan} == {batch_size}
        assert {row for batch in plan for row in batch} == set(range(len(lengths)))
        for batch in plan:
            dealt = [share_of(batch, rank, workers) for rank in range(workers)]
            assert sorted(row for part in dealt for row in part) == sorted(batch)

    def test_epochs_differ(self) -> None:
        assert plan_epoch([5] * 100, 10, 1, 0) != plan_epoch([5] * 100, 10, 1, 1)

    def test_little_padding_is_left(self) -> None:
        lengths = [(i * 7919) % 60 + 4 for i in range(4096)]
        plan = plan_epoch(lengths, 64, 1, 0)
        padded = sum(64 * max(lengths[row] for row in batch) for batch in plan)
        assert padded < 1.08 * sum(lengths)


class TestCollate:
    def test_pads_on_the_right_to_a_multiple(self) -> None:
        batch = collate([Example((5, 6, 7), 2), Example((8, 9, 1, 2, 3), 1)], pad_id=99, multiple_of=4)
        assert batch.input_ids.tolist() == [[5, 6, 7, 99, 99, 99, 99, 99], [8, 9, 1, 2, 3, 99, 99, 99]]
        x = IGNORED
        assert batch.labels.tolist() == [[x, x, 7, x, x, x, x, x], [x, 9, 1, 2, 3, x, x, x]]

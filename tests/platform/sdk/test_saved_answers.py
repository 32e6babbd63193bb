"""The marks of an answer are found again in every shape in which it can be saved."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finmaas_core.errors import InvalidInput
from finmaas_platform.sdk.saved_answers import read_answer

SEAL = {"content": [{"index": 0, "sha256": "x"}]}
MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "ab"}]}
CASES: dict[str, Any] = {
    "chat": [{"choices": [{"index": 0, "message": {"content": "ab"}}], "provenance": SEAL}],
    "completion": [{"choices": [{"index": 0, "text": "ab"}], "provenance": SEAL}],
    "chat stream": [
        {"choices": [{"index": 0, "delta": {"content": "a"}}]},
        {"choices": [{"index": 0, "delta": {"content": "b"}}], "provenance": SEAL},
    ],
    "response": [{"object": "response", "output": [MESSAGE], "provenance": SEAL}],
    "response stream": [
        {"type": "response.created", "response": {"output": []}},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "a"},
        {"type": "response.completed", "response": {"output": [MESSAGE], "provenance": SEAL}},
    ],
    "message": [{"type": "message", "content": [{"type": "text", "text": "ab"}], "provenance": SEAL}],
    "message stream": [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "b"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "provenance": SEAL},
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_what_was_sealed_is_read(name: str) -> None:
    events = CASES[name]
    whole = json.dumps(events[0]) if len(events) == 1 else "".join(f"data: {json.dumps(one)}\n\n" for one in events)
    assert read_answer(whole) == (SEAL, {0: "ab"})


@pytest.mark.parametrize("saved", ["", "x", "[]", "{}", '{"choices": [5], "provenance": {}}', '{"output": [5]}'])
def test_what_is_no_marked_answer_is_refused(saved: str) -> None:
    with pytest.raises(InvalidInput):
        read_answer(saved)

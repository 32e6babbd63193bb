"""Screens of responses and messages: a stream, however it is cut, says what the whole answer says."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shape_parts import (
    call_item,
    message,
    message_events,
    reasoning_item,
    response,
    response_events,
    text_item,
    told_message,
    told_response,
)

from finmaas_core.errors import BlockedByPolicy, Corrupt, InvalidInput
from finmaas_serving.gateway.messages import MessagesRewriter
from finmaas_serving.gateway.responses import ResponsesRewriter
from finmaas_serving.gateway.shapes import SHAPES
from finmaas_serving.gateway.sse import StreamRewriter
from finmaas_serving.guard.answer import AnswerScreen, Seal
from finmaas_serving.guard.messages_answer import MessagesScreen
from finmaas_serving.guard.policy import Action, Guard, Marks, PolicyDocument, RuleUse
from finmaas_serving.guard.request import screen_request
from finmaas_serving.guard.responses_answer import ResponsesScreen

POLICY = PolicyDocument(
    rules=(
        RuleUse("cn_mobile", Action.REPLACE, Action.MASK),
        RuleUse("bank_card", Action.MASK, Action.MASK),
        RuleUse("email", Action.MASK, Action.MASK),
    ),
    disclaimer="not advice",
    marks=Marks(text="（AI）", provenance=True),
)
GUARD = Guard(POLICY)
NAMES = {"<cn_mobile_1>": "13900139000"}
PIECES = st.sampled_from(
    ["13800138000", "6222020200112230", "a@b.com", "<cn_mobile_1>", "not advice", "你好", " ", "1", "x", '"', "\\", "é"]
)
TEXTS = st.lists(PIECES, max_size=8).map("".join)
CUTS = st.lists(st.integers(1, 80), max_size=12)


def screens(kind: Any) -> tuple[Any, Any]:
    class Told(Seal):
        def claim(self, hashes: dict[int, str]) -> tuple[bytes, str]:
            return json.dumps({str(k): v for k, v in hashes.items()}).encode(), "digest"

    return tuple(kind(GUARD, NAMES, is_text=True, seal=Told()) for _ in range(2))  # type: ignore[return-value]


class TestResponses:
    @given(
        texts=st.lists(st.tuples(st.sampled_from(["text", "reasoning", "call"]), TEXTS), min_size=1, max_size=4),
        cuts=CUTS,
    )
    def test_cut_anywhere_it_says_the_same(self, texts: list[tuple[str, str]], cuts: list[int]) -> None:
        make: dict[str, Any] = {
            "text": text_item,
            "reasoning": reasoning_item,
            "call": lambda text: call_item(json.dumps({"a": text})),
        }
        items = [make[kind](text) for kind, text in texts]
        for_whole, for_stream = screens(ResponsesScreen)
        whole = json.loads(for_whole.answer(json.dumps(response(items)).encode()))
        told = _events(for_stream, response_events(items, cuts))
        final = told[-1]["response"]
        assert final["output"] == whole["output"]
        assert final.get("provenance") == whole.get("provenance")
        said = told_response(told)
        for place, item in enumerate(whole["output"]):
            text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
            assert said[place] == (item["type"], text)
            [done] = [
                e["item"] for e in told if e["type"] == "response.output_item.done" and e["output_index"] == place
            ]
            assert done == item

    def test_every_place_that_tells_the_text_tells_the_same(self) -> None:
        told = _events(screens(ResponsesScreen)[0], response_events([text_item("call 13800138000 now")], [8, 12]))
        [text] = [event["text"] for event in told if event["type"] == "response.output_text.done"]
        [part] = [event["part"] for event in told if event["type"] == "response.content_part.done"]
        assert text == part["text"] == "call [手机号] now\n\nnot advice（AI）"

    @pytest.mark.parametrize(
        "event",
        [
            {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": 5},
            {"type": "response.output_text.delta", "delta": "x"},
            {"type": "response.content_part.added", "part": {"type": "output_text", "text": "13800138000"}},
            {"type": "response.output_item.added", "output_index": 0, "item": {"type": "new_kind"}},
            {"type": "response.completed", "response": {"output": 5}},
            {},
        ],
    )
    def test_what_cannot_be_read_is_not_sent(self, event: dict[str, Any]) -> None:
        with pytest.raises(Corrupt):
            screens(ResponsesScreen)[0].events(event)

    def test_unknown_events_and_fields_stay_behind(self) -> None:
        screen, whole = screens(ResponsesScreen)
        assert screen.events({"type": "response.new", "text": "13800138000"}) == []
        body = json.dumps(response([{"type": "new", "text": "13800138000"}], input_messages=["13800138000"])).encode()
        assert b"13800138000" not in whole.answer(body)


class TestMessages:
    @given(
        texts=st.lists(st.tuples(st.sampled_from(["text", "thinking", "tool_use"]), TEXTS), min_size=1, max_size=4),
        cuts=CUTS,
    )
    def test_cut_anywhere_it_says_the_same(self, texts: list[tuple[str, str]], cuts: list[int]) -> None:
        make: dict[str, Any] = {
            "text": lambda text: {"type": "text", "text": text},
            "thinking": lambda text: {"type": "thinking", "thinking": text, "signature": "s"},
            "tool_use": lambda text: {"type": "tool_use", "id": "t", "name": "f", "input": {"a": text}},
        }
        blocks = [make[kind](text) for kind, text in texts]
        for_whole, for_stream = screens(MessagesScreen)
        whole = json.loads(for_whole.answer(json.dumps(message(blocks)).encode()))
        told = _events(for_stream, message_events(blocks, cuts))
        for block, (kind, text) in zip(whole["content"], told_message(told), strict=True):
            assert block["type"] == kind
            if kind == "tool_use":
                assert json.loads(text) == block["input"]
            else:
                assert text == block[kind]
        assert told[-2].get("provenance") == whole.get("provenance")
        starts = [event["index"] for event in told if event["type"] == "content_block_start"]
        stops = [event["index"] for event in told if event["type"] == "content_block_stop"]
        assert starts == stops == list(range(len(blocks)))

    @pytest.mark.parametrize(
        "event",
        [
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 5}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "new_delta", "text": "x"}},
            {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "13800138000"}},
            {"type": "message_start"},
            {},
        ],
    )
    def test_what_cannot_be_read_is_not_sent(self, event: dict[str, Any]) -> None:
        screen = screens(MessagesScreen)[0]
        screen.events({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        with pytest.raises(Corrupt):
            screen.events(event)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8) | st.sampled_from(["13800138000", "function"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "content", "text", "role", "input", "source", "image_url", "arguments", "output"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)
KINDS = ["message", "function_call", "function_call_output", "reasoning", "input_text", "text", "tool_use", "thinking"]
FIELD_NAMES = ["input", "messages", "system", "tools", "query", "documents", "text_1", "stream", "text", "prompt", "n"]


class TestAnyInput:
    """Whatever comes in, a shape answers with its own errors or passes; it never falls over, and nothing slips by."""

    @given(path=st.sampled_from(sorted(SHAPES)), fields=st.dictionaries(st.sampled_from(FIELD_NAMES), JSON, max_size=5))
    def test_requests(self, path: str, fields: dict[str, Any]) -> None:
        raw = json.dumps({"model": "m", **fields}).encode()
        try:
            body = SHAPES[path].read(raw)
            screened, _ = screen_request(GUARD, path, raw, body.fields)
        except (InvalidInput, BlockedByPolicy):
            return
        out = SHAPES[path].engine_body(SHAPES[path].read(screened) if screened else body, "e", "salt")
        assert b"13800138000" not in out

    @given(raw=st.binary(max_size=60) | st.text(max_size=60).map(str.encode), path=st.sampled_from(sorted(SHAPES)))
    def test_bytes(self, raw: bytes, path: str) -> None:
        with pytest.raises(InvalidInput):
            SHAPES[path].read(raw)

    @pytest.mark.parametrize("path", sorted(SHAPES))
    @pytest.mark.parametrize("deep", [b"[" * 100_000, b'{"a":' * 100_000, b'{"input":' + b"[" * 100_000])
    def test_deep_nesting(self, path: str, deep: bytes) -> None:
        with pytest.raises(InvalidInput):
            SHAPES[path].read(deep)
        with pytest.raises(InvalidInput):
            SHAPES[path].read(b'{"model":"m","messages":' + deep + b"}")

    @given(body=JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
    @pytest.mark.parametrize("kind", [ResponsesScreen, MessagesScreen])
    def test_answers(self, kind: Any, body: bytes) -> None:
        try:
            out = screens(kind)[0].answer(body)
        except Corrupt:
            return
        told = json.loads(out)
        assert "13800138000" not in str(told.get("output") or told.get("content"))

    @given(event=st.fixed_dictionaries({"type": st.sampled_from(_types := [
        "response.created", "response.output_text.delta", "response.output_item.done", "response.completed",
        "response.function_call_arguments.done", "message_start", "content_block_start", "content_block_delta",
        "message_delta", "x",
    ]), "output_index": st.integers(0, 2), "index": st.integers(0, 2), "content_index": st.just(0)},
        optional={"delta": JSON, "item": JSON, "part": JSON, "response": JSON, "message": JSON, "content_block": JSON,
                  "arguments": JSON}))  # fmt: skip
    @pytest.mark.parametrize("kind", [ResponsesScreen, MessagesScreen])
    def test_events(self, kind: Any, event: dict[str, Any]) -> None:
        try:
            out = screens(kind)[0].events(event)
        except Corrupt:
            return
        # Beside its output a response repeats what the request set, which was screened on its way in.
        told = [{**one, "response": one["response"]["output"]} if "response" in one else one for one in out]
        assert "13800138000" not in str(told)

    @given(data=st.binary(max_size=80) | TEXTS.map(lambda text: f"event: x\ndata: {text}\n\n".encode()))
    @pytest.mark.parametrize("kind", [StreamRewriter, ResponsesRewriter, MessagesRewriter])
    def test_streams_of_bytes(self, kind: Any, data: bytes) -> None:
        rewriter = kind("a", "b")
        try:
            rewriter.feed(data + b"\n\n")
        except Corrupt:
            return
        assert rewriter.usage is None

    @given(
        value=st.fixed_dictionaries(
            {}, optional={"choices": JSON, "usage": JSON, "error": JSON, "model": JSON, "x": JSON}
        ),
        cut=st.integers(0, 60),
    )
    def test_events_of_chats(self, value: Any, cut: int) -> None:
        """Screened or not, whole or cut: a fault is Corrupt, and what is masked does not pass."""
        data = b"data: " + json.dumps(value).encode() + b"\n\n"
        for screen in (None, screens(AnswerScreen)[0]):
            rewriter = StreamRewriter("a", "b", screen=screen)
            try:
                out = rewriter.feed(data[:cut]) + rewriter.feed(data[cut:])
            except Corrupt:
                continue
            if screen is not None and isinstance(value.get("choices"), list):
                assert "13800138000" not in str([event.get("choices") for event in _read(out)])

    @pytest.mark.parametrize("arguments", ['{"phone": 13800138000}', '{"phone": 1.38001380e10}', "13800138000"])
    def test_numbers_in_arguments_are_screened(self, arguments: str) -> None:
        for screen in screens(ResponsesScreen):
            assert "138" not in screen.arguments(arguments)
        block = {"type": "tool_use", "id": "t", "name": "f", "input": {"phone": 13800138000, "amount": 100}}
        answer = {"id": "m", "type": "message", "role": "assistant", "content": [block], "stop_reason": "tool_use"}
        out = json.loads(screens(MessagesScreen)[0].answer(json.dumps(answer).encode()))
        assert out["content"][0]["input"] == {"phone": "[手机号]", "amount": 100}

    def test_an_error_that_is_none_hides_no_text(self) -> None:
        choice = {"index": 0, "delta": {"content": "call 13800138000, "}, "finish_reason": "stop"}
        data = b"data: " + json.dumps({"error": None, "choices": [choice]}).encode() + b"\n\n"
        out = StreamRewriter("a", "b", screen=screens(AnswerScreen)[0]).feed(data)
        assert (b"13800138000" in out, b"call" in out) == (False, True)


def _read(out: bytes) -> list[Any]:
    return [json.loads(part[6:]) for part in out.split(b"\n\n") if part.startswith(b"data: {")]


def _events(screen: Any, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events as a client reads them."""
    return [msgspec.json.decode(msgspec.json.encode(one)) for event in events for one in screen.events(event)]

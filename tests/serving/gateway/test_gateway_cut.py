"""Streams of `/v1/responses` and `/v1/messages` whose allowance ends while they run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import STREAM_HEAD, FakeReplica, Rig, chunked, run, running_gateway, snapshot_document
from shape_parts import call_item, message_events, reasoning_item, response_events, sse, text_item

from finmaas_serving.gateway.bounded import ITEM_TOKENS
from finmaas_serving.gateway.slices import Slice

TEXT = "".join(f"w{number:03d} " for number in range(200))  # 1,000 bytes
RESPONSES: dict[str, Any] = {"model": "chat", "stream": True, "input": "hi"}
MESSAGES: dict[str, Any] = {
    "model": "chat",
    "stream": True,
    "max_tokens": 5000,
    "messages": [{"role": "user", "content": "hi"}],
}
MASK = {"rules": [{"rule": "cn_mobile", "output": "mask"}]}


def document(limit: int, policy: dict[str, Any] | None) -> dict[str, Any]:
    one = {
        "allowance_id": "alw_1", "tenant_id": "ten_acme", "scope": "project", "scope_id": "prj_risk", "model": "",
        "unit": "output_tokens", "window": "day", "limit": limit,
    }  # fmt: skip
    policies = [] if policy is None else [{"project_id": "prj_risk", "digest": "d", "document": policy}]
    made = snapshot_document(allowances=[one], calendars=[{"tenant_id": "ten_acme"}], policies=policies)
    made["routes"][0]["max_model_len"] = 5000
    return made


def grant(rig: Rig, amount: int) -> Slice:
    """All that is left of the allowance, as the ledger would have granted it."""
    book, shot = rig.gateway.allowances, rig.gateway.snapshots.current
    key = next(key for key in shot.keys.values() if key.key_id == "key_good")
    (meter,) = book.plan(shot, key, shot.visible["prj_risk"]["chat"]).meters
    slice_ = book.slice_of(meter, book.now())
    book.epoch = 1
    slice_.number, slice_.granted, slice_.held, slice_.idle, slice_.closed = 1, amount, amount, amount, 0
    return slice_


def streaming(events: list[dict[str, Any]]) -> Any:
    async def script(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        data = sse(events)
        pieces = [data[at : at + 900] for at in range(0, len(data), 900)]
        writer.write(STREAM_HEAD + b"".join(chunked(piece) for piece in pieces) + b"0\r\n\r\n")

    return script


def read(body: bytes) -> list[dict[str, Any]]:
    found = []
    for part in body.split(b"\n\n"):
        if part:
            name, _, data = part.partition(b"\ndata: ")
            event = json.loads(data)
            assert name == b"event: " + event["type"].encode()
            found.append(event)
    return found


async def ask(folder: Path, events: list[dict[str, Any]], body: dict[str, Any], limit: int, policy: Any) -> Any:
    path = "/v1/responses" if "input" in body else "/v1/messages"
    async with running_gateway(folder, streaming(events), document=document(limit, policy)) as (rig, _):
        slice_ = grant(rig, limit)
        answer = await rig.call(body, path=path)
        (record,) = await rig.records(1)
        assert (slice_.reserved, slice_.idle + record["charges"][0][1]) == (0, limit)
        assert answer.whole
        return read(answer.body), record


@pytest.mark.parametrize("policy", [None, MASK])
class TestResponses:
    def test_ends_incomplete_and_tells_everything_that_passed(self, tmp_path: Path, policy: Any) -> None:
        async def test() -> None:
            events, record = await ask(tmp_path, response_events([text_item(TEXT)]), RESPONSES, 300, policy)
            said = "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta")
            assert TEXT.startswith(said)
            assert 300 - ITEM_TOKENS - 8 <= len(said) <= 300
            kinds = [one["type"] for one in events]
            assert kinds[-4:] == [
                "response.output_text.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.incomplete",
            ]
            done, part, item, last = events[-4:]
            (told,) = last["response"]["output"]
            assert done["text"] == part["part"]["text"] == item["item"]["content"][0]["text"] == said
            assert (told["content"][0]["text"], told["status"], item["item"]["status"]) == (
                said,
                "incomplete",
                "incomplete",
            )
            assert (last["response"]["status"], last["response"]["incomplete_details"]) == (
                "incomplete",
                {"reason": "max_output_tokens"},
            )
            assert last["response"]["model"] == "chat"
            assert [one["sequence_number"] for one in events] == list(range(len(events)))
            assert record["counted_by"] == "gateway"
            assert 0 < record["completion_tokens"] <= len(said)  # one token for each piece that passed
            assert record["prompt_tokens"] > 0  # as it was reserved: nobody counted it
            assert record["finish"] == "complete"

        run(test())

    @pytest.mark.parametrize("length", [260, 300, 340, 380])
    def test_wherever_it_ends(self, tmp_path: Path, policy: Any, length: int) -> None:
        items = [
            reasoning_item("so " * 80),
            call_item(json.dumps({"to": "a" * 40})),
            text_item("done " * 30),
        ]

        async def test() -> None:
            events, _ = await ask(tmp_path, response_events(items), RESPONSES, length, policy)
            last = events[-1]
            assert last["type"] == "response.incomplete"
            opened = [one["output_index"] for one in events if one["type"] == "response.output_item.added"]
            closed = [one["output_index"] for one in events if one["type"] == "response.output_item.done"]
            assert closed == opened == list(range(len(last["response"]["output"])))

        run(test())

    def test_a_whole_one_is_settled_by_the_engine_s_count(self, tmp_path: Path, policy: Any) -> None:
        async def test() -> None:
            events, record = await ask(tmp_path, response_events([text_item(TEXT)]), RESPONSES, 5000, policy)
            assert (events[-1]["type"], record["completion_tokens"], record["charges"]) == (
                "response.completed",
                3,
                [[1, 3]],
            )

        run(test())


@pytest.mark.parametrize("policy", [None, MASK])
class TestMessages:
    def test_ends_with_max_tokens(self, tmp_path: Path, policy: Any) -> None:
        async def test() -> None:
            stream = message_events([{"type": "text", "text": TEXT}])
            events, record = await ask(tmp_path, stream, MESSAGES, 300, policy)
            said = "".join(one["delta"]["text"] for one in events if one["type"] == "content_block_delta")
            assert TEXT.startswith(said)
            assert 300 - ITEM_TOKENS - 8 <= len(said) <= 300
            stop, delta, end = events[-3:]
            assert (stop["type"], delta["delta"]["stop_reason"], end["type"]) == (
                "content_block_stop",
                "max_tokens",
                "message_stop",
            )
            assert delta["usage"]["output_tokens"] == record["completion_tokens"] <= len(said)
            assert record["prompt_tokens"] == 7  # as the engine counted it at the start

        run(test())

    @pytest.mark.parametrize("length", [260, 300, 320, 345])
    def test_wherever_it_ends(self, tmp_path: Path, policy: Any, length: int) -> None:
        blocks = [
            {"type": "thinking", "thinking": "so " * 80, "signature": "sig"},
            {"type": "text", "text": "done " * 5},
            {"type": "tool_use", "id": "t1", "name": "dial", "input": {"to": "a" * 60}},
        ]

        async def test() -> None:
            events, _ = await ask(tmp_path, message_events(blocks), MESSAGES, length, policy)
            assert events[-2]["delta"]["stop_reason"] == "max_tokens"
            opened = [one["index"] for one in events if one["type"] == "content_block_start"]
            closed = [one["index"] for one in events if one["type"] == "content_block_stop"]
            assert opened == closed

        run(test())

    def test_the_client_s_own_bound_is_the_engine_s(self, tmp_path: Path, policy: Any) -> None:
        """An answer of few tokens and many bytes is not cut where the client's bound on tokens is reserved whole."""

        async def test() -> None:
            stream = message_events([{"type": "text", "text": TEXT}])
            events, record = await ask(tmp_path, stream, {**MESSAGES, "max_tokens": 50}, 60, policy)
            assert (events[-2]["delta"]["stop_reason"], record["completion_tokens"]) == ("end_turn", 3)

        run(test())

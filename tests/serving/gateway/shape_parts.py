"""Answers of `/v1/responses` and `/v1/messages` as vLLM 0.29 writes them, whole and as streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

from gateway_parts import ENGINE_MODEL, STREAM_HEAD, FakeReplica, chunked, json_bytes

Event = dict[str, Any]


def sse(events: Iterable[Event]) -> bytes:
    """Named events, compact, as pydantic writes them."""
    return b"".join(
        b"event: %b\ndata: %b\n\n"
        % (event["type"].encode(), json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode())
        for event in events
    )


def response(output: list[Event], *, usage: bool = True, status: str = "completed", **more: Any) -> Event:
    count = {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 4, "input_tokens_per_turn": []},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 10,
    }
    return {
        "id": "resp_1", "created_at": 1, "incomplete_details": None, "instructions": None, "metadata": None,
        "model": ENGINE_MODEL, "object": "response", "output": output, "parallel_tool_calls": True, "temperature": 1.0,
        "tool_choice": "auto", "tools": [], "top_p": 1.0, "background": False, "max_output_tokens": 64,
        "status": status, "truncation": "disabled", "usage": count if usage else None, "input_messages": None, **more,
    }  # fmt: skip


def text_item(text: str) -> Event:
    part = {"annotations": [], "text": text, "type": "output_text", "logprobs": None}
    return {"id": "msg_1", "content": [part], "role": "assistant", "status": "completed", "type": "message"}


def reasoning_item(text: str) -> Event:
    content = [{"text": text, "type": "reasoning_text"}]
    return {"id": "rs_1", "summary": [], "type": "reasoning", "content": content, "status": None}


def call_item(arguments: str) -> Event:
    ids = {"id": "fc_1", "call_id": "call_1", "name": "dial", "type": "function_call", "status": "completed"}
    return {**ids, "arguments": arguments}


def cut(text: str, cuts: Iterable[int]) -> list[str]:
    places = sorted({at for at in cuts if 0 < at < len(text)})
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def response_events(items: list[Event], cuts: Iterable[int] = range(0, 1000, 2)) -> list[Event]:
    """The stream of a response with these items."""
    start = response([], usage=False, status="in_progress")
    out: list[Event] = [{"type": f"response.{name}", "response": start} for name in ("created", "in_progress")]
    for place, item in enumerate(items):
        out += _item_events(place, item, list(cuts))
    out.append({"type": "response.completed", "response": response(items)})
    return [{**event, "sequence_number": number} for number, event in enumerate(out)]


def _item_events(place: int, item: Event, cuts: list[int]) -> list[Event]:
    at = {"item_id": item["id"], "output_index": place}
    if item["type"] == "function_call":
        name = "response.function_call_arguments"
        middle = [{**at, "type": f"{name}.delta", "delta": piece} for piece in cut(item["arguments"], cuts)]
        middle.append({**at, "type": f"{name}.done", "arguments": item["arguments"], "name": item["name"]})
        empty = {**item, "arguments": "", "status": "in_progress"}
    else:
        part = item["content"][0]
        name, part_name = (
            ("response.output_text", "content_part")
            if item["type"] == "message"
            else ("response.reasoning_text", "reasoning_part")
        )
        here = {**at, "content_index": 0}
        more: Event = {"logprobs": []} if item["type"] == "message" else {}
        middle = [{**here, "type": f"response.{part_name}.added", "part": {**part, "text": ""}}]
        middle += [{**here, "type": f"{name}.delta", "delta": piece, **more} for piece in cut(part["text"], cuts)]
        middle.append({**here, "type": f"{name}.done", "text": part["text"], **more})
        middle.append({**here, "type": f"response.{part_name}.done", "part": part})
        empty = {**item, "content": [], "status": "in_progress"}
    added = {"type": "response.output_item.added", "output_index": place, "item": empty}
    done = {"type": "response.output_item.done", "output_index": place, "item": item}
    return [added, *middle, done]


def message(content: list[Event], **more: Any) -> Event:
    usage = {"input_tokens": 3, "output_tokens": 3, "cache_read_input_tokens": 4}
    ids = {"id": "chatcmpl-1", "type": "message", "role": "assistant", "model": ENGINE_MODEL}
    return {**ids, "content": content, "stop_reason": "end_turn", "usage": usage, **more}


def message_events(blocks: list[Event], cuts: Iterable[int] = range(0, 1000, 2)) -> list[Event]:
    """The stream of a message with these blocks."""
    start = {**message([]), "stop_reason": None, "usage": {"input_tokens": 7, "output_tokens": 0}}
    out: list[Event] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(blocks):
        out += _block_events(index, block, list(cuts))
    usage = {"input_tokens": 3, "output_tokens": 3, "cache_read_input_tokens": 4}
    out.append({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})
    return [*out, {"type": "message_stop"}]


def _block_events(index: int, block: Event, cuts: list[int]) -> list[Event]:
    kind = block["type"]
    empty = {"text": {"text": ""}, "thinking": {"thinking": ""}, "tool_use": {"input": {}}}[kind]
    field, name, text = {
        "text": ("text", "text_delta", block.get("text", "")),
        "thinking": ("thinking", "thinking_delta", block.get("thinking", "")),
        "tool_use": ("partial_json", "input_json_delta", json.dumps(block.get("input"), ensure_ascii=False)),
    }[kind]
    deltas = [{"type": name, field: piece} for piece in cut(text, cuts) if piece]
    if kind == "thinking":
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    start = {k: v for k, v in block.items() if k != "signature"} | empty
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def answers(whole: Event, events: list[Event]) -> Any:
    """A replica that gives one answer, whole or as a stream."""

    async def script(_: FakeReplica, request: Event, writer: asyncio.StreamWriter) -> None:
        if not request.get("stream"):
            writer.write(json_bytes(200, whole))
            return
        data = sse(events)
        pieces = [data[at : at + 700] for at in range(0, len(data), 700)]
        writer.write(STREAM_HEAD + b"".join(map(chunked, pieces)) + b"0\r\n\r\n")

    return script


def read_events(body: bytes) -> list[Event]:
    """The events of a stream; each must bear the name that its data tells."""
    out = []
    for block in body.split(b"\n\n"):
        if not block:
            continue
        name, _, data = block.partition(b"\ndata: ")
        event = json.loads(data)
        assert name == b"event: " + event["type"].encode()
        out.append(event)
    return out


def told_response(events: list[Event]) -> list[tuple[str, str]]:
    """What the pieces of a response's stream say, by item: its kind and text."""
    texts: dict[int, list[str]] = {}
    for event in events:
        if event["type"] == "response.output_item.added":
            texts[event["output_index"]] = [event["item"]["type"], ""]
        elif event["type"].endswith(".delta"):
            texts[event["output_index"]][1] += event["delta"]
    return [(kind, text) for kind, text in texts.values()]


def told_message(events: list[Event]) -> list[tuple[str, str]]:
    """What the pieces of a message's stream say, by block."""
    texts: dict[int, list[str]] = {}
    for event in events:
        if event["type"] == "content_block_start":
            texts[event["index"]] = [event["content_block"]["type"], ""]
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            texts[event["index"]][1] += delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
    return [(kind, text) for kind, text in texts.values()]

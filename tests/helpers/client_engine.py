"""An engine of a few lines that answers every shape of the API as vLLM does, for tests with real clients."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from gateway_parts import ENGINE_MODEL, STREAM_HEAD, FakeReplica, chunked, completion, events, json_bytes, usage
from shape_parts import call_item, message, message_events, response, response_events, sse, text_item

TEXT = "Hello 你好"
ARGUMENTS = '{"city": "上海"}'


class Engine:
    """Runs a replica in a thread of its own. `hold` makes answers wait, `let` lets so many of them go."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._permits = asyncio.Semaphore(0)
        self._holds = False
        self.answered = 0
        self.port = 0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        """Listens on a port of its own."""
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def hold(self) -> None:
        self._holds = True

    def let(self, count: int) -> None:
        """Lets so many answers go, now or later."""
        for _ in range(count):
            self._loop.call_soon_threadsafe(self._permits.release)

    def free(self) -> None:
        """Nothing waits any more."""
        self._holds = False
        self.let(1000)

    async def _listen(self) -> int:
        replica = FakeReplica(self._answer)
        server = await asyncio.start_server(replica.serve, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    async def _answer(self, replica: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        path = replica.heads[-1].split(b" ", 2)[1].decode().removeprefix("/ep_chat")
        if self._holds:
            await self._permits.acquire()
        whole, stream = _ANSWERS[path](request)
        answer = STREAM_HEAD + chunked(_named(stream, request)) + b"0\r\n\r\n"
        writer.write(answer if request.get("stream") else json_bytes(200, _named(json.dumps(whole).encode(), request)))
        self.answered += 1


def _named(data: bytes, request: dict[str, Any]) -> bytes:
    """An answer bears the name that the engine was asked by."""
    return data.replace(ENGINE_MODEL.encode(), request["model"].encode())


def _text(request: dict[str, Any]) -> str:
    return ARGUMENTS if "json_schema" in json.dumps(request) else TEXT


def _chat(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    text = _text(request)
    whole = completion(text)
    pieces = events([text[:3], text[3:]])
    end: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "stop"}
    if request.get("tools"):
        call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
        told = {"role": "assistant", "content": None, "tool_calls": [call]}
        whole["choices"] = [{"index": 0, "message": told, "finish_reason": "tool_calls"}]
        end = {"index": 0, "delta": {"tool_calls": [{**call, "index": 0}]}, "finish_reason": "tool_calls"}
        pieces = pieces[2:]
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": ENGINE_MODEL}
    last = {**base, "choices": [end], "usage": usage(7, 2)}
    pieces.insert(-2, b"data: " + json.dumps(last, separators=(",", ":")).encode() + b"\n\n")
    return whole, b"".join(pieces)


def _completion(_: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    base = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": ENGINE_MODEL}
    whole = {**base, "choices": [{"index": 0, "text": TEXT, "finish_reason": "stop"}], "usage": usage(7, 2)}
    data = json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()
    return whole, b"data: %b\n\ndata: [DONE]\n\n" % data


def _embeddings(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    inputs = request["input"] if isinstance(request["input"], list) else [request["input"]]
    vector: Any = "AACAPwAAAEA=" if request.get("encoding_format") == "base64" else [1.0, 2.0]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i in range(len(inputs))]
    return {"object": "list", "data": data, "model": ENGINE_MODEL, "usage": usage(7, 0)}, b""


def _responses(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    items = [call_item(ARGUMENTS) | {"name": "weather"}] if request.get("tools") else [text_item(_text(request))]
    return response(items), sse(response_events(items))


def _messages(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    tool = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": json.loads(ARGUMENTS)}
    blocks = [tool] if request.get("tools") else [{"type": "text", "text": TEXT}]
    reason = "tool_use" if request.get("tools") else "end_turn"
    return message(blocks, stop_reason=reason), sse(message_events(blocks))


_ANSWERS = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/embeddings": _embeddings,
    "/v1/responses": _responses,
    "/v1/messages": _messages,
    "/v1/messages/count_tokens": lambda _: ({"input_tokens": 7}, b""),
}

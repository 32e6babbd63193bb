"""What the gateway's tests share: a replica made of asyncio, a small HTTP client, a gateway in this process."""

# ruff: noqa: ASYNC110 - conditions of another process or of plain objects have no event to wait for

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from finmaas_serving.gateway.context import Gateway, Limits
from finmaas_serving.gateway.feeds import sync_spool
from finmaas_serving.gateway.server import listen
from finmaas_serving.gateway.slices import Slice
from finmaas_serving.gateway.snapshot import SnapshotFile, SnapshotHolder
from finmaas_serving.gateway.spool import Spool
from finmaas_serving.gateway.upstream import ReplicaBook

T = TypeVar("T")
PEPPER = "pepper"
KEY, NARROW_KEY, EXPIRED_KEY, OTHER_KEY = "fmk_good", "fmk_narrow", "fmk_expired", "fmk_other"
ENGINE_MODEL = "acme/risk/chat"
EPOCH_2020 = 1_577_836_800


def run(test: Coroutine[Any, Any, T]) -> T:
    """Runs a test on the loop the gateway runs on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(test, 20))


def key_hash(key: str) -> str:
    return hmac.new(PEPPER.encode(), key.encode(), hashlib.sha256).hexdigest()


def snapshot_document(number: int = 1, **changes: Any) -> dict[str, Any]:
    def key(text: str, name: str, project: str = "risk", **more: Any) -> dict[str, Any]:
        ids = {"project_id": f"prj_{project}", "project": f"acme/{project}", "tenant_id": "ten_acme"}
        return {"hash": key_hash(text), "key_id": f"key_{name}", "name": name, "models": ["*"], **ids, **more}

    def route(name: str, project: str = "risk", **more: Any) -> dict[str, Any]:
        full = f"acme/{project}/{name}"
        return {
            "endpoint_id": f"ep_{name}", "name": full, "short_name": name, "project_id": f"prj_{project}",
            "app": f"ep_{name}", "model_name": full, "model_version_id": "mdv_1", "model_version": "acme/risk/m@1",
            "state": "ready", "max_model_len": 512, **more,
        }  # fmt: skip

    document = {
        "number": number,
        "issued_at": "2026-01-01T00:00:00Z",
        "keys": [
            key(KEY, "good"),
            key(NARROW_KEY, "narrow", models=["chat"]),
            key(EXPIRED_KEY, "expired", expires_at=EPOCH_2020),
            key(OTHER_KEY, "other", "fraud"),
        ],
        "routes": [route("chat"), route("cold", state="starting"), route("hidden", "fraud"), route("shared", "fraud")],
        "grants": [{"project_id": "prj_risk", "endpoint_id": "ep_shared"}],
    }
    return {**document, **changes}


Script = Callable[["FakeReplica", dict[str, Any], asyncio.StreamWriter], Awaitable[None]]


@dataclass
class FakeReplica:
    """A replica: reads requests, answers by a script, and notes what it saw."""

    script: Script
    requests: list[dict[str, Any]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        ahead = b""
        try:
            while True:
                head = ahead + await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                self.heads.append(head)
                self.requests.append(json.loads(await reader.readexactly(length)))
                answer = asyncio.ensure_future(self.script(self, self.requests[-1], writer))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not answer.done():
                    answer.cancel()
                    await asyncio.gather(gone, return_exceptions=True)
                    return
                try:
                    await answer
                finally:
                    gone.cancel()
                if writer.is_closing():
                    return
                await asyncio.gather(gone, return_exceptions=True)
                ahead = b"" if gone.cancelled() or gone.exception() else gone.result()
                if gone.done() and not gone.cancelled() and not ahead:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed.set()
            writer.transport.abort()


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def events(texts: list[str], *, model: str = ENGINE_MODEL, prompt: int = 7) -> list[bytes]:
    """A chat stream as vLLM 0.29 writes it when continuous usage is on."""
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    out = []
    for i, text in enumerate(texts):
        choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
        out.append({**base, "choices": [choice], "usage": usage(prompt, i + 1), "prompt_token_ids": None})
    out.append({**base, "choices": [], "usage": usage(prompt, len(texts))})
    lines = [b"data: " + json.dumps(e, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n" for e in out]
    return [*lines, b"data: [DONE]\n\n"]


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_bytes(texts: list[str]) -> bytes:
    return STREAM_HEAD + b"".join(chunked(event) for event in events(texts)) + b"0\r\n\r\n"


def json_bytes(status: int, value: Any) -> bytes:
    body = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


def completion(text: str, model: str = ENGINE_MODEL) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    ids = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}
    return {**ids, "choices": [choice], "usage": {**usage(7, 3), "prompt_tokens_details": {"cached_tokens": 4}}}


async def answer_usual(_: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    """Streams or answers whole, as asked."""
    texts = ["Hel", "lo", " 你好"]
    writer.write(stream_bytes(texts) if request.get("stream") else json_bytes(200, completion("".join(texts))))


@dataclass
class Rig:
    """A gateway in this process, with its replicas."""

    gateway: Gateway
    port: int

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def records(self, count: int) -> list[dict[str, Any]]:
        """The usage records, once there are `count`."""
        async with asyncio.timeout(5):
            while self.gateway.spool.last < count:
                await asyncio.sleep(0.005)
            await sync_spool(self.gateway.spool, self.gateway.loop)
        return [json.loads(payload) for _, payload in self.gateway.spool.read(0, 10_000)]

    async def send(self, request: bytes) -> Answer:
        reader, writer = await self.connect()
        writer.write(request)
        try:
            return await read_answer(reader)
        finally:
            writer.close()

    async def call(self, body: Any = None, *, path: str = "/v1/chat/completions", key: str | None = KEY) -> Answer:
        return await self.send(post(body if body is not None else chat(), path=path, key=key))

    async def get(self, path: str, key: str | None = KEY) -> Answer:
        auth = f"authorization: Bearer {key}\r\n" if key else ""
        return await self.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n{auth}\r\n".encode())


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True  # the body ended as HTTP says it should

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return found

    @property
    def events(self) -> list[Any]:
        parts = [part.removeprefix(b"data: ") for part in self.body.split(b"\n\n") if part]
        return [part.decode() if part == b"[DONE]" else json.loads(part) for part in parts]


def chat(stream: bool = False, model: str = "chat", **more: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
    return {**body, "stream": True} if stream else body


def limited(unit: str, window: str, limit: int) -> dict[str, Any]:
    entry = {
        "allowance_id": "alw_1", "tenant_id": "ten_acme", "scope": "project", "scope_id": "prj_risk", "model": "",
        "unit": unit, "window": window, "limit": limit, "currency": "", "label": "project acme/risk",
    }  # fmt: skip
    return snapshot_document(allowances=[entry])


def grant(rig: Rig, amount: int, closed: int | None) -> Slice:
    """Hands the gateway a slice, as the ledger would; `closed`: there is no more anywhere."""
    gateway = rig.gateway
    book, shot = gateway.allowances, gateway.snapshots.current
    key = next(key for key in shot.keys.values() if key.key_id == "key_good")
    (meter,) = book.plan(shot, key, shot.visible["prj_risk"]["chat"]).meters
    slice_ = book.slice_of(meter, book.now())
    book.epoch = 1
    slice_.number, slice_.granted, slice_.held, slice_.idle, slice_.closed = 1, amount, amount, amount, closed
    return slice_


def post(body: Any, *, path: str = "/v1/chat/completions", key: str | None = KEY, headers: str = "") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    auth = f"authorization: Bearer {key}\r\n" if key else ""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n{auth}{headers}\r\n"
    return head.encode() + raw


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    if not first.startswith("HTTP/"):  # a port that nobody listens on may be connected to itself
        raise ConnectionError(f"no HTTP server answered: {first!r}")
    return int(first.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    status, headers = await read_head(reader)
    if "content-length" in headers:
        return Answer(status, headers, await reader.readexactly(int(headers["content-length"])))
    if headers.get("transfer-encoding") != "chunked":
        return Answer(status, headers, await reader.read())
    body, whole = b"", True
    try:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    except asyncio.IncompleteReadError:
        whole = False
    return Answer(status, headers, body, whole)


@contextlib.asynccontextmanager
async def running_gateway(
    folder: Path, *scripts: Script, limits: Limits | None = None, document: dict[str, Any] | None = None
) -> AsyncIterator[tuple[Rig, list[FakeReplica]]]:
    """A gateway whose endpoint `chat` has one replica for each script."""
    loop = asyncio.get_running_loop()
    holder = SnapshotHolder(SnapshotFile(folder / "snapshot", "fmg_token"))
    holder.take(json.dumps(document or snapshot_document()).encode())
    spool = Spool(folder / "spool", segment_bytes=64 * 1024)
    gateway = Gateway(PEPPER.encode(), holder, ReplicaBook(), spool, loop, limits or Limits())
    replicas = [FakeReplica(script) for script in scripts]
    servers = [await asyncio.start_server(replica.serve, "127.0.0.1", 0) for replica in replicas]
    for replica, server in zip(replicas, servers, strict=True):
        replica.port = server.sockets[0].getsockname()[1]
    gateway.replicas.replace({"ep_chat": [("127.0.0.1", replica.port) for replica in replicas]})
    listener = await listen(gateway, "127.0.0.1", 0)
    try:
        yield Rig(gateway, listener.sockets[0].getsockname()[1]), replicas
    finally:
        for connection in list(gateway.connections):
            connection.cut()
        gateway.replicas.close()
        for server in (listener, *servers):
            server.close()
        await asyncio.sleep(0)
        spool.close()


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition; the test's own time limit ends it."""
    while not condition():
        await asyncio.sleep(0.002)

"""The usual call: whatever happens, client, records and books see what they would see of any other call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import msgspec
import pytest
from gateway_parts import (
    Answer,
    FakeReplica,
    Rig,
    Script,
    answer_usual,
    chat,
    chunked,
    completion,
    json_bytes,
    post,
    read_answer,
    run,
    running_gateway,
    snapshot_document,
    until,
)

from finmaas_serving.gateway import protocol
from finmaas_serving.gateway.context import Limits
from finmaas_serving.gateway.schemas import UsageRecord
from finmaas_serving.gateway.usual import UsualCall, start_usual
from finmaas_serving.guard.policy import strict_policy

STRICT = {"project_id": "prj_risk", "digest": "1", "document": msgspec.to_builtins(strict_policy())}
DOCUMENTS = {"bare": snapshot_document(), "strict": snapshot_document(policies=[STRICT])}
BEFORE = 2  # requests that come first: by then connection and replica are known
PHONE = "call 13800138000"
COMPILED = not isinstance(start_usual, FunctionType)  # then nothing can be put in its place
OTHERWISE = "x-request-timeout: 60\r\n"  # a call with a deadline of its own is not a usual one
Write = Callable[[asyncio.StreamWriter], Awaitable[None]]


def third(write: Write) -> Script:
    """A replica that does something else at the third request."""

    async def script(replica: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if len(replica.requests) == BEFORE + 1:
            await write(writer)
        else:
            await answer_usual(replica, request, writer)

    return script


def writes(data: bytes, *, close: bool = False, one_by_one: bool = False) -> Write:
    async def write(writer: asyncio.StreamWriter) -> None:
        for piece in [data[i : i + 1] for i in range(len(data))] if one_by_one else [data]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.close()

    return write


def whole(text: str, **more: Any) -> bytes:
    return json_bytes(200, {**completion(text), **more})


CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n%b0\r\n\r\n"
ANSWERS: dict[str, Write] = {
    "plain": writes(whole("fine")),
    "a phone number": writes(whole(PHONE)),
    "a promise": writes(whole("guaranteed return of 8%，保证收益")),
    "escapes": writes(whole('say "hi"\n')),
    "two choices": writes(json_bytes(200, {**completion("a"), "choices": completion("a")["choices"] * 2})),
    "no usage": writes(whole("fine", usage=None)),
    "another model": writes(json_bytes(200, completion("fine", model="acme/risk/else"))),
    "reasoning": writes(whole("fine", choices=[{"index": 0, "message": {"content": "a", "reasoning": "b"}}])),
    "no JSON": writes(json_bytes(200, b"<html>")),
    "no UTF-8": writes(json_bytes(200, b'{"choices":[{"index":0,"message":{"content":"\xff"}}]}')),
    "400": writes(json_bytes(400, {"error": {"message": "too long", "param": "messages"}})),
    "429": writes(json_bytes(429, {"error": {"message": "busy"}})),
    "500": writes(json_bytes(500, {})),
    "garbage": writes(b"nonsense\r\n\r\n"),
    "nothing": writes(b"", close=True),
    "half a head": writes(b"HTTP/1.1 200 OK\r\ncont", close=True),
    "half a body": writes(whole("fine")[:-5], close=True),
    "byte by byte": writes(whole("fine"), one_by_one=True),
    "chunks": writes(CHUNKED % chunked(json.dumps(completion("fine")).encode())),
}
REQUESTS: dict[str, Any] = {
    "usual": chat(),
    "settings": chat(max_tokens=5, temperature=0.5, stop=["x"], user="u"),
    "a phone number": {"model": "chat", "messages": [{"role": "user", "content": PHONE}]},
    "a secret": {"model": "chat", "messages": [{"role": "user", "content": "AKIAIOSFODNN7EXAMPLE"}]},
    "a stream": chat(stream=True),
    "unknown model": chat(model="none"),
    "hidden model": chat(model="acme/fraud/hidden"),
    "cold model": chat(model="cold"),
    "full name": chat(model="acme/risk/chat"),
    "salt": chat(cache_salt="mine"),
    "unknown field": chat(colour="red"),
    "parts": chat(messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}]),
    "no JSON": b"{",
    "twice": b'{"model":"none","messages":[],"model":"chat"}',
}


@pytest.fixture(params=["bare", "strict"])
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    return DOCUMENTS[request.param]


class Seen:
    """How often a usual call was begun; of compiled code nothing is seen."""

    def __init__(self) -> None:
        self.calls: list[UsualCall] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if not COMPILED:
            monkeypatch.setattr(protocol, "start_usual", self.start)

    def counts(self, wanted: int) -> bool:
        return COMPILED or len(self.calls) == wanted

    def start(self, *given: Any) -> UsualCall | None:
        call = start_usual(*given)
        if call is not None:
            self.calls.append(call)
        return call


def compare(
    folder: Path, monkeypatch: pytest.MonkeyPatch, script: Script, document: dict[str, Any], body: Any
) -> tuple[Seen, Answer]:
    """One run with usual calls and one without; what each shows must be the same."""
    seen = Seen()
    for name in ("usual", "other"):
        (folder / name).mkdir()
    seen.watch(monkeypatch)
    usual, answer = run(observe(folder / "usual", script, document, body))
    if not COMPILED:
        monkeypatch.setattr(protocol, "start_usual", lambda *_: None)
    other, _ = run(observe(folder / "other", script, document, body, OTHERWISE if COMPILED else ""))
    assert usual == other
    return seen, answer


async def observe(
    folder: Path, script: Script, document: dict[str, Any], body: Any, headers: str = ""
) -> tuple[dict[str, Any], Answer]:
    """What client, replica, records and counters show of a third request on one connection."""
    async with running_gateway(folder, script, document=document) as (rig, [replica]):
        reader, writer = await rig.connect()
        for _ in range(BEFORE):
            writer.write(post(chat(), headers=headers))
            assert (await read_answer(reader)).status == 200
        writer.write(post(body, headers=headers))
        answer = await read_answer(reader)
        writer.close()
        await until(lambda: not rig.gateway.running)
        shown = (
            json.loads(answer.body.decode(errors="replace"))
            if answer.body.startswith(b"{")
            else answer.body.replace(b"\n", b"")
        )
        provenance = shown.pop("provenance", None) if isinstance(shown, dict) else None
        headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
        if provenance or not isinstance(shown, dict):
            headers.pop("content-length", None)
        return {
            "status": answer.status,
            "headers": headers,
            "shown": shown if isinstance(shown, dict) else len(answer.events),
            "sealed": provenance and [provenance["content"], provenance["model"], provenance["model_version"]],
            "asked": replica.requests,
            "records": [_lasting(record) for record in await rig.records(rig.gateway.spool.last)],
            "in flight": [one.in_flight for one in rig.gateway.replicas.of("ep_chat")],
            "idle": [len(one.idle) for one in rig.gateway.replicas.of("ep_chat")],
            "failures": [one.failures for one in rig.gateway.replicas.of("ep_chat")],
            "reserved": rig.gateway.spool._reserved,
            "lines": [(line.by_status, line.by_finish, line.prompt_tokens) for line in rig.gateway.tally.lines],
        }, answer


def _lasting(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what is different each time."""
    changing = ("request_id", "at", "ttft_ms", "duration_ms", "replica")
    whole = msgspec.to_builtins(msgspec.convert(record, UsageRecord))  # what is as usual may be left out of its text
    kept = {name: value for name, value in whole.items() if name not in changing}
    return {**kept, "claims": len(record["claims"]), "timed": record["ttft_ms"] is not None}


class TestEveryAnswer:
    @pytest.mark.parametrize("name", ANSWERS)
    def test_is_as_of_any_other_call(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: dict[str, Any], name: str
    ) -> None:
        seen, _ = compare(tmp_path, monkeypatch, third(ANSWERS[name]), document, chat())
        assert COMPILED or len(seen.calls) >= 1


class TestEveryRequest:
    @pytest.mark.parametrize("name", REQUESTS)
    def test_is_as_any_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: dict[str, Any], name: str
    ) -> None:
        compare(tmp_path, monkeypatch, answer_usual, document, REQUESTS[name])

    def test_the_usual_ones_go_the_usual_way(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen, _ = compare(tmp_path, monkeypatch, answer_usual, DOCUMENTS["strict"], chat(max_tokens=5))
        assert seen.counts(BEFORE)
        assert not any(call._call for call in seen.calls[1:])


class TestReplicas:
    def test_prompts_that_begin_alike_stay_together(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = Seen()
        seen.watch(monkeypatch)
        begin = "one long beginning " * 40

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, answer_usual) as (rig, replicas):
                reader, writer = await rig.connect()
                for number in range(8):
                    writer.write(post({"model": "chat", "messages": [{"role": "user", "content": f"{begin}{number}"}]}))
                    assert (await read_answer(reader)).status == 200
                assert sorted(len(replica.requests) for replica in replicas) == [0, 8]
                assert seen.counts(7)
                for number in range(24):
                    writer.write(post({"model": "chat", "messages": [{"role": "user", "content": f"{number}{begin}"}]}))
                    assert (await read_answer(reader)).status == 200
                assert min(len(replica.requests) for replica in replicas) > 0
                assert [one.in_flight for one in rig.gateway.replicas.of("ep_chat")] == [0, 0]
                writer.close()

        run(test())

    def test_one_that_dies_is_replaced_by_the_other(self, tmp_path: Path) -> None:
        async def dies(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.close()

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, answer_usual) as (rig, replicas):
                reader, writer = await rig.connect()
                for number in range(16):
                    writer.write(post({"model": "chat", "messages": [{"role": "user", "content": f"{number}"}]}))
                    assert (await read_answer(reader)).status == 200
                replicas[0].script = dies
                for number in range(16):
                    writer.write(post({"model": "chat", "messages": [{"role": "user", "content": f"{number}"}]}))
                    assert (await read_answer(reader)).status == 200
                records = await rig.records(32)
                assert len({record["request_id"] for record in records}) == 32
                assert [one.in_flight for one in rig.gateway.replicas.of("ep_chat")] == [0, 0]
                writer.close()

        run(test())


class TestFaults:
    def test_a_client_that_leaves_stops_the_engine(self, tmp_path: Path) -> None:
        async def hang(_: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        async def test() -> None:
            async with running_gateway(tmp_path, third(hang)) as (rig, [replica]):
                writer = await _ask_thrice(rig)
                await until(lambda: len(replica.requests) == BEFORE + 1)
                writer.close()
                await replica.closed.wait()
                record = (await rig.records(BEFORE + 1))[-1]
                assert (record["finish"], record["status"]) == ("client_left", 499)
                assert (rig.gateway.running, rig.gateway.spool._reserved) == (0, 0)

        run(test())

    def test_a_silent_replica_is_given_up(self, tmp_path: Path) -> None:
        async def hang(_: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        async def test() -> None:
            limits = Limits(first_byte_s=0.0)
            async with running_gateway(tmp_path, third(hang), limits=limits) as (rig, [replica]):
                reader, writer = await rig.connect()
                for _ in range(BEFORE):
                    writer.write(post(chat()))
                    await read_answer(reader)
                writer.write(post(chat()))
                await until(lambda: len(replica.requests) == BEFORE + 1)
                [connection] = rig.gateway.connections
                assert isinstance(connection._call, UsualCall)
                connection.sweep(rig.gateway.loop.time() + 1)
                answer = await read_answer(reader)
                assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
                writer.close()

        run(test())

    def test_a_full_disk_refuses_before_anything_is_sent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                reader, writer = await rig.connect()
                for _ in range(BEFORE):
                    writer.write(post(chat()))
                    await read_answer(reader)
                rig.gateway.spool.broken = True
                writer.write(post(chat()))
                assert (await read_answer(reader)).status == 503
                assert len(replica.requests) == BEFORE
                assert len(rig.gateway.replicas.of("ep_chat")[0].idle) == 1
                writer.close()

        run(test())

    def test_a_new_snapshot_is_heeded_at_once(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                reader, writer = await rig.connect()
                for _ in range(BEFORE + 1):
                    writer.write(post(chat()))
                    assert (await read_answer(reader)).status == 200
                rig.gateway.snapshots.take(json.dumps(snapshot_document(2, keys=[])).encode())
                writer.write(post(chat()))
                assert (await read_answer(reader)).status == 401

        run(test())


async def _ask_thrice(rig: Rig) -> asyncio.StreamWriter:
    """Two requests that are answered, and one that is not."""
    reader, writer = await rig.connect()
    for _ in range(BEFORE):
        writer.write(post(chat()))
        await read_answer(reader)
    writer.write(post(chat()))
    return writer

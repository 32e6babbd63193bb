"""Calls through the gateway to a replica made of asyncio: answers, streams, faults, records."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import (
    EXPIRED_KEY,
    KEY,
    NARROW_KEY,
    OTHER_KEY,
    STREAM_HEAD,
    FakeReplica,
    Rig,
    answer_usual,
    chat,
    chunked,
    completion,
    events,
    json_bytes,
    post,
    read_answer,
    read_head,
    run,
    running_gateway,
    snapshot_document,
    stream_bytes,
    until,
)

from finmaas_serving.gateway.context import Limits


def slowly(data: bytes, sizes: int = 1) -> Any:
    async def script(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        for i in range(0, len(data), sizes):
            writer.write(data[i : i + sizes])
            await writer.drain()
            await asyncio.sleep(0)

    return script


def dies_after(data: bytes) -> Any:
    async def script(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return script


def hangs_after(data: bytes) -> Any:
    async def script(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await asyncio.Event().wait()

    return script


class TestAnswers:
    def test_whole_answer_bears_the_name_the_client_asked_for_and_is_recorded(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                answer = await rig.call()
                assert answer.status == 200
                assert answer.json == completion("Hello 你好", model="chat")
                salt = rig.gateway.cache_salt_of("ten_acme")
                assert replica.requests == [{**chat(), "model": "acme/risk/chat", "cache_salt": salt}]
                assert replica.heads[0].startswith(b"POST /ep_chat/v1/chat/completions HTTP/1.1\r\n")
                assert KEY.encode() not in replica.heads[0]
                [record] = await rig.records(1)
                assert record["request_id"] == answer.headers["x-request-id"]
                assert (record["prompt_tokens"], record["completion_tokens"], record["cached_tokens"]) == (7, 3, 4)
                assert (record["finish"], record["counted_by"], record["status"]) == ("complete", "engine", 200)
                assert record["seq"] == 1
                assert record["replica"] == f"127.0.0.1:{replica.port}"

        run(test())

    def test_full_name_needs_no_change(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                answer = await rig.call(chat(model="acme/risk/chat"))
                assert answer.json == completion("Hello 你好")

        run(test())

    def test_unknown_fields_and_numbers_travel_untouched(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                raw = b'{"model":"chat","messages":[],"x":1.10,"big":123456789012345678901234567890,"n":null}'
                assert (await rig.call(raw)).status == 200
                assert replica.requests[0]["big"] == 123456789012345678901234567890

        run(test())

    def test_client_request_id_is_echoed_beside_ours(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                answer = await rig.send(post(chat(), headers="X-Request-Id: mine-1\r\n"))
                assert answer.headers["x-client-request-id"] == "mine-1"
                assert answer.headers["x-request-id"].startswith("req_")

        run(test())

    def test_upstream_connection_is_kept(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                for _ in range(5):
                    assert (await rig.call()).status == 200
                assert replica.connections == 1

        run(test())


class TestStreams:
    def test_usage_is_counted_but_not_shown(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                answer = await rig.call(chat(stream=True))
                assert answer.whole
                assert answer.headers["content-type"].startswith("text/event-stream")
                *chunks, done = answer.events
                assert done == "[DONE]"
                assert "".join(c["choices"][0]["delta"]["content"] for c in chunks) == "Hello 你好"
                assert all(c["model"] == "chat" and "usage" not in c for c in chunks)
                options = replica.requests[0]["stream_options"]
                assert options == {"include_usage": True, "continuous_usage_stats": True}
                [record] = await rig.records(1)
                assert (record["prompt_tokens"], record["completion_tokens"], record["stream"]) == (7, 3, True)
                assert record["ttft_ms"] > 0

        run(test())

    def test_usage_is_shown_to_who_asks(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                body = chat(stream=True, stream_options={"include_usage": True})
                *chunks, last, _ = (await rig.call(body)).events
                assert all("usage" not in c for c in chunks)
                assert last["choices"] == []
                assert last["usage"]["completion_tokens"] == 3

        run(test())

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
    def test_pieces_of_any_size_give_the_same_stream(self, tmp_path: Path, size: int) -> None:
        async def test() -> None:
            script = slowly(stream_bytes(["Hel", "lo", ' {"usage":{}} 你']), size)
            async with running_gateway(tmp_path, script) as (rig, _):
                *chunks, done = (await rig.call(chat(stream=True))).events
                assert done == "[DONE]"
                assert "".join(c["choices"][0]["delta"]["content"] for c in chunks) == 'Hello {"usage":{}} 你'

        run(test())

    def test_http_1_0_gets_the_stream_without_chunks(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                answer = await rig.send(post(chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
                assert "transfer-encoding" not in answer.headers
                assert answer.events[-1] == "[DONE]"

        run(test())

    def test_slow_client_stops_the_reading_from_the_replica(self, tmp_path: Path) -> None:
        sent = 0
        event = events(["x" * 50_000])[0]

        async def flood(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(STREAM_HEAD)
            for _n in range(2000):
                writer.write(chunked(event))
                await writer.drain()
                sent += len(event)
            writer.write(chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")

        async def test() -> None:
            async with running_gateway(tmp_path, flood) as (rig, _):
                reader, writer = await rig.connect()
                writer.write(post(chat(stream=True)))
                await read_head(reader)
                held = -1
                while held != sent:  # the flood comes to rest, far from its end
                    held = sent
                    await asyncio.sleep(0.3)
                assert held < 40_000_000
                while b"[DONE]" not in await reader.read(1 << 20):
                    pass
                assert sent == 2000 * len(event)
                writer.close()

        run(test())


class TestFaults:
    def test_dead_replica_is_passed_over(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, dies_after(b""), answer_usual) as (rig, _):
                for _ in range(4):
                    assert (await rig.call(chat(stream=True))).events[-1] == "[DONE]"
                assert len(await rig.records(4)) == 4

        run(test())

    def test_refused_connection_is_passed_over(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                rig.gateway.replicas.replace({"ep_chat": [("127.0.0.1", 1), ("127.0.0.1", replica.port)]})
                for _ in range(4):
                    assert (await rig.call()).status == 200

        run(test())

    def test_all_dead_is_502_and_recorded(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, dies_after(b"")) as (rig, [replica]):
                answer = await rig.call()
                assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
                assert len(replica.requests) == 3
                [record] = await rig.records(1)
                assert (record["finish"], record["status"]) == ("upstream_failed", 502)

        run(test())

    @pytest.mark.parametrize("cut", [0, 5, 40, 200])
    def test_death_in_the_stream_ends_it_with_an_error_event(self, tmp_path: Path, cut: int) -> None:
        first, second, *_ = events(["Hel", "lo", "!"])
        begun = STREAM_HEAD + chunked(first) + chunked(second)[:cut]

        async def test() -> None:
            async with running_gateway(tmp_path, dies_after(begun)) as (rig, [replica]):
                answer = await rig.call(chat(stream=True))
                assert not answer.whole
                *_, chunk, error = answer.events
                assert chunk["choices"][0]["delta"]["content"] == "Hel"
                assert error["error"]["code"] == "upstream_failed"
                assert len(replica.requests) == 1
                [record] = await rig.records(1)
                assert (record["finish"], record["completion_tokens"]) == ("upstream_failed", 1)

        run(test())

    def test_stream_without_done_is_not_complete(self, tmp_path: Path) -> None:
        async def test() -> None:
            data = STREAM_HEAD + chunked(events(["Hel"])[0]) + b"0\r\n\r\n"
            async with running_gateway(tmp_path, slowly(data, 999)) as (rig, _):
                assert (await rig.call(chat(stream=True))).events[-1]["error"]["code"] == "upstream_failed"

        run(test())

    @pytest.mark.parametrize("garbage", [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: zz\r\n\r\n"])
    def test_garbage_is_502(self, tmp_path: Path, garbage: bytes) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, slowly(garbage, 999)) as (rig, _):
                assert (await rig.call()).status == 502

        run(test())

    @pytest.mark.parametrize("body", [b"not json", b'{"usage":"many"}', b"[]"])
    def test_an_answer_that_is_none_is_502(self, tmp_path: Path, body: bytes) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, slowly(json_bytes(200, body), 999)) as (rig, _):
                assert (await rig.call()).status == 502

        run(test())

    def test_garbage_in_the_stream_ends_it(self, tmp_path: Path) -> None:
        async def test() -> None:
            data = STREAM_HEAD + chunked(events(["Hel"])[0]) + chunked(b"<html>\n\n")
            async with running_gateway(tmp_path, slowly(data, 9999)) as (rig, _):
                assert (await rig.call(chat(stream=True))).events[-1]["error"]["code"] == "upstream_failed"

        run(test())

    @pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\ncontent-le"])
    def test_hanging_replica_is_504(self, tmp_path: Path, begun: bytes) -> None:
        async def test() -> None:
            limits = Limits(first_byte_s=0.05)
            async with running_gateway(tmp_path, hangs_after(begun), limits=limits) as (rig, [replica]):
                call = asyncio.create_task(rig.call())
                await until(lambda: bool(replica.requests))
                for connection in rig.gateway.connections:
                    connection.sweep(rig.gateway.loop.time() + 1)
                assert (await call).error["code"] == "upstream_timeout"
                await replica.closed.wait()

        run(test())

    def test_engine_error_inside_the_stream_is_passed_on_and_recorded(self, tmp_path: Path) -> None:
        async def test() -> None:
            error = b'data: {"error":{"message":"boom","type":"x","param":null,"code":500}}\n\n'
            data = STREAM_HEAD + chunked(events(["Hel"])[0] + error + b"data: [DONE]\n\n") + b"0\r\n\r\n"
            async with running_gateway(tmp_path, slowly(data, 9999)) as (rig, _):
                assert (await rig.call(chat(stream=True))).events[1]["error"]["message"] == "boom"
                assert (await rig.records(1))[0]["finish"] == "upstream_failed"

        run(test())

    @pytest.mark.parametrize("stream", [True, False])
    def test_client_that_leaves_stops_the_engine_and_is_recorded(self, tmp_path: Path, stream: bool) -> None:
        begun = STREAM_HEAD + b"".join(chunked(e) for e in events(["Hel", "lo", "!"])[:2]) if stream else b""

        async def test() -> None:
            async with running_gateway(tmp_path, hangs_after(begun)) as (rig, [replica]):
                reader, writer = await rig.connect()
                writer.write(post(chat(stream=stream)))
                if stream:
                    await reader.readuntil(b"lo")
                await until(lambda: bool(replica.requests))
                writer.close()
                await replica.closed.wait()
                [record] = await rig.records(1)
                assert record["finish"] == "client_left"
                counted = (7, 2, "engine") if stream else (0, 0, "gateway")
                assert (record["prompt_tokens"], record["completion_tokens"], record["counted_by"]) == counted
                assert rig.gateway.running == 0
                assert rig.gateway.replicas.of("ep_chat")[0].in_flight == 0

        run(test())


class TestEngineErrors:
    @pytest.mark.parametrize(
        ("status", "message", "expected", "code"),
        [
            (400, "This model's maximum context length is 512 tokens. However", 400, "context_length_exceeded"),
            (400, "temperature must be non-negative", 400, "invalid_request"),
            (422, "field required", 422, "invalid_request"),
            (404, "The model does not exist", 503, "endpoint_not_ready"),
            (503, "busy", 503, "engine_overloaded"),
            (500, "boom", 502, "upstream_failed"),
        ],
    )
    def test_mapped_to_what_openai_clients_know(
        self, tmp_path: Path, status: int, message: str, expected: int, code: str
    ) -> None:
        async def test() -> None:
            error = {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}
            async with running_gateway(tmp_path, slowly(json_bytes(status, error), 9999)) as (rig, _):
                for stream in (False, True):
                    answer = await rig.call(chat(stream=stream))
                    assert (answer.status, answer.error["code"]) == (expected, code)
                    assert ("retry-after" in answer.headers) == (expected == 503)
                assert len(await rig.records(2)) == 2

        run(test())


class TestAccess:
    @pytest.mark.parametrize("key", [None, "fmk_wrong", EXPIRED_KEY, "", "é"])
    def test_keys_that_do_not_hold_are_401(self, tmp_path: Path, key: str | None) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                for answer in (await rig.call(key=key), await rig.get("/v1/models", key=key)):
                    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
                assert replica.requests == []

        run(test())

    @pytest.mark.parametrize(
        ("key", "model", "status"),
        [
            (KEY, "chat", 200), (KEY, "nothing", 404), (KEY, "acme/fraud/hidden", 404), (KEY, "hidden", 404),
            (KEY, "shared", 404), (KEY, "acme/fraud/shared", 503), (KEY, "cold", 503), (NARROW_KEY, "chat", 200),
            (NARROW_KEY, "cold", 404), (NARROW_KEY, "acme/fraud/shared", 404), (OTHER_KEY, "chat", 404),
            (OTHER_KEY, "acme/risk/chat", 404), (OTHER_KEY, "hidden", 503),
        ],
    )  # fmt: skip
    def test_scope(self, tmp_path: Path, key: str, model: str, status: int) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                answer = await rig.call(chat(model=model), key=key)
                assert answer.status == status
                if status == 404:
                    assert (answer.error["code"], answer.error["param"]) == ("model_not_found", "model")
                if status == 503:
                    assert answer.headers["retry-after"]

        run(test())

    def test_models(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                listed = (await rig.get("/v1/models")).json
                assert [m["id"] for m in listed["data"]] == ["acme/fraud/shared", "chat", "cold"]
                assert (await rig.get("/v1/models/chat")).json["id"] == "chat"
                assert (await rig.get("/v1/models/acme%2Ffraud%2Fshared")).json["id"] == "acme/fraud/shared"
                assert (await rig.get("/v1/models/nothing")).status == 404
                assert [m["id"] for m in (await rig.get("/v1/models", NARROW_KEY)).json["data"]] == ["chat"]

        run(test())

    def test_new_snapshot_counts_at_once_and_leaves_streams_alone(self, tmp_path: Path) -> None:
        go = asyncio.Event()

        async def script(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            first, *rest = events(["Hel", "lo"])
            writer.write(STREAM_HEAD + chunked(first))
            await go.wait()
            writer.write(b"".join(chunked(event) for event in rest) + b"0\r\n\r\n")

        async def test() -> None:
            async with running_gateway(tmp_path, script) as (rig, _):
                reader, writer = await rig.connect()
                writer.write(post(chat(stream=True)))
                await until(lambda: rig.gateway.running == 1)
                rig.gateway.snapshots.take(json.dumps(snapshot_document(2, keys=[], routes=[])).encode())
                assert (await rig.call()).status == 401
                go.set()
                assert (await read_answer(reader)).events[-1] == "[DONE]"
                writer.close()
                assert not rig.gateway.snapshots.take(json.dumps(snapshot_document(1)).encode())
                assert (await rig.call()).status == 401

        run(test())

    def test_stopped_endpoint_is_503_though_replicas_linger(self, tmp_path: Path) -> None:
        async def test() -> None:
            document = snapshot_document()
            document["routes"][0]["state"] = "stopped"
            async with running_gateway(tmp_path, answer_usual, document=document) as (rig, [replica]):
                assert (await rig.call()).status == 503
                assert replica.requests == []

        run(test())


def break_spool(rig: Rig, monkeypatch: pytest.MonkeyPatch, broken: Any) -> None:
    """The next record wants a new segment, and the disk does not give it."""
    rig.gateway.spool._offset = rig.gateway.spool._segment_bytes
    monkeypatch.setattr(Path, "rename", broken)


class TestIsolation:
    def test_replicas_see_the_gateways_secret_and_never_the_clients_key(self, tmp_path: Path) -> None:
        async def test() -> None:
            document = snapshot_document(replica_secret="s3cret")
            async with running_gateway(tmp_path, answer_usual, document=document) as (rig, [replica]):
                assert (await rig.call()).status == 200
                assert b"\r\nauthorization: Bearer s3cret\r\n" in replica.heads[0]
                assert KEY.encode() not in replica.heads[0]

        run(test())

    def test_tenants_share_no_prefix_cache_and_clients_set_no_priority(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                await rig.call(chat(cache_salt="mine", priority=-5))
                [seen] = replica.requests
                assert seen["cache_salt"] == rig.gateway.cache_salt_of("ten_acme")
                assert rig.gateway.cache_salt_of("ten_acme") != rig.gateway.cache_salt_of("ten_other")
                assert "priority" not in seen

        run(test())

    @pytest.mark.parametrize(
        "part",
        [
            {"type": "image_url", "image_url": {"url": "http://10.0.0.1/x.png"}},
            {"type": "image_url", "image_url": "file:///etc/passwd"},
            {"type": "video_url", "video_url": {"url": "https://example.com/x.mp4"}},
            {"image_url": {}},
        ],
    )
    @pytest.mark.parametrize("escaped", [False, True])
    def test_nothing_is_fetched_for_a_client(self, tmp_path: Path, part: dict[str, Any], escaped: bool) -> None:
        raw = json.dumps(chat(messages=[{"role": "user", "content": [part]}]))
        body = raw.replace("_url", "\\u005furl") if escaped else raw

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                answer = await rig.call(body.encode())
                assert answer.status == 400
                assert answer.error["param"].startswith("messages[0].content[0].")
                assert replica.requests == []

        run(test())

    def test_an_inline_image_passes(self, tmp_path: Path) -> None:
        part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                answer = await rig.call(chat(messages=[{"role": "user", "content": [part]}]))
                assert answer.status == 200
                assert replica.requests[0]["messages"][0]["content"] == [part]

        run(test())


class TestDiskFull:
    def test_new_requests_are_refused_and_running_ones_are_recorded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                assert (await rig.call()).status == 200

                def full(*_: int) -> None:
                    raise OSError(28, "No space left on device")

                monkeypatch.setattr("os.posix_fallocate", full)
                statuses = [(await rig.call()).status for _ in range(400)]
                served = statuses.index(503)
                assert set(statuses[served:]) == {503}
                assert set(statuses[:served]) == {200}
                answer = await rig.call()
                assert (answer.error["code"], "retry-after" in answer.headers) == ("gateway_full", True)
                assert len(replica.requests) == served + 1 == len(await rig.records(served + 1))
                monkeypatch.undo()
                assert (await rig.call()).status == 200

        run(test())

    def test_a_record_that_cannot_be_written_means_no_answer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> int:
            raise OSError(5, "Input/output error")

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                break_spool(rig, monkeypatch, broken)
                answer = await rig.call()
                assert (answer.status, answer.error["code"]) == (503, "gateway_full")
                assert (await rig.get("/readyz")).status == 503
                monkeypatch.undo()

        run(test())

    def test_a_stream_that_cannot_be_recorded_lacks_its_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> int:
            raise OSError(5, "Input/output error")

        async def test() -> None:
            async with running_gateway(tmp_path, slowly(stream_bytes(["Hel", "lo"]), 50)) as (rig, _):
                break_spool(rig, monkeypatch, broken)
                answer = await rig.call(chat(stream=True))
                assert not answer.whole
                assert answer.events[-1]["error"]["code"] == "gateway_full"
                monkeypatch.undo()

        run(test())

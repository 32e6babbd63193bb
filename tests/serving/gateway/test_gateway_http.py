"""HTTP/1.1 on the client's side: order, limits, malformed and hostile input."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import (
    KEY,
    STREAM_HEAD,
    FakeReplica,
    Rig,
    answer_usual,
    chat,
    chunked,
    events,
    post,
    read_answer,
    read_head,
    run,
    running_gateway,
    until,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finmaas_serving.gateway.context import Limits

GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


async def raw(rig: Rig, data: bytes) -> bytes:
    """Everything the gateway sends until it closes."""
    reader, writer = await rig.connect()
    writer.write(data)
    try:
        return await reader.read()
    finally:
        writer.close()


class TestOrder:
    def test_pipelined_requests_are_answered_in_order(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                reader, writer = await rig.connect()
                writer.write(post(chat()) + GET + post(chat(stream=True)) + GET + post(chat(model="nope")) + GET)
                answers = [await read_answer(reader) for _ in range(6)]
                assert [a.status for a in answers] == [200, 200, 200, 200, 404, 200]
                assert answers[0].json["model"] == "chat"
                assert answers[2].events[-1] == "[DONE]"
                assert len({a.headers["x-request-id"] for a in answers}) == 6
                writer.close()

        run(test())

    def test_many_pipelined_requests_do_not_pile_up(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                reader, writer = await rig.connect()
                writer.write(post(chat()) * 300)
                for _ in range(300):
                    assert (await read_answer(reader)).status == 200
                writer.close()

        run(test())

    def test_bytes_one_by_one(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                reader, writer = await rig.connect()
                for byte in post(chat()):
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0)
                assert (await read_answer(reader)).status == 200
                writer.close()

        run(test())

    def test_connection_close_is_honoured(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                answer = await raw(rig, post(chat(), headers="connection: close\r\n") + GET)
                assert answer.count(b"HTTP/1.1 200") == 1
                assert b"connection: close" in answer

        run(test())

    def test_head_has_no_body(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                answer = await raw(rig, b"HEAD /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                assert answer.endswith(b"\r\n\r\n")

        run(test())


class TestBodies:
    def test_chunked_request_body(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                body = json.dumps(chat()).encode()
                head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n".encode()
                parts = b"".join(chunked(body[i : i + 5]) for i in range(0, len(body), 5))
                trailer = b"0\r\nauthorization: Bearer fmk_wrong\r\n\r\n"
                reader, writer = await rig.connect()
                writer.write(head + b"transfer-encoding: chunked\r\n\r\n" + parts + trailer + GET)
                assert (await read_answer(reader)).status == 200
                assert (await read_answer(reader)).status == 200
                assert replica.requests[0]["messages"] == chat()["messages"]
                writer.close()

        run(test())

    def test_expect_continue(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                request = post(chat(), headers="expect: 100-continue\r\n")
                head, _, body = request.partition(b"\r\n\r\n")
                reader, writer = await rig.connect()
                writer.write(head + b"\r\n\r\n")
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(body)
                assert (await read_answer(reader)).status == 200
                refused = post(chat(), key="fmk_wrong", headers="expect: 100-continue\r\n").partition(b"\r\n\r\n")[0]
                assert (await raw(rig, refused + b"\r\n\r\n")).startswith(b"HTTP/1.1 401")
                writer.close()

        run(test())

    @pytest.mark.parametrize("announced", [True, False])
    def test_too_large_is_413_and_seen_by_the_client(self, tmp_path: Path, announced: bool) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, limits=Limits(body_bytes=1000)) as (rig, [replica]):
                big = b"x" * 300_000
                request = post(big)
                if not announced:
                    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n".encode()
                    request = head + b"transfer-encoding: chunked\r\n\r\n" + chunked(big) + b"0\r\n\r\n"
                answer = await rig.send(request)
                assert (answer.status, answer.error["code"]) == (413, "request_too_large")
                assert replica.requests == []

        run(test())

    @pytest.mark.parametrize(
        ("body", "place"),
        [
            (b"", "truncated"),
            (b'{"model":"chat",', "truncated"),
            (b'{"model":nul}', "invalid character (byte"),
            (b"[]", "JSON object"),
            (b'{"model":"chat","x":"\xff"}', "byte 21"),
            (b'{"model":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "deep"),
            (b'{"messages":[]}', "`model`"),
            (b'{"model":5}', "`model`"),
            (b'{"model":"chat","stream":"yes"}', "`stream`"),
            (b'{"model":"chat","stream_options":3}', "`stream_options`"),
            (b'{"model":"chat","n":"x"}', "`n`"),
            (b'{"model":"chat"} x', "trailing characters (byte"),
        ],
    )
    def test_bad_json_names_the_place(self, tmp_path: Path, body: bytes, place: str) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                answer = await rig.call(body)
                assert answer.status == 400
                assert answer.error["type"] == "invalid_request_error"
                assert place in answer.error["message"]
                assert replica.requests == []

        run(test())


class TestPaths:
    @pytest.mark.parametrize(
        ("line", "status"),
        [
            ("GET /nothing", 404), ("GET /v1/chat/completions", 405), ("POST /v1/models", 405),
            ("POST /metrics", 405), ("GET /metrics", 401),
            ("DELETE /healthz", 405), ("GET /v1/models?limit=3", 200), ("GET /healthz", 200), ("GET /readyz", 200),
            ("POST /v1/chat/completions/../../load_lora_adapter", 404), ("GET /é", 400),
        ],
    )  # fmt: skip
    def test_status(self, tmp_path: Path, line: str, status: int) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                answer = await rig.send(f"{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode())
                assert answer.status == status
                assert answer.headers["x-request-id"].startswith("req_")
                assert ("allow" in answer.headers) == (status == 405)

        run(test())


class TestMalformed:
    @pytest.mark.parametrize(
        "head",
        [
            "content-length: 5\r\ntransfer-encoding: chunked", "content-length: 5\r\ncontent-length: 6",
            "content-length: +5", "content-length : 5", "transfer-encoding: xchunked", "a: b\r\n c: d", "a: b\x00",
            "transfer-encoding: chunked, identity", "content-length: 5, 5", "content-length: -1", "a: b\rc",
        ],
    )  # fmt: skip
    def test_smuggling_is_400_and_closes(self, tmp_path: Path, head: str) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                start = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
                answer = await raw(rig, f"{start}{head}\r\n\r\n0\r\n\r\n".encode() + post(chat()))
                assert answer.startswith(b"HTTP/1.1 400")
                assert answer.count(b"HTTP/1.1 ") == 1
                assert b"connection: close" in answer
                assert replica.requests == []

        run(test())

    @pytest.mark.parametrize(
        "data", [b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    )
    def test_other_protocols_are_refused(self, tmp_path: Path, data: bytes) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                assert (await raw(rig, data)).split()[1] in (b"400", b"505")

        run(test())

    def test_good_requests_before_a_bad_one_are_answered(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                answer = await raw(rig, post(chat()) + GET + b"nonsense\r\n\r\n" + GET)
                statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
                assert statuses == [b"200", b"200", b"400"]

        run(test())

    @pytest.mark.parametrize(
        "head", ["a: " + "x" * 70_000, "".join(f"h{i}: x\r\n" for i in range(200)) + "z: z", "cookie: " + "y" * 300_000]
    )
    def test_long_heads_are_431(self, tmp_path: Path, head: str) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                answer = await rig.send(f"GET /healthz HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n".encode())
                assert answer.status == 431

        run(test())

    def test_upgrade_is_ignored_and_the_connection_ends(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                head = b"GET /healthz HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
                answer = await raw(rig, head + b"\x81\x05hello")
                assert answer.startswith(b"HTTP/1.1 200")

        run(test())

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([GET, post(chat()), b"\r\n"])), max_size=5))
    def test_no_bytes_break_it(self, tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path_factory.mktemp("fuzz"), answer_usual) as (rig, _):
                reader, writer = await rig.connect()
                writer.write(b"".join(parts))
                writer.write_eof()
                answer = await reader.read()
                assert b"HTTP/1.1 500" not in answer
                assert rig.gateway.running == 0
                writer.close()

        run(test())


class TestSlowClients:
    def sweep(self, rig: Rig, later_s: float) -> None:
        for connection in list(rig.gateway.connections):
            connection.sweep(rig.gateway.loop.time() + later_s)

    @pytest.mark.parametrize("begun", [b"GET /heal", b"GET /healthz HTTP/1.1\r\nhost: x\r\na: b"])
    def test_half_a_head_is_408(self, tmp_path: Path, begun: bytes) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                reader, writer = await rig.connect()
                writer.write(begun)
                await until(lambda: any(c._incoming for c in rig.gateway.connections))
                self.sweep(rig, 9)
                assert not reader.at_eof()
                self.sweep(rig, 11)
                assert (await read_answer(reader)).status == 408
                writer.close()

        run(test())

    def test_half_a_body_is_408(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                reader, writer = await rig.connect()
                writer.write(post(chat())[:-3])
                await until(lambda: any(c._queue for c in rig.gateway.connections))
                self.sweep(rig, 121)
                assert (await read_answer(reader)).status == 408
                writer.close()

        run(test())

    def test_silent_and_idle_connections_are_closed(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                silent, silent_writer = await rig.connect()
                idle, idle_writer = await rig.connect()
                idle_writer.write(GET)
                assert (await read_answer(idle)).status == 200
                self.sweep(rig, 11)
                assert await silent.read() == b""
                assert not idle.at_eof()
                self.sweep(rig, 76)
                assert await idle.read() == b""
                silent_writer.close()
                idle_writer.close()

        run(test())

    def test_a_client_that_stops_reading_is_dropped(self, tmp_path: Path) -> None:
        event = chunked(events(["x" * 50_000])[0])

        async def flood(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD)
            while True:
                writer.write(event)
                await writer.drain()

        async def test() -> None:
            async with running_gateway(tmp_path, flood) as (rig, [replica]):
                reader, writer = await rig.connect()
                writer.write(post(chat(stream=True)))
                await read_head(reader)
                await until(lambda: any(c._write_paused for c in rig.gateway.connections))
                self.sweep(rig, 61)
                await replica.closed.wait()
                assert (await rig.records(1))[0]["finish"] == "client_left"
                writer.close()

        run(test())

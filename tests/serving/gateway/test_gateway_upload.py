"""Files on their way through a gateway: never held whole, ended from either side, refused early, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_parts import (
    KEY,
    Answer,
    Rig,
    answer_usual,
    json_bytes,
    post,
    read_answer,
    read_head,
    run,
    running_gateway,
    until,
)

from finmaas_serving.gateway.context import Limits
from finmaas_serving.gateway.upload import AHEAD_BYTES

FILES = "/v1/files"
MADE = {"id": "file_1", "object": "file"}
CHUNKED = "transfer-encoding: chunked\r\n"


@dataclass
class ControlPlane:
    """The other end, made of asyncio: takes as much as it is let, and answers when it is told to."""

    refuses: bytes | None = None  # told as soon as the head is read
    reads: asyncio.Event = field(default_factory=asyncio.Event)
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    got: int = 0
    broken: int = 0  # uploads that ended before their last byte
    open: int = 0
    _port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if self.refuses is not None:
                writer.write(self.refuses)
                await reader.read()
                return
            await self.reads.wait()
            self.bodies.append(b"".join([part async for part in self._parts(head, reader)]))
            writer.write(json_bytes(200, MADE))
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.broken += 1
        finally:
            self.open -= 1
            writer.close()

    async def _parts(self, head: bytes, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        announced = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        left = int(announced) if announced else 0
        while left:
            part = await reader.readexactly(min(left, 65536))
            self.got += len(part)
            left -= len(part)
            yield part
        while not announced:
            size = int(await reader.readuntil(b"\r\n"), 16)
            part = (await reader.readexactly(size + 2))[:-2]
            if not size:
                return
            self.got += len(part)
            yield part


@contextlib.asynccontextmanager
async def uploading(
    folder: Path, limits: Limits | None = None, *, refuses: bytes | None = None, reads: bool = True
) -> AsyncIterator[tuple[Rig, ControlPlane]]:
    """A gateway before a control plane."""
    other = ControlPlane(refuses)
    if reads:
        other.reads.set()
    server = await asyncio.start_server(other.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    headers = {"authorization": "Bearer fmg_token"}
    async with running_gateway(folder, answer_usual, limits=limits) as (rig, _):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False) as api:
            rig.gateway.control_plane = api
            yield rig, other
            await until(lambda: rig.gateway.uploading == 0)
        server.close()


def head_of(framing: str, more: str = "") -> bytes:
    return f"POST {FILES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{framing}{more}\r\n".encode()


def length(size: int) -> str:
    return f"content-length: {size}\r\n"


async def push(writer: asyncio.StreamWriter, most: int) -> int:
    """Sends until nothing more is taken for a while that depends on steps of the loop; how much was taken."""
    sent, idle = 0, 0
    while sent < most and idle < 2000:
        if writer.transport.get_write_buffer_size() == 0:
            writer.write(b"x" * 65536)
            sent, idle = sent + 65536, 0
        idle += 1
        await asyncio.sleep(0)
    return sent


class TestPassing:
    @pytest.mark.parametrize("size", [0, 1, 3_000_000])
    @pytest.mark.parametrize("announced", [True, False])
    def test_all_bytes_arrive_in_order_and_nothing_else_of_the_client(
        self, tmp_path: Path, size: int, announced: bool
    ) -> None:
        body = bytes(i % 251 for i in range(size))
        more = "content-type: multipart/form-data; boundary=\xfcx\r\nx-finmaas-key: key_of_another\r\ncookie: a\r\n"

        async def test() -> None:
            async with uploading(tmp_path) as (rig, other):
                reader, writer = await rig.connect()
                for _ in range(2):  # the connection serves on
                    head = head_of(length(size) if announced else CHUNKED, more)
                    if announced:
                        writer.write(head + body)
                    else:
                        parts = [body[at : at + 70_001] for at in range(0, size, 70_001)]
                        writer.write(head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts))
                        writer.write(b"0\r\ntrailer: x\r\n\r\n")
                    answer = await read_answer(reader)
                    assert (answer.status, answer.json) == (200, MADE)
                writer.close()
                assert other.bodies == [body, body]
                told = other.heads[0].lower()
                assert told.startswith(b"post /api/v1/gateway/openai/files http/1.1\r\n")
                assert b"\r\nx-finmaas-key: key_good\r\n" in told
                assert b"\r\nauthorization: bearer fmg_token\r\n" in told
                assert (
                    b"\r\ncontent-type: multipart/form-data; boundary=\xfcx".replace(b"\xfc", "\xfc".encode()) in told
                )
                assert b"cookie" not in told
                assert b"another" not in told
                assert (b"content-length: %d\r\n" % size in told) == (announced and size > 0)

        run(test())

    def test_a_client_is_read_no_further_than_the_control_plane_takes(self, tmp_path: Path) -> None:
        most = 64 * 1024 * 1024

        async def test() -> None:
            async with uploading(tmp_path, reads=False) as (rig, other):
                reader, writer = await rig.connect()
                writer.write(head_of(length(most)))
                sent = await push(writer, most)
                assert AHEAD_BYTES < sent < most // 2  # the rest are buffers of sockets
                other.reads.set()
                for _ in range((most - sent) // 65536):
                    writer.write(b"x" * 65536)
                    await writer.drain()
                assert (await read_answer(reader)).status == 200
                writer.close()
                assert other.got == most

        run(test())

    def test_expect_is_answered_once_the_control_plane_is_there(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with uploading(tmp_path) as (rig, _):
                reader, writer = await rig.connect()
                writer.write(head_of(length(3), "expect: 100-continue\r\n"))
                assert (await read_head(reader))[0] == 100
                writer.write(b"abc")
                assert (await read_answer(reader)).status == 200
                rig.gateway.control_plane = away()
                writer.write(head_of(length(3), "expect: 100-continue\r\n"))
                told = await read_answer(reader)  # and no 100 before it
                assert (told.status, told.error["code"]) == (503, "control_plane_away")
                writer.close()

        run(test())

    def test_what_was_sent_ahead_is_answered_in_order(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with uploading(tmp_path) as (rig, other):
                reader, writer = await rig.connect()
                models = f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode()
                writer.write(models + post(b"a" * 400_000, path=FILES) + models + post(b"b", path=FILES))
                told = [await read_answer(reader) for _ in range(4)]
                assert [answer.json["object"] for answer in told] == ["list", "file", "list", "file"]
                assert [len(body) for body in other.bodies] == [400_000, 1]
                writer.close()

        run(test())


class TestRefused:
    LIMITS = Limits(body_bytes=1000, file_bytes=5000)

    def test_too_long_as_announced_is_refused_before_a_byte_is_read(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with uploading(tmp_path, self.LIMITS) as (rig, other):
                assert (await rig.send(post(b"x" * 5000, path=FILES))).status == 200
                told = await rig.send(head_of(length(5001), "expect: 100-continue\r\n"))
                assert (told.status, told.error["code"]) == (413, "request_too_large")
                assert "5000 bytes" in told.error["message"]
                assert (await rig.send(post(b"x" * 1001, path="/v1/batches"))).status == 413
                assert len(other.heads) == 1

        run(test())

    @pytest.mark.parametrize("first", [b"", b"%x\r\n%b\r\n" % (4000, b"x" * 4000)])
    def test_too_long_unannounced_is_cut(self, tmp_path: Path, first: bytes) -> None:
        async def test() -> None:
            async with uploading(tmp_path, self.LIMITS) as (rig, other):
                reader, writer = await rig.connect()
                writer.write(head_of(CHUNKED) + first)
                await until(lambda: other.got == (4000 if first else 0) and len(other.heads) == 1)
                writer.write(b"%x\r\n%b\r\n" % (6000, b"x" * 6000))
                told = await read_answer(reader)
                assert (told.status, told.error["code"]) == (413, "request_too_large")
                assert told.headers["connection"] == "close"
                await until(lambda: other.broken == 1)
                assert other.bodies == []
                writer.close()

        run(test())

    def test_broken_chunks_end_it(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with uploading(tmp_path) as (rig, other):
                told = await rig.send(head_of(CHUNKED) + b"3\r\nabc\r\nnonsense\r\n")
                assert (told.status, told.error["code"]) == (400, "bad_http")
                await until(lambda: other.broken == len(other.heads))
                assert other.bodies == []

        run(test())

    @pytest.mark.parametrize(
        ("status", "value", "told", "code"),
        [
            (401, {"code": "not_authenticated", "detail": "revoked"}, 401, "invalid_api_key"),
            (413, {"code": "too_long", "detail": "long"}, 413, "invalid_request"),
            (422, {"code": "bad_input", "detail": "no", "param": "purpose"}, 400, "invalid_request"),
            (503, {"code": "unavailable", "detail": "store away"}, 503, "endpoint_not_ready"),
            (502, b"<html>", 503, "control_plane_away"),
            (200, MADE, 503, "control_plane_away"),  # it cannot have the file yet
        ],
    )
    def test_an_early_answer_reaches_the_client_at_once(
        self, tmp_path: Path, status: int, value: Any, told: int, code: str
    ) -> None:
        async def test() -> None:
            async with uploading(tmp_path, refuses=json_bytes(status, value)) as (rig, other):
                reader, writer = await rig.connect()
                writer.write(head_of(length(50_000_000)) + b"x" * 100_000)  # and it goes on as far as it knows
                answer = await read_answer(reader)
                assert (answer.status, answer.error["code"]) == (told, code)
                assert answer.headers["connection"] == "close"
                await until(lambda: other.open == 0)
                await push(writer, 1_000_000)  # is read and dropped, so that the answer is not lost
                assert (await rig.call()).status == 200
                writer.close()

        run(test())

    def test_a_control_plane_that_is_away(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with uploading(tmp_path) as (rig, _):
                for api in (None, away()):
                    rig.gateway.control_plane = api
                    check_away(await rig.send(head_of(length(9)) + b"abc"))

        run(test())

    def test_a_connection_that_ends_without_an_answer(self, tmp_path: Path) -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{")
            writer.close()

        async def test() -> None:
            server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
            base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with uploading(tmp_path) as (rig, _):
                rig.gateway.control_plane = httpx.AsyncClient(base_url=base)
                check_away(await rig.send(post(b"abc", path=FILES)))
            server.close()

        run(test())

    def test_only_so_many_at_once(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with uploading(tmp_path, Limits(uploads=2)) as (rig, other):
                writers = []
                for _ in range(2):
                    _, writer = await rig.connect()
                    writer.write(head_of(length(9)) + b"abc")
                    writers.append(writer)
                await until(lambda: rig.gateway.uploading == 2)
                told = await rig.send(post(b"abc", path=FILES))
                assert (told.status, told.error["code"], told.headers["retry-after"]) == (503, "busy_uploads", "5")
                assert (await rig.call()).status == 200
                for writer in writers:
                    writer.close()
                await until(lambda: rig.gateway.uploading == 0)
                assert (await rig.send(post(b"abc", path=FILES))).status == 200
                assert other.bodies == [b"abc"]

        run(test())


class TestLeaving:
    @pytest.mark.parametrize("framing", [length(1_000_000), CHUNKED])
    @pytest.mark.parametrize("how", ["abort", "close", "half"])
    def test_a_client_that_leaves_half_way_ends_it_over_there(self, tmp_path: Path, framing: str, how: str) -> None:
        async def test() -> None:
            async with uploading(tmp_path) as (rig, other):
                _, writer = await rig.connect()
                writer.write(head_of(framing) + b"400\r\n" + b"x" * 500)
                await until(lambda: len(other.heads) == 1)
                if how == "abort":
                    writer.transport.abort()
                elif how == "half":
                    writer.write_eof()
                else:
                    writer.close()
                await until(lambda: other.broken == 1)
                await until(lambda: not rig.gateway.connections)
                assert other.bodies == []
                writer.close()

        run(test())

    @pytest.mark.parametrize("limits", [Limits(stalled_s=0.05), Limits(upload_s=0.05)])
    def test_a_client_that_sends_no_more_is_told_so(self, tmp_path: Path, limits: Limits) -> None:
        async def test() -> None:
            async with uploading(tmp_path, limits) as (rig, other):
                told = await rig.send(head_of(length(9)) + b"abc")
                assert (told.status, told.error["code"]) == (408, "request_timeout")
                await until(lambda: other.broken == len(other.heads))

        run(test())

    def test_a_control_plane_that_takes_no_more_is_away(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with uploading(tmp_path, Limits(gap_s=0.05), reads=False) as (rig, other):
                reader, writer = await rig.connect()
                writer.write(head_of(length(64 * 1024 * 1024)))
                await push(writer, 64 * 1024 * 1024)
                check_away(await read_answer(reader))
                other.reads.set()
                await until(lambda: other.broken == 1)
                writer.close()

        run(test())

    def test_a_gateway_that_drains_lets_it_finish(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with uploading(tmp_path) as (rig, other):
                reader, writer = await rig.connect()
                writer.write(head_of(length(6)) + b"abc")
                await until(lambda: rig.gateway.uploading == 1)
                rig.gateway.draining = True
                for connection in list(rig.gateway.connections):
                    connection.drain()
                writer.write(b"def")
                told = await read_answer(reader)
                assert (told.status, told.headers["connection"]) == (200, "close")
                assert other.bodies == [b"abcdef"]
                writer.close()

        run(test())


def away() -> httpx.AsyncClient:
    """A client for a port that nobody listens on."""
    return httpx.AsyncClient(base_url="http://127.0.0.1:1")


def check_away(told: Answer) -> None:
    assert (told.status, told.error["code"], told.headers["retry-after"]) == (503, "control_plane_away", "5")
    assert json.loads(told.body)["error"]["message"].startswith("files and batches are not at hand")

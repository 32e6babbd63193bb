"""The raw connections to the control plane: kept open, made anew, and never read as an answer when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from gateway_parts import run

from finmaas_serving.gateway import control_line
from finmaas_serving.gateway.control_line import ControlLine

Answer = Callable[[int, bytes], bytes]
"""What a server answers to the body of its nth question, as raw bytes; b"" closes the connection without a word."""


class _Server:
    """Answers as told, and remembers what it was asked on which connection."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[int, bytes, bytes]] = []  # connection, head, body
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                self.asked.append((connection, head, body))
                answer = self.answer(len(self.asked), body)
                if not answer:
                    break
                writer.write(answer)
        except asyncio.IncompleteReadError:
            pass
        writer.close()


@asynccontextmanager
async def lined(answer: Answer) -> AsyncIterator[tuple[_Server, ControlLine]]:
    server = _Server(answer)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    headers = {"authorization": "Bearer fmg_1%d"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False) as api:
        line = ControlLine(api)
        yield server, line
        line.close()
    listener.close()
    for writer in server.writers:
        writer.close()


def ok(body: bytes, *lines: bytes) -> bytes:
    head = b"".join(line + b"\r\n" for line in (b"HTTP/1.1 200 OK", *lines, b"content-length: %d" % len(body)))
    return head + b"\r\n" + body


def try_with(answer: Answer, test: Callable[[_Server, ControlLine], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with lined(answer) as (server, line):
            await test(server, line)

    run(whole())


class TestControlLine:
    def test_asks_again_and_again_on_one_connection_with_the_token(self) -> None:
        async def test(server: _Server, line: ControlLine) -> None:
            for number in range(3):
                assert await line.post("/api/v1/x", b"%d" % number) == (200, b"heard %d" % number)
            assert [one[0] for one in server.asked] == [1, 1, 1]
            head = server.asked[2][1]
            assert head.startswith(b"POST /api/v1/x HTTP/1.1\r\n")
            assert b"\r\nauthorization: Bearer fmg_1%d\r\n" in head.replace(b"Authorization", b"authorization")
            assert b"\r\ncontent-type: application/json\r\n" in head

        try_with(lambda _, body: ok(b"heard " + body), test)

    def test_questions_at_the_same_time_have_connections_of_their_own(self) -> None:
        async def test(server: _Server, line: ControlLine) -> None:
            answers = await asyncio.gather(*(line.post("/x", b"%d" % number) for number in range(4)))
            assert [body for _, body in answers] == [b"0", b"1", b"2", b"3"]
            assert server.connections == 4

        try_with(lambda _, body: ok(body), test)

    @pytest.mark.parametrize("closing", ["told", "untold"])
    def test_a_connection_that_was_closed_meanwhile_is_made_anew(self, closing: str) -> None:
        async def test(server: _Server, line: ControlLine) -> None:
            await line.post("/x", b"1")
            if closing == "untold":  # as a server does with what is idle for long
                server.writers[0].close()
                await asyncio.sleep(0.05)
            assert await line.post("/x", b"2") == (200, b"2")
            assert server.connections == 2

        lines = (b"connection: close",) if closing == "told" else ()
        try_with(lambda _, body: ok(body, *lines), test)

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            (b"", "without an answer"),
            (b"SSH-2.0-OpenSSH\r\n\r\n", "cannot be understood"),
            (ok(b"x" * (control_line.ANSWER_BYTES + 1)), "too long"),
        ],
    )
    def test_what_is_no_answer_is_an_error_and_the_next_question_goes_elsewhere(self, answer: bytes, why: str) -> None:
        async def test(server: _Server, line: ControlLine) -> None:
            with pytest.raises(OSError, match=why):
                await line.post("/x", b"1")
            assert await line.post("/x", b"2") == (200, b"2")
            assert [one[0] for one in server.asked] == [1, 2]

        try_with(lambda number, body: ok(body) if number > 1 else answer, test)

    def test_status_100_is_no_answer_and_a_refusal_is_one(self) -> None:
        async def test(_: _Server, line: ControlLine) -> None:
            assert await line.post("/x", b"1") == (422, b"no")

        refusal = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 422 Unprocessable\r\ncontent-length: 2\r\n\r\nno"
        try_with(lambda *_: refusal, test)

    def test_silence_ends_in_time(self) -> None:
        async def test(_: _Server, line: ControlLine) -> None:
            with pytest.raises(TimeoutError):
                await line.post("/x", b"1", 0.1)

        try_with(lambda *_: b"HTTP/1.1 200 OK\r\n", test)

    def test_nobody_there(self) -> None:
        async def test() -> None:
            async with httpx.AsyncClient(base_url="http://127.0.0.1:9", trust_env=False) as api:
                with pytest.raises(OSError):  # noqa: PT011 - its words are the system's
                    await ControlLine(api).post("/x", b"1")

        run(test())

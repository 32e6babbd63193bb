"""The outbox: what a turn of the loop writes goes out at its end, in order, and nothing waits when little goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from finmaas_serving.gateway.outbox import FEW, LONG, MOST, Outbox


class Transport(asyncio.Transport):
    """Notes what is written to it."""

    def __init__(self, log: list[tuple[str, bytes]], name: str = "a") -> None:
        super().__init__()
        self._log, self._name = log, name
        self.closing = False

    def write(self, data: Any) -> None:
        self._log.append((self._name, data))

    def is_closing(self) -> bool:
        return self.closing


class Load:
    running = FEW + 1


@pytest.fixture
def log() -> list[tuple[str, bytes]]:
    return []


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def run_turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(asyncio.sleep(0))


class TestOutbox:
    def test_a_turn_is_written_at_its_end_in_order(
        self, loop: asyncio.AbstractEventLoop, log: list[tuple[str, bytes]]
    ) -> None:
        outbox = Outbox(loop, Load())
        a, b = Transport(log), Transport(log, "b")
        outbox.put(a, b"1")
        outbox.put(b, b"2")
        outbox.put(a, b"3")
        assert log == []
        run_turn(loop)
        assert log == [("a", b"13"), ("b", b"2")]
        outbox.put(b, b"4")
        run_turn(loop)
        assert log[2:] == [("b", b"4")]

    def test_where_little_goes_on_nothing_waits(
        self, loop: asyncio.AbstractEventLoop, log: list[tuple[str, bytes]]
    ) -> None:
        load = Load()
        outbox = Outbox(loop, load)
        transport = Transport(log)
        outbox.put(transport, b"1")
        load.running = FEW
        outbox.put(transport, b"2")  # behind what waits
        assert log == []
        outbox.flush()
        outbox.put(transport, b"3")
        assert log == [("a", b"12"), ("a", b"3")]

    def test_many_writes_do_not_wait_for_more(
        self, loop: asyncio.AbstractEventLoop, log: list[tuple[str, bytes]]
    ) -> None:
        outbox = Outbox(loop, Load())
        for number in range(MOST):
            outbox.put(Transport(log, str(number)), b"x")
        assert [name for name, _ in log] == [str(number) for number in range(MOST)]

    def test_pieces_of_a_stream_do_not_wait(
        self, loop: asyncio.AbstractEventLoop, log: list[tuple[str, bytes]]
    ) -> None:
        outbox = Outbox(loop, Load())
        a, b = Transport(log), Transport(log, "b")
        outbox.put(a, b"head ")
        outbox.put(b, b"2")
        outbox.write(a, b"piece")
        assert log == [("a", b"head piece")]
        run_turn(loop)
        assert log[1:] == [("b", b"2")]

    def test_long_data_are_not_gathered(self, loop: asyncio.AbstractEventLoop, log: list[tuple[str, bytes]]) -> None:
        outbox = Outbox(loop, Load())
        transport = Transport(log)
        outbox.put(transport, b"x" * (LONG + 1))
        outbox.put(transport, b"y")
        assert len(log) == 1

    def test_what_is_for_a_closed_transport_is_dropped(
        self, loop: asyncio.AbstractEventLoop, log: list[tuple[str, bytes]]
    ) -> None:
        outbox = Outbox(loop, Load())
        a, b = Transport(log), Transport(log, "b")
        outbox.put(a, b"1")
        outbox.put(b, b"2")
        a.closing = True
        run_turn(loop)
        assert log == [("b", b"2")]

"""The outbox: what a turn of the loop writes goes out at its end, in order, and nothing waits when little goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from finmaas_core.errors import StoreFull
from finmaas_serving.gateway.outbox import FEW, LONG, MOST, Outbox
from finmaas_serving.gateway.schemas import UsageRecord
from finmaas_serving.gateway.spool import Spool

RECORD: dict[str, Any] = {
    "request_id": "req_1", "at": datetime(2026, 1, 1, tzinfo=UTC), "key_id": "k", "project_id": "p", "tenant_id": "t",
    "endpoint_id": "e", "model_version_id": None, "path": "/v1/completions", "status": 200, "stream": False,
    "prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 0, "ttft_ms": None, "duration_ms": 1.5,
    "replica": None, "finish": "complete", "counted_by": "engine",
}  # fmt: skip


class Transport(asyncio.Transport):
    """Notes what is written to it."""

    def __init__(self, log: list[tuple[str, bytes]], name: str = "a") -> None:
        super().__init__()
        self._log, self._name = log, name
        self.closing = False

    def write(self, data: Any) -> None:
        self._log.append((self._name, data))

    def abort(self) -> None:
        self._log.append((self._name, b"aborted"))
        self.closing = True

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


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path)
    yield spool
    spool.close()


def run_turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(asyncio.sleep(0))


class TestOutbox:
    def test_a_turn_is_written_at_its_end_in_order(
        self, loop: asyncio.AbstractEventLoop, log: list[tuple[str, bytes]], spool: Spool
    ) -> None:
        outbox = Outbox(loop, Load(), spool)
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
        self, loop: asyncio.AbstractEventLoop, log: list[tuple[str, bytes]], spool: Spool
    ) -> None:
        load = Load()
        outbox = Outbox(loop, load, spool)
        transport = Transport(log)
        outbox.put(transport, b"1")
        load.running = FEW
        outbox.put(transport, b"2")  # behind what waits
        assert log == []
        outbox.flush()
        outbox.put(transport, b"3")
        assert log == [("a", b"12"), ("a", b"3")]

    def test_many_writes_do_not_wait_for_more(
        self, loop: asyncio.AbstractEventLoop, log: list[tuple[str, bytes]], spool: Spool
    ) -> None:
        outbox = Outbox(loop, Load(), spool)
        for number in range(MOST):
            outbox.put(Transport(log, str(number)), b"x")
        assert [name for name, _ in log] == [str(number) for number in range(MOST)]

    def test_pieces_of_a_stream_do_not_wait(
        self, loop: asyncio.AbstractEventLoop, log: list[tuple[str, bytes]], spool: Spool
    ) -> None:
        outbox = Outbox(loop, Load(), spool)
        a, b = Transport(log), Transport(log, "b")
        outbox.put(a, b"head ")
        outbox.put(b, b"2")
        outbox.write(a, b"piece")
        assert log == [("a", b"head piece")]
        run_turn(loop)
        assert log[1:] == [("b", b"2")]

    def test_long_data_are_not_gathered(
        self, loop: asyncio.AbstractEventLoop, log: list[tuple[str, bytes]], spool: Spool
    ) -> None:
        outbox = Outbox(loop, Load(), spool)
        transport = Transport(log)
        outbox.put(transport, b"x" * (LONG + 1))
        outbox.put(transport, b"y")
        assert len(log) == 1

    def test_what_is_for_a_closed_transport_is_dropped(
        self, loop: asyncio.AbstractEventLoop, log: list[tuple[str, bytes]], spool: Spool
    ) -> None:
        outbox = Outbox(loop, Load(), spool)
        a, b = Transport(log), Transport(log, "b")
        outbox.put(a, b"1")
        outbox.put(b, b"2")
        a.closing = True
        run_turn(loop)
        assert log == [("b", b"2")]


class TestRecords:
    """What is written was recorded before, or is not written."""

    @pytest.mark.parametrize("way", ["gathered", "at once", "piece"])
    def test_records_are_in_the_file_before_anything_leaves(
        self, loop: asyncio.AbstractEventLoop, tmp_path: Path, way: str
    ) -> None:
        spool = Spool(tmp_path)
        [file] = tmp_path.glob("usage-*.seg")
        seen: list[bool] = []

        class Watching(Transport):
            def write(self, data: Any) -> None:
                seen.append(b'{"seq":1}' in file.read_bytes())

        load = Load()
        load.running = 1 if way == "at once" else FEW + 1
        outbox = Outbox(loop, load, spool)
        assert spool.reserve()
        spool.append_text(b'{"seq":1}')
        assert b'{"seq":1}' not in file.read_bytes()
        (outbox.write if way == "piece" else outbox.put)(Watching([]), b"answer")
        run_turn(loop)
        assert seen == [True]
        spool.close()

    @pytest.mark.parametrize("way", ["gathered", "at once", "piece"])
    def test_a_disk_that_fails_cuts_what_could_not_be_recorded_and_nothing_after_it(
        self,
        loop: asyncio.AbstractEventLoop,
        log: list[tuple[str, bytes]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        way: str,
    ) -> None:
        def fail(*_: object) -> int:
            raise OSError(28, "No space left on device")

        spool = Spool(tmp_path)
        load = Load()
        load.running = 1 if way == "at once" else FEW + 1
        outbox = Outbox(loop, load, spool)
        assert spool.reserve()
        assert spool.reserve()
        spool.append_text(b'{"seq":1}')
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", fail)
            (outbox.write if way == "piece" else outbox.put)(Transport(log), b"answer")
            run_turn(loop)
        assert log == [("a", b"aborted")]
        outbox.put(Transport(log, "b"), b"503")  # a refusal needs no record
        run_turn(loop)
        assert log[1:] == [("b", b"503")]
        spool.append_text(b'{"seq":2}')  # of a call that was under way: nobody could read it behind the gap
        outbox.put(Transport(log, "c"), b"answer")
        run_turn(loop)
        assert log[2:] == [("c", b"aborted")]
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", fail)
            assert not spool.reserve()  # while there is no room for another segment
        assert spool.reserve()
        spool.append_text(b'{"seq":3}')
        outbox.put(Transport(log, "d"), b"answer")
        run_turn(loop)
        assert log[3:] == [("d", b"answer")]
        group = spool.start_sync()
        group.run()
        spool.finish_sync(group)
        assert spool.read(0, 10) == [(3, b'{"seq":3}')]  # what never reached the file is not delivered
        os.close(spool._lock)
        again = Spool(tmp_path)  # as after kill -9
        assert again.last == 3
        assert again.read(0, 10) == [(3, b'{"seq":3}')]
        again.close()

    def test_a_sync_or_a_record_of_its_own_between_hides_no_failure(
        self,
        loop: asyncio.AbstractEventLoop,
        log: list[tuple[str, bytes]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(*_: object) -> int:
            raise OSError(5, "Input/output error")

        spool = Spool(tmp_path)
        outbox = Outbox(loop, Load(), spool)
        assert spool.reserve()
        assert spool.reserve()
        spool.append_text(b'{"seq":1}')
        outbox.put(Transport(log), b"answer")
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", fail)
            spool.start_sync()
            with pytest.raises(StoreFull):
                spool.append(UsageRecord(**RECORD))
        assert not spool.reserve()  # the answer still waits
        outbox.write(Transport(log, "b"), b"piece")
        assert sorted(log) == [("a", b"aborted"), ("b", b"aborted")]
        assert spool.reserve()  # in a new segment
        outbox.put(Transport(log, "c"), b"answer")
        run_turn(loop)
        assert log[2:] == [("c", b"answer")]
        spool.close()

"""The usage spool: what survives, what is refused, what is deleted."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finmaas_core.errors import EnvironmentFault, StoreFull
from finmaas_serving.gateway.schemas import UsageRecord
from finmaas_serving.gateway.spool import MAX_FRAME_BYTES, Spool

SEGMENT = 16 * 1024


def record(request_id: str = "req_1") -> UsageRecord:
    return UsageRecord(
        request_id=request_id, at=datetime(2026, 1, 1, tzinfo=UTC), key_id="k", project_id="p", tenant_id="t",
        endpoint_id="e", model_version_id=None, path="/v1/completions", status=200, stream=False, prompt_tokens=1,
        completion_tokens=2, cached_tokens=0, ttft_ms=None, duration_ms=1.5, replica=None, finish="complete",
        counted_by="engine",
    )  # fmt: skip


def fill(spool: Spool, count: int) -> None:
    for i in range(count):
        assert spool.reserve()
        spool.append(record(f"req_{i}"))


def sync(spool: Spool) -> None:
    group = spool.start_sync()
    group.run()
    spool.finish_sync(group)


class TestSpool:
    def test_only_synced_records_are_read(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path, SEGMENT)
        fill(spool, 3)
        assert spool.read(0, 10) == []
        sync(spool)
        assert [number for number, _ in spool.read(0, 10)] == [1, 2, 3]
        assert [number for number, _ in spool.read(1, 1)] == [2]
        assert json.loads(spool.read(2, 1)[0][1])["seq"] == 3
        spool.close()

    @pytest.mark.parametrize("kept", [0, 60, 1000])  # in memory: none, so that the disk is read; some; all
    @pytest.mark.parametrize("limit", [1, 2, 7, 50])
    def test_read_in_pieces_it_gives_all_records_of_any_length_once(
        self, tmp_path: Path, limit: int, kept: int
    ) -> None:
        spool = Spool(tmp_path, SEGMENT, kept)
        for i in range(150):  # from short to as long as a frame may be, over many segments
            assert spool.reserve()
            spool.append_text(b'{"seq":%d,"pad":"%b"}' % (i + 1, b"x" * (i * 97 % (MAX_FRAME_BYTES - 80))))
        sync(spool)
        found: list[tuple[int, bytes]] = []
        while piece := spool.read(found[-1][0] if found else 0, limit):
            assert len(piece) <= limit
            found += piece
        assert [number for number, _ in found] == list(range(1, 151))
        assert [json.loads(payload)["seq"] for _, payload in found] == list(range(1, 151))
        again: list[tuple[int, bytes]] = []
        while piece := spool.read(again[-1][0] if again else 40, limit):  # what was not acknowledged is read once more
            again += piece
        assert again == found[40:]
        spool.acknowledge(100)
        rest = spool.read(100, limit)
        assert rest
        assert rest == found[100 : 100 + len(rest)]
        assert not [number for number in spool._kept if number <= 100]
        spool.close()

    def test_goes_on_after_a_crash(self, tmp_path: Path) -> None:
        """The first spool is never closed, as after kill -9; only its lock goes with the process."""
        first = Spool(tmp_path, SEGMENT)
        fill(first, 100)
        os.close(first._lock)
        second = Spool(tmp_path, SEGMENT)
        assert second.spool_id == first.spool_id
        assert [number for number, _ in second.read(0, 1000)] == list(range(1, 101))
        fill(second, 1)
        assert second.last == 101
        second.close()

    def test_a_torn_record_is_where_the_segment_ends(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path, SEGMENT)
        fill(spool, 3)
        end = spool._offset
        spool.close()
        [path] = tmp_path.glob("usage-*.seg")
        data = bytearray(path.read_bytes())
        data[end - 5] ^= 1
        path.write_bytes(data)
        again = Spool(tmp_path, SEGMENT)
        assert again.last == 2
        again.close()

    def test_delivered_segments_are_deleted_and_numbers_never_repeat(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path, SEGMENT)
        fill(spool, 200)
        sync(spool)
        assert len(list(tmp_path.glob("usage-*.seg"))) > 2
        spool.acknowledge(200)
        sync(spool)
        assert len(list(tmp_path.glob("usage-*.seg"))) == 1
        assert (spool.waiting, spool.read(200, 10)) == (0, [])
        spool.close()
        for _ in range(3):  # restarts without records
            spool = Spool(tmp_path, SEGMENT)
            assert spool.last == 200
            spool.close()

    def test_one_process_at_a_time(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path, SEGMENT)
        with pytest.raises(EnvironmentFault, match="another gateway"):
            Spool(tmp_path, SEGMENT)
        spool.close()

    def test_full_disk_refuses_to_reserve_but_keeps_what_it_promised(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spool = Spool(tmp_path, SEGMENT)

        def full(*_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.posix_fallocate", full)
        promised = 0
        while spool.reserve():
            promised += 1
        assert promised >= SEGMENT // MAX_FRAME_BYTES
        for _ in range(promised):
            spool.append(record("x" * 1000))
        assert spool.last == promised
        spool.close()

    def test_no_room_at_the_start_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.posix_fallocate", full)
        with pytest.raises(StoreFull, match="no room"):
            Spool(tmp_path, SEGMENT)

    def test_after_a_failed_fsync_nothing_more_is_let_in(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path, SEGMENT)
        fill(spool, 1)
        spool.finish_sync(spool.start_sync(), failed=True)
        assert not spool.reserve()
        assert spool.synced == 0
        spool.close()

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 200), st.booleans()), max_size=8))
    def test_whatever_happens_each_number_is_delivered_until_acknowledged(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool]]
    ) -> None:
        folder = tmp_path_factory.mktemp("spool")
        spool = Spool(folder, SEGMENT)
        written = acknowledged = 0
        for count, ack, restart in steps:
            fill(spool, count)
            written += count
            sync(spool)
            spool.acknowledge(ack)
            acknowledged = max(acknowledged, min(ack, written))
            if restart:
                spool.close()
                spool = Spool(folder, SEGMENT)
            waiting = [number for number, _ in spool.read(acknowledged, 10_000)]
            assert waiting == list(range(acknowledged + 1, written + 1))
        spool.close()

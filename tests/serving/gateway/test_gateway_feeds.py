"""What the gateway's loops keep over a restart, and what happens to usage that is refused."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import PEPPER, run

from finmaas_core.errors import Corrupt, Unavailable
from finmaas_serving.gateway.context import Gateway
from finmaas_serving.gateway.feeds import deliver_usage, load_replicas
from finmaas_serving.gateway.schemas import UsageRecord
from finmaas_serving.gateway.snapshot import SnapshotFile, SnapshotHolder
from finmaas_serving.gateway.spool import Spool
from finmaas_serving.gateway.upstream import ReplicaBook


def fill(spool: Spool, count: int) -> None:
    for number in range(1, count + 1):
        assert spool.reserve()
        record = UsageRecord(
            request_id=f"req_{number}", at=datetime(2026, 1, 1, tzinfo=UTC), key_id="k", project_id="p", tenant_id="t",
            endpoint_id="e", model_version_id=None, path="/v1/completions", status=200, stream=False, prompt_tokens=1,
            completion_tokens=2, cached_tokens=0, ttft_ms=None, duration_ms=1.5, replica=None, finish="complete",
            counted_by="engine",
        )  # fmt: skip
        spool.append(record)
    group = spool.start_sync()
    group.run()
    spool.finish_sync(group)


class TestRefusedUsage:
    def test_the_record_at_fault_is_set_aside_and_the_others_arrive(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path / "spool")
        fill(spool, 40)
        taken: list[int] = []

        async def control_plane(path: str, body: bytes, wait_s: float = 0) -> tuple[int, bytes]:
            numbers = [record["seq"] for record in json.loads(body)["records"]]
            if {7, 23} & set(numbers):
                return 422, b'{"detail":"cannot be used"}'
            taken.extend(numbers)
            return 200, b'{"accepted_through":%d}' % numbers[-1]

        async def deliver_all() -> None:
            while await deliver_usage(spool, "g", control_plane):
                pass

        run(deliver_all())
        assert taken == [number for number in range(1, 41) if number not in (7, 23)]
        assert spool.waiting == 0
        lines = [json.loads(line) for line in (tmp_path / "spool" / "refused.jsonl").read_text().splitlines()]
        assert [line["record"]["request_id"] for line in lines] == ["req_7", "req_23"]
        assert "cannot be used" in lines[0]["reason"]
        spool.close()

    @pytest.mark.parametrize("status", [401, 429, 500, 503])
    def test_what_may_pass_is_tried_again_and_nothing_set_aside(self, tmp_path: Path, status: int) -> None:
        spool = Spool(tmp_path / "spool")
        fill(spool, 3)

        async def answer(path: str, body: bytes, wait_s: float = 0) -> tuple[int, bytes]:
            return status, b""

        async def deliver() -> None:
            with pytest.raises(Unavailable, match=str(status)):
                await deliver_usage(spool, "g", answer)

        run(deliver())
        assert spool.waiting == 3
        assert not (tmp_path / "spool" / "refused.jsonl").exists()
        spool.close()


class TestKeptReplicas:
    def gateway(self, folder: Path, spool: Spool, token: str = "fmg_token") -> Gateway:
        holder = SnapshotHolder(SnapshotFile(folder / "snapshot", token))
        loop = asyncio.new_event_loop()
        loop.close()
        file = SnapshotFile(folder / "replicas", token)
        return Gateway(PEPPER.encode(), holder, ReplicaBook(), spool, loop, replica_file=file)

    def keep(self, folder: Path, value: Any) -> None:
        SnapshotFile(folder / "replicas", "fmg_token").save_if_changed(json.dumps(value).encode())

    def test_come_back_after_a_restart(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path / "spool")
        self.keep(tmp_path, {"ep_1": [["10.0.0.1", 8120], ["10.0.0.2", 8121]]})
        gateway = self.gateway(tmp_path, spool)
        load_replicas(gateway)
        assert [(replica.host, replica.port) for replica in gateway.replicas.of("ep_1")] == [
            ("10.0.0.1", 8120),
            ("10.0.0.2", 8121),
        ]
        assert gateway.replicas_heard_at > 0
        spool.close()

    def test_a_file_that_another_wrote_is_refused(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path / "spool")
        self.keep(tmp_path, {"ep_1": [["10.6.6.6", 80]]})
        gateway = self.gateway(tmp_path, spool, token="fmg_other")
        with pytest.raises(Corrupt):
            load_replicas(gateway)
        assert gateway.replicas.count() == 0
        spool.close()

    def test_without_a_file_there_is_none(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path / "spool")
        gateway = self.gateway(tmp_path, spool)
        load_replicas(gateway)
        assert gateway.replicas.count() == 0
        spool.close()

"""What the hot path writes by hand is what the usual formatting writes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from gateway_parts import PEPPER
from hypothesis import given
from hypothesis import strategies as st

from finmaas_core.prices import MAX_NANO, show_money
from finmaas_serving.gateway import wire
from finmaas_serving.gateway.allowance_words import LimitWords
from finmaas_serving.gateway.body import read_usual, usual_engine_body
from finmaas_serving.gateway.context import Gateway
from finmaas_serving.gateway.snapshot import Allowance, SnapshotFile, SnapshotHolder
from finmaas_serving.gateway.spool import RecordForm, Spool, tell_time
from finmaas_serving.gateway.upstream import ReplicaBook


@given(nano=st.integers(-(10**12), MAX_NANO) | st.sampled_from([0, 1, 10, 10**7, 10**8, 10**9, 10**9 + 10**8]))
def test_money_in_headers(nano: int) -> None:
    allowance = Allowance("alw_1", "ten_1", "project", "prj_1", "", "money", "month", 10**12, "CNY")
    told = LimitWords(allowance).lines(nano, 60.0)
    assert b"x-ratelimit-remaining-budget: %b\r\n" % show_money(nano).encode() in told


@given(number=st.integers(0, 999_999))
def test_padded(number: int) -> None:
    assert wire.padded(number, 1_000_000) == b"%06d" % number


@given(took_us=st.integers(0, 10**10))
def test_times_in_records(took_us: int) -> None:
    text = RecordForm({"key_id": "k"}).fill(1, "req_1", 0.25, took_us / 1000, 1, 0, 1, 0, None, None, 0, [], "")
    record = msgspec.json.decode(text)
    assert abs(record["duration_ms"] - took_us / 1000) <= 0.001001
    assert (record["ttft_ms"], record["at"]) == (record["duration_ms"], "1970-01-01T00:00:00.250000Z")
    assert tell_time(1.000015) == b"1970-01-01T00:00:01.000015Z"


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        (b'{"model":"a","messages":[]}', b'{"model":"own","messages":[]}'),
        (b'{"messages":[],"model": "a"}', b'{"messages":[],"model":"own"}'),
        (b'{"model":"a","messages":[],"model":"b"}', None),
        (
            b'{"messages":[{"role":"user","content":"\\"model\\":"}],"model":"a"}',
            b'{"messages":[{"role":"user","content":"\\"model\\":"}],"model":"own"}',
        ),
        (b'{"model" :"a","messages":[]}', None),
        (b'{"messages":[],"user":"model","model":"a"}', None),
        (b' {"model":"a","messages":[]}', None),
    ],
)
def test_the_engines_name_of_a_model_takes_the_place_of_the_clients(raw: bytes, sent: bytes | None) -> None:
    usual = read_usual(raw)
    assert usual is not None
    found = usual_engine_body(raw, usual, "own", None)
    assert found == sent


def test_request_ids_are_unique_over_many(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    spool = Spool(tmp_path / "spool")
    holder = SnapshotHolder(SnapshotFile(tmp_path / "snapshot", "t"))
    gateway = Gateway(PEPPER.encode(), holder, ReplicaBook(), spool, loop)
    ids = [gateway.new_request_id() for _ in range(10_000)]
    assert len(set(ids)) == 10_000
    assert sorted(ids) == ids
    assert {len(one) for one in ids} == {len("req_") + 12 + 10}
    spool.close()
    loop.close()

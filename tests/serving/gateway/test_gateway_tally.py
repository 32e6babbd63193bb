"""What a gateway counts, and how it tells Prometheus."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from finmaas_serving.gateway.exposition import expose
from finmaas_serving.gateway.schemas import Report, UsageRecord
from finmaas_serving.gateway.tally import Tally


def record(**changes: Any) -> UsageRecord:
    fields: dict[str, Any] = {
        "request_id": "r", "at": datetime(2026, 1, 1, tzinfo=UTC), "key_id": "k", "project_id": "p", "tenant_id": "t",
        "endpoint_id": "e", "model_version_id": None, "path": "/v1/chat/completions", "status": 200, "stream": True,
        "prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 2, "ttft_ms": 9.5, "duration_ms": 400.0,
        "replica": None, "finish": "complete", "counted_by": "engine",
    }  # fmt: skip
    return UsageRecord(**fields | changes)


def report(tally: Tally, **changes: Any) -> Report:
    fields: dict[str, Any] = {
        "started_at": 1.0, "snapshot": 3, "snapshot_age_s": 0.5, "replicas": 1, "running": 2, "connections": 4,
        "usage_waiting": 0, "draining": False, "refused": tally.refused, "lines": tally.lines,
    }  # fmt: skip
    return Report(**fields | changes)


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(text.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


class TestTally:
    def test_counts_by_endpoint_and_project(self) -> None:
        tally = Tally()
        tally.observe("acme/risk/chat", "acme/risk", record())
        tally.observe("acme/risk/chat", "acme/risk", record(status=502, finish="upstream_failed", ttft_ms=None))
        tally.observe("acme/risk/chat", "acme/fraud", record(prompt_tokens=1))
        risk, fraud = tally.lines
        assert (risk.by_status, risk.by_finish) == ({200: 1, 502: 1}, {"complete": 1, "upstream_failed": 1})
        assert (risk.prompt_tokens, risk.cached_tokens, risk.completion_tokens) == (20, 4, 10)
        assert (sum(risk.first_token_ms), sum(risk.whole_ms), fraud.prompt_tokens) == (1, 2, 1)

    def test_a_refusal_of_an_engine_is_complete_too(self) -> None:
        tally = Tally()
        for status in (200, 400, 200):
            tally.observe("acme/risk/chat", "acme/risk", record(status=status))
        [line] = tally.lines
        assert (line.by_status, line.by_finish) == ({200: 2, 400: 1}, {"complete": 3})

    def test_a_time_lies_in_the_bucket_it_does_not_pass(self) -> None:
        tally = Tally()
        for ttft_ms in (5.0, 5.1, 1e9):
            tally.observe("e", "p", record(ttft_ms=ttft_ms))
        counts = tally.lines[0].first_token_ms
        assert (counts[0], counts[1], counts[-1], sum(counts)) == (1, 1, 1, 3)


class TestExposition:
    def test_prometheus_reads_it(self) -> None:
        tally = Tally()
        tally.observe("acme/risk/chat", "acme/risk", record())
        tally.refuse(401)
        found = samples(expose({"gw-1": report(tally)}))
        call = (("endpoint", "acme/risk/chat"), ("gateway", "gw-1"), ("project", "acme/risk"))
        assert found["finmaas_requests_total", (*call, ("status", "200"))] == 1
        assert found["finmaas_tokens_total", tuple(sorted((*call, ("kind", "completion"))))] == 5
        assert found["finmaas_first_token_seconds_bucket", tuple(sorted((*call, ("le", "0.01"))))] == 1
        assert found["finmaas_first_token_seconds_bucket", tuple(sorted((*call, ("le", "0.005"))))] == 0
        assert found["finmaas_request_seconds_sum", call] == 0.4
        assert found["finmaas_gateway_refused_total", (("gateway", "gw-1"), ("status", "401"))] == 1
        assert found["finmaas_gateway_snapshot_age_seconds", (("gateway", "gw-1"),)] == 0.5

    def test_a_gateway_without_a_snapshot_tells_no_age(self) -> None:
        assert b"snapshot_age_seconds{" not in expose({"gw": report(Tally(), snapshot=None, snapshot_age_s=None)})

"""Spans of calls, as an OTLP collector gets them."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gateway_parts import FakeReplica, answer_usual, chat, json_bytes, post, run, running_gateway
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from finmaas_serving.gateway.tracing import Tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """What arrived, as (trace id, parent id, name, attributes, status code)."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, str, dict[str, Any], int]] = []
        self.url = ""

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    values = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
                    ids = span.trace_id.hex(), span.parent_span_id.hex()
                    self.spans.append((*ids, span.name, values, span.status.code))


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    collector.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()


async def fail(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(json_bytes(500, {"error": {"message": "boom"}}))


class TestSpans:
    def test_a_call_is_a_span_below_the_clients_and_above_the_engines(self, tmp_path: Path) -> None:
        async def test(collector: Collector) -> bytes:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                rig.gateway.tracing = tracing = Tracing(collector.url, "gw-1")
                answer = await rig.send(post(chat(), headers=f"traceparent: 00-{TRACE}-{PARENT}-01\r\n"))
                assert answer.status == 200
                await asyncio.to_thread(tracing.close)
                return replica.heads[0]

        with collecting() as collector:
            head = run(test(collector))
        ((trace, parent, name, values, status),) = collector.spans
        assert (trace, parent, name, status) == (TRACE, PARENT, "chat chat", 0)
        assert values["gen_ai.request.model"] == "acme/risk/chat"
        assert (values["gen_ai.usage.input_tokens"], values["gen_ai.usage.output_tokens"]) == (7, 3)
        assert (values["finmaas.project"], values["http.response.status_code"]) == ("acme/risk", 200)
        told = re.search(rb"traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-01\r\n", head)
        assert told is not None
        assert told[1].decode() == TRACE
        assert told[2].decode() != PARENT

    def test_a_failed_call_says_so_and_no_text_is_in_a_span(self, tmp_path: Path) -> None:
        async def test(collector: Collector) -> None:
            async with running_gateway(tmp_path, fail) as (rig, _):
                rig.gateway.tracing = tracing = Tracing(collector.url, "gw-1")
                await rig.call(chat(messages=[{"role": "user", "content": "top secret"}]))
                await asyncio.to_thread(tracing.close)

        with collecting() as collector:
            run(test(collector))
        ((*_, values, status),) = collector.spans
        assert (values["error.type"], status) == ("502", 2)
        assert "secret" not in str(values)

    def test_a_trace_that_the_client_does_not_sample_is_not_sent(self, tmp_path: Path) -> None:
        async def test(collector: Collector) -> bytes:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                rig.gateway.tracing = tracing = Tracing(collector.url, "gw-1")
                await rig.send(post(chat(), headers=f"traceparent: 00-{TRACE}-{PARENT}-00\r\n"))
                await rig.send(post(chat(), headers="traceparent: nonsense\r\n"))
                await asyncio.to_thread(tracing.close)
                return replica.heads[0]

        with collecting() as collector:
            head = run(test(collector))
        assert f"traceparent: 00-{TRACE}-".encode() in head
        assert [span[0] != TRACE for span in collector.spans] == [True]

    def test_an_unreachable_collector_costs_no_call(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                rig.gateway.tracing = Tracing("http://127.0.0.1:9", "gw-1")
                for _ in range(3):
                    assert (await rig.call()).status == 200

        run(test())

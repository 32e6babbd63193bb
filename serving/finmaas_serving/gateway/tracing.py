"""Traces of calls in OpenTelemetry's words for generative AI. Off unless an OTLP address is set; then a span a call.

Spans tell who called what, how long it took and what it used. Prompts and answers are never in them. They are sent in
batches from a thread of the library; when nobody takes them they are dropped, and no call waits for it.
Names: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from finmaas_serving.gateway.schemas import UsageRecord
    from finmaas_serving.gateway.snapshot import Key, Route

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_propagator = TraceContextTextMapPropagator()


class Tracing:
    """The spans of one gateway process."""

    def __init__(self, otlp_url: str, gateway: str, share: float = 1.0) -> None:
        """Sends to `otlp_url` + /v1/traces. `share` of the calls are traced, unless the client's trace decides."""
        resource = Resource.create({"service.name": "finmaas-gateway", "service.instance.id": gateway})
        sampler = ParentBased(TraceIdRatioBased(share))
        self._provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=otlp_url.rstrip("/") + "/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("finmaas.gateway")

    def begin(self, path: str, key: Key, route: Route, request_id: str, traceparent: bytes | None) -> Span:
        """A call's span, below the client's own where it sent a `traceparent`."""
        context = _propagator.extract({"traceparent": traceparent.decode("latin-1")}) if traceparent else None
        operation = OPERATIONS.get(path, path.removeprefix("/v1/"))
        return self._tracer.start_span(
            f"{operation} {route.short_name}",
            context,
            SpanKind.CLIENT,
            {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "finmaas",
                "gen_ai.request.model": route.name,
                "finmaas.request_id": request_id,
                "finmaas.project": key.project,
                "finmaas.key_id": key.key_id,
            },
        )

    def end(self, span: Span, record: UsageRecord, model_version: str | None) -> None:
        """Ends a call's span with what its usage record says."""
        if not span.is_recording():
            return
        span.set_attributes(
            {
                "http.response.status_code": record.status,
                "gen_ai.response.model": model_version or "",
                "gen_ai.usage.input_tokens": record.prompt_tokens,
                "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
                "gen_ai.usage.output_tokens": record.completion_tokens,
                "finmaas.finish": record.finish,
                "server.address": record.replica or "",
            }
        )
        if record.ttft_ms is not None:
            span.set_attribute("gen_ai.response.time_to_first_chunk", record.ttft_ms / 1000)
        if record.status >= 400:
            span.set_attribute("error.type", str(record.status))
            span.set_status(Status(StatusCode.ERROR, record.finish))
        span.end()

    def header_of(self, span: Span) -> bytes:
        """The header line that tells the engine which span it works for, with its line end."""
        context = span.get_span_context()
        ids = f"{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"
        return f"traceparent: 00-{ids}-{int(context.trace_flags):02x}\r\n".encode()

    def close(self) -> None:
        """Sends what is left, for two seconds at most."""
        self._provider.force_flush(2000)
        self._provider.shutdown()

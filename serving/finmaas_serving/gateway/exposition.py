"""Reports of gateways in Prometheus' text format. The control plane shows all gateways with it, each gateway itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from finmaas_serving.gateway.schemas import FIRST_TOKEN_BOUNDS_MS, WHOLE_BOUNDS_MS, Line, Report

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_CALL = ("gateway", "endpoint", "project")


def expose(reports: Mapping[str, Report]) -> bytes:
    """The metrics of these gateways, by gateway id."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reports(reports))
    return generate_latest(registry)


class _Reports:
    """A collector in the library's sense."""

    def __init__(self, reports: Mapping[str, Report]) -> None:
        self._reports = reports

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield self._refused()
        yield from self._calls()

    def _gauges(self) -> Iterator[Metric]:
        for name, text in (
            ("running", "Requests on their way to a replica and back"),
            ("connections", "Connections of clients"),
            ("usage_waiting", "Usage records not delivered yet"),
            ("replicas", "Replicas that take requests"),
            ("snapshot_age_s", "Seconds since the control plane confirmed the snapshot"),
        ):
            gauge = GaugeMetricFamily(
                f"finmaas_gateway_{name.removesuffix('_s')}" + ("_seconds" if name.endswith("_s") else ""),
                text,
                labels=["gateway"],
            )
            for gateway, report in self._reports.items():
                if (value := getattr(report, name)) is not None:
                    gauge.add_metric([gateway], value)
            yield gauge

    def _refused(self) -> Metric:
        refused = CounterMetricFamily(
            "finmaas_gateway_refused", "Requests turned away before they became a call", labels=["gateway", "status"]
        )
        for gateway, report in self._reports.items():
            for status, count in report.refused.items():
                refused.add_metric([gateway, str(status)], count)
        return refused

    def _calls(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("finmaas_requests", "Calls of models, ended", labels=[*_CALL, "status"])
        finishes = CounterMetricFamily(
            "finmaas_finishes", "Calls of models, by how they ended", labels=[*_CALL, "finish"]
        )
        tokens = CounterMetricFamily("finmaas_tokens", "Tokens, as the engine counts them", labels=[*_CALL, "kind"])
        first = HistogramMetricFamily("finmaas_first_token_seconds", "Time to the first token", labels=_CALL)
        whole = HistogramMetricFamily("finmaas_request_seconds", "From the request to the last byte", labels=_CALL)
        for labels, line in self._lines():
            for status, count in line.by_status.items():
                requests.add_metric([*labels, str(status)], count)
            for finish, count in line.by_finish.items():
                finishes.add_metric([*labels, finish], count)
            for kind in ("prompt", "cached", "completion"):
                tokens.add_metric([*labels, kind], getattr(line, f"{kind}_tokens"))
            first.add_metric(
                labels, _buckets(FIRST_TOKEN_BOUNDS_MS, line.first_token_ms), line.first_token_ms_sum / 1000
            )
            whole.add_metric(labels, _buckets(WHOLE_BOUNDS_MS, line.whole_ms), line.whole_ms_sum / 1000)
        yield from (requests, finishes, tokens, first, whole)

    def _lines(self) -> Iterable[tuple[list[str], Line]]:
        for gateway, report in self._reports.items():
            for line in report.lines:
                yield [gateway, line.endpoint, line.project], line


def _buckets(bounds_ms: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Counts up to each bound, in seconds, as the format wants them."""
    names = [*(f"{bound / 1000:g}" for bound in bounds_ms), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))

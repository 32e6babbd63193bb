"""Rates from the counts of gateways: what `gateway top` shows. Pure: two readings in, rows out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finmaas_serving.gateway.schemas import FIRST_TOKEN_BOUNDS_MS

if TYPE_CHECKING:
    from finmaas_platform.sdk.objects import Allowance, Gateway, GatewayLine


@dataclass
class Rate:
    """One endpoint as one project calls it, over all gateways; rates a second, times in milliseconds."""

    endpoint: str
    project: str
    requests_per_s: float = 0.0
    tokens_per_s: float = 0.0
    errors_per_s: float = 0.0
    first_token_p50_ms: float | None = None
    first_token_p99_ms: float | None = None
    requests: int = 0  # since the gateways started
    left: Left | None = None

    @property
    def tenant(self) -> str:
        return self.project.partition("/")[0]


@dataclass
class _Sum:
    requests: int = 0
    errors: int = 0
    tokens: int = 0
    first_token: list[int] = field(default_factory=lambda: [0] * (len(FIRST_TOKEN_BOUNDS_MS) + 1))


def compute_rates(before: Sequence[Gateway], after: Sequence[Gateway], seconds: float) -> list[Rate]:
    """What happened between two readings, busiest first. A gateway that started anew in between counts from nothing."""
    held = {gateway.gateway_id: gateway for gateway in before}
    sums: dict[tuple[str, str], _Sum] = defaultdict(_Sum)
    totals: dict[tuple[str, str], int] = defaultdict(int)
    for gateway in after:
        old = held.get(gateway.gateway_id)
        lines = {(line.endpoint, line.project): line for line in _same_start(old, gateway)}
        for line in gateway.lines:
            name = (line.endpoint, line.project)
            totals[name] += sum(line.by_status.values())
            _add(sums[name], line, lines.get(name))
    rates = [_rate(name, sums[name], totals[name], seconds) for name in totals]
    return sorted(rates, key=lambda rate: (-rate.requests_per_s, -rate.requests, rate.endpoint, rate.project))


@dataclass(frozen=True)
class Left:
    """What is left of the allowance that binds most: a share of its limit, and which one it is."""

    share: float
    unit: str
    window: str
    subject: str
    left: int
    limit: int


def find_least(rate: Rate, allowances: Iterable[Allowance]) -> Left | None:
    """Of the allowances that every request of this line draws on, the one with the least share left; None without any.

    Those of single keys bind some of its requests only, and concurrency renews at once: neither counts here.
    """
    subjects = {("tenant", rate.tenant), ("project", rate.project), ("model", rate.endpoint)}
    found = [
        _left(one)
        for one in allowances
        if (one.scope, one.subject) in subjects and one.model in ("", rate.endpoint) and one.unit != "concurrency"
    ]
    return min(found, key=lambda left: left.share, default=None)


def _left(one: Allowance) -> Left:
    left = max(0, one.limit - one.spent.settled - one.spent.reserved)
    share = left / one.limit if one.limit else 0.0
    return Left(share, one.currency or one.unit, one.window, f"{one.scope} {one.subject}", left, one.limit)


def estimate_quantile(counts: Sequence[int], bounds: Sequence[float], share: float) -> float | None:
    """The value that `share` of a histogram's counts do not pass, linear within its bucket; None when it is empty."""
    wanted = share * sum(counts)
    if not wanted:
        return None
    seen, low = 0, 0.0
    for count, high in zip(counts, bounds, strict=False):
        if count and seen + count >= wanted:
            return low + (high - low) * (wanted - seen) / count
        seen, low = seen + count, high
    return float(bounds[-1])


def _same_start(old: Gateway | None, new: Gateway) -> Iterable[GatewayLine]:
    return old.lines if old is not None and old.started_at == new.started_at else ()


def _add(total: _Sum, line: GatewayLine, old: GatewayLine | None) -> None:
    total.requests += sum(line.by_status.values()) - (sum(old.by_status.values()) if old else 0)
    total.errors += _errors(line) - (_errors(old) if old else 0)
    total.tokens += line.completion_tokens - (old.completion_tokens if old else 0)
    for place, count in enumerate(line.first_token_ms):
        total.first_token[place] += count - (old.first_token_ms[place] if old else 0)


def _errors(line: GatewayLine) -> int:
    return sum(count for status, count in line.by_status.items() if status >= 400 and status != 499)


def _rate(name: tuple[str, str], total: _Sum, requests: int, seconds: float) -> Rate:
    return Rate(
        *name,
        requests_per_s=total.requests / seconds,
        tokens_per_s=total.tokens / seconds,
        errors_per_s=total.errors / seconds,
        first_token_p50_ms=estimate_quantile(total.first_token, FIRST_TOKEN_BOUNDS_MS, 0.5),
        first_token_p99_ms=estimate_quantile(total.first_token, FIRST_TOKEN_BOUNDS_MS, 0.99),
        requests=requests,
    )

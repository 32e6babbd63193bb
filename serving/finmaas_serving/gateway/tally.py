"""What one gateway process has done since it started, counted by endpoint and project.

Counts only rise, as Prometheus wants; whoever shows rates takes differences. A request costs two look-ups and a dozen
additions here. Nothing of what was asked or answered is kept.
"""

from __future__ import annotations

import hmac
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from finmaas_serving.gateway.schemas import FIRST_TOKEN_BOUNDS_MS, WHOLE_BOUNDS_MS, Line

if TYPE_CHECKING:
    from finmaas_serving.gateway.schemas import UsageRecord

_PURPOSE: Final = b"finmaas metrics v1"


def derive_metrics_token(gateway_token: str) -> str:
    """What a Prometheus server sends as its bearer token; follows from the gateway token, opens nothing but metrics."""
    return hmac.digest(gateway_token.encode(), _PURPOSE, "sha256").hex()


class Tally:
    """The counts of one process."""

    def __init__(self) -> None:
        self.started_at = time.time()
        self.refused: dict[int, int] = {}
        self._lines: dict[tuple[str, str], Line] = {}

    @property
    def lines(self) -> list[Line]:
        return [*self._lines.values()]

    def observe(self, endpoint: str, project: str, record: UsageRecord) -> None:
        """Counts a call that has ended."""
        self.count(
            endpoint, project, record.status, record.finish, record.prompt_tokens, record.cached_tokens,
            record.completion_tokens, record.ttft_ms, record.duration_ms,
        )  # fmt: skip

    def count(
        self, endpoint: str, project: str, status: int, finish: str, prompt: int, cached: int, output: int,
        ttft_ms: float | None, whole_ms: float,
    ) -> None:  # fmt: skip
        """The same, of a call whose record is not at hand."""
        line = self._lines.get((endpoint, project))
        if line is None:
            line = self._lines[endpoint, project] = Line(endpoint, project)
        line.by_status[status] = line.by_status.get(status, 0) + 1
        line.by_finish[finish] = line.by_finish.get(finish, 0) + 1
        line.prompt_tokens += prompt
        line.cached_tokens += cached
        line.completion_tokens += output
        if ttft_ms is not None:
            line.first_token_ms[bisect_left(FIRST_TOKEN_BOUNDS_MS, ttft_ms)] += 1
            line.first_token_ms_sum += ttft_ms
        line.whole_ms[bisect_left(WHOLE_BOUNDS_MS, whole_ms)] += 1
        line.whole_ms_sum += whole_ms

    def refuse(self, status: int) -> None:
        """Counts a request that was turned away before it became a call."""
        self.refused[status] = self.refused.get(status, 0) + 1

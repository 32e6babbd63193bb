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

OK: Final = 200
COMPLETE: Final = "complete"  # how a call ended that was answered whole
_PURPOSE: Final = b"finmaas metrics v1"


def derive_metrics_token(gateway_token: str) -> str:
    """What a Prometheus server sends as its bearer token; follows from the gateway token, opens nothing but metrics."""
    return hmac.digest(gateway_token.encode(), _PURPOSE, "sha256").hex()


class Counts:
    """One endpoint as one project calls it."""

    __slots__ = (
        "_by_finish", "_by_status", "_cached", "_complete", "_endpoint", "_first_ms", "_first_ms_sum", "_output",
        "_project", "_prompt", "_whole_ms", "_whole_ms_sum",
    )  # fmt: skip

    def __init__(self, endpoint: str, project: str) -> None:
        self._endpoint, self._project = endpoint, project
        self._complete = 0  # answered whole with 200: nearly all; the others by status and by finish
        self._by_status: dict[int, int] = {}
        self._by_finish: dict[str, int] = {}
        self._prompt = self._cached = self._output = 0
        self._first_ms = [0] * (len(FIRST_TOKEN_BOUNDS_MS) + 1)
        self._whole_ms = [0] * (len(WHOLE_BOUNDS_MS) + 1)
        self._first_ms_sum = self._whole_ms_sum = 0.0

    def add(
        self, status: int, finish: str, prompt: int, cached: int, output: int, ttft_ms: float | None, whole_ms: float
    ) -> None:
        """Counts a call that has ended."""
        if status == OK and finish == COMPLETE:
            self._complete += 1
        else:
            self._by_status[status] = self._by_status.get(status, 0) + 1
            self._by_finish[finish] = self._by_finish.get(finish, 0) + 1
        self._prompt += prompt
        self._cached += cached
        self._output += output
        if ttft_ms is not None:
            self._first_ms[bisect_left(FIRST_TOKEN_BOUNDS_MS, ttft_ms)] += 1
            self._first_ms_sum += ttft_ms
        self._whole_ms[bisect_left(WHOLE_BOUNDS_MS, whole_ms)] += 1
        self._whole_ms_sum += whole_ms

    def line(self) -> Line | None:
        """The counts as they are now; None before the first call."""
        by_status, by_finish = self._by_status.copy(), self._by_finish.copy()
        if self._complete:
            by_status[OK] = by_status.get(OK, 0) + self._complete
            by_finish[COMPLETE] = by_finish.get(COMPLETE, 0) + self._complete  # refusals of an engine end so too
        if not by_status:
            return None
        return Line(
            self._endpoint, self._project, by_status, by_finish, self._prompt, self._cached, self._output,
            self._first_ms.copy(), self._first_ms_sum, self._whole_ms.copy(), self._whole_ms_sum,
        )  # fmt: skip


class Tally:
    """The counts of one process."""

    def __init__(self) -> None:
        self.started_at = time.time()
        self.refused: dict[int, int] = {}
        self._counts: dict[tuple[str, str], Counts] = {}

    @property
    def lines(self) -> list[Line]:
        return [line for counts in self._counts.values() if (line := counts.line()) is not None]

    def of(self, endpoint: str, project: str) -> Counts:
        """The counts of an endpoint as a project calls it, for as long as this process lives."""
        counts = self._counts.get((endpoint, project))
        if counts is None:
            counts = self._counts[endpoint, project] = Counts(endpoint, project)
        return counts

    def observe(self, endpoint: str, project: str, record: UsageRecord) -> None:
        """Counts a call that has ended."""
        self.of(endpoint, project).add(
            record.status, record.finish, record.prompt_tokens, record.cached_tokens, record.completion_tokens,
            record.ttft_ms, record.duration_ms,
        )  # fmt: skip

    def refuse(self, status: int) -> None:
        """Counts a request that was turned away before it became a call."""
        self.refused[status] = self.refused.get(status, 0) + 1

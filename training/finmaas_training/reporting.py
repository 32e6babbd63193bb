"""Live metrics and progress, sent from a thread of their own so that training never waits for the control plane.

While the control plane is away, points wait in memory and are sent when it is back. The answer to each post tells
whether the user asked to cancel; a stale attempt is told the same way and looks like a cancellation with a reason.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from finmaas_core.errors import FinmaasError, StaleAttempt, Unavailable
from finmaas_core.telemetry import get_logger
from finmaas_training.control import PATIENCE_S

SEND_EVERY_S = 1.0
MAX_WAITING = 100_000  # points kept while nobody answers; the oldest go first
_MOST_PER_POST = 500


class MetricsPort(Protocol):
    """What the reporter asks of the control plane; `JobClient` is it."""

    def post_metrics(
        self, points: list[Mapping[str, Any]], progress: Mapping[str, Any] | None, patience_s: float = 0
    ) -> bool: ...


class Reporter:
    """Collects points and the newest progress, and delivers them about once a second."""

    def __init__(self, port: MetricsPort, send_every_s: float = SEND_EVERY_S) -> None:
        self._port = port
        self._send_every_s = send_every_s
        self._lock = threading.Condition()
        self._waiting: deque[Mapping[str, Any]] = deque(maxlen=MAX_WAITING)
        self._newest: tuple[int, Mapping[str, float]] = (-1, {})
        self._progress: Mapping[str, Any] | None = None
        self._wake = threading.Event()
        self._ended = False
        self._over = False
        self._stop_reason = ""
        self._thread = threading.Thread(target=self._run, name="finmaas-metrics", daemon=True)
        self._thread.start()

    @property
    def stop_reason(self) -> str:
        """Why the job is to stop; empty while it may go on."""
        return self._stop_reason

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Values at a step. Further values of the newest step join those it has; what is not finite is left out."""
        kept = {name: value for name, value in values.items() if math.isfinite(value)}
        with self._lock:
            if step == self._newest[0]:
                # The other side keeps the last point of a step, so that one has to be whole.
                kept = {**self._newest[1], **kept}
            self._newest = (step, kept)
            self._waiting.append({"step": step, "values": kept})

    def show(self, stage: str, step: int, total_steps: int) -> None:
        """The progress that the user sees; only the newest is sent."""
        with self._lock:
            self._progress = {"step": step, "total_steps": total_steps, "stage": stage}

    def flush(self, patience_s: float = PATIENCE_S) -> None:
        """Waits until every point so far has arrived, the patience ends, or the reporter has ended."""
        self._wake.set()
        with self._lock:
            self._lock.wait_for(lambda: self._over or not self._waiting, patience_s)

    def close(self, patience_s: float = 10.0) -> None:
        """Sends what is left, waiting at most about `patience_s` for an answer."""
        self._ended = True
        self._wake.set()
        self._thread.join(patience_s)

    def _run(self) -> None:
        try:
            self._deliver()
        finally:
            with self._lock:
                self._over = True
                self._lock.notify_all()

    def _deliver(self) -> None:
        log = get_logger()
        away = False
        while True:
            ended = self._ended
            try:
                self._send_all()
                away = False
            except StaleAttempt as error:
                self._stop_reason = f"a newer attempt of this job has taken over ({error})"
                return
            except Unavailable:
                if not away:
                    log.warning("metrics.waiting", detail="the control plane is away; points are kept")
                away = True
            except FinmaasError as error:
                log.warning("metrics.refused", detail=str(error))
            if ended:
                return
            self._wake.wait(self._send_every_s)
            self._wake.clear()

    def _send_all(self) -> None:
        """Sends the waiting points in portions; a portion leaves the queue only when it has arrived."""
        while True:
            with self._lock:
                points = [self._waiting[i] for i in range(min(_MOST_PER_POST, len(self._waiting)))]
                progress, self._progress = self._progress, None
            try:
                # Without points or progress too: the answer tells whether to cancel.
                cancel = self._port.post_metrics(points, progress)
            except Unavailable:
                with self._lock:
                    self._progress = self._progress or progress
                raise
            if cancel:
                self._stop_reason = "the user cancelled the job"
            with self._lock:
                for _ in points:
                    if self._waiting:
                        self._waiting.popleft()
                if not self._waiting:
                    self._lock.notify_all()
                    return

"""Jobs: submitting training and evaluation, watching them, reading their metrics and logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx

from finmaas_core.errors import Unavailable
from finmaas_platform.sdk.objects import Attempt, Job, MetricPoint
from finmaas_platform.sdk.refs import DEFAULT_PROJECT
from finmaas_platform.sdk.transport import PATIENCE_S, Transport

OnUpdate = Callable[[Job, Sequence[MetricPoint]], None]
"""Called with the job as it now is and the metric points that are new since the last call."""
POLL_S = 1.0


class Jobs:
    """`client.jobs`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def submit(self, kind: str, spec: Mapping[str, Any], project: str = DEFAULT_PROJECT) -> Job:
        """Queues a job; `kind` is training or evaluation. InvalidSpec says what cannot work."""
        body = {"project": project, "kind": kind, "spec": dict(spec)}
        return Job.model_validate(self._http.write("POST", "/jobs", body))

    def validate(self, kind: str, spec: Mapping[str, Any], project: str = DEFAULT_PROJECT) -> dict[str, Any]:
        """Checks a spec and queues nothing; InvalidSpec says what cannot work."""
        body = {"project": project, "kind": kind, "spec": dict(spec)}
        return self._http.write("POST", "/jobs/validate", body) or {}

    def list(self, project: str | None = None, state: str | None = None, limit: int | None = None) -> Iterator[Job]:
        """The jobs of a project, or all in the caller's sight."""
        return self._http.pages(Job, "/jobs", limit=limit, project=project, state=state)

    def get(self, job_id: str) -> Job:
        """One job; NotFound."""
        return Job.model_validate(self._http.get(f"/jobs/{job_id}"))

    def cancel(self, job_id: str) -> Job:
        """Ends a job; one that has ended stays as it is."""
        return Job.model_validate(self._http.write("POST", f"/jobs/{job_id}/cancel"))

    def attempts(self, job_id: str) -> Iterator[Attempt]:
        """The tries at a job."""
        return self._http.pages(Attempt, f"/jobs/{job_id}/attempts")

    def metrics(self, job_id: str, after_step: int | None = None) -> Iterator[MetricPoint]:
        """The metric points after a step."""
        return self._http.pages(MetricPoint, f"/jobs/{job_id}/metrics", after_step=after_step)

    def wait(
        self,
        job_id: str,
        on_update: OnUpdate | None = None,
        *,
        timeout_s: float | None = None,
        poll_s: float = POLL_S,
    ) -> Job:
        """Returns the job once it has ended, in whatever state; Unavailable after `timeout_s`.

        `on_update` is called on each change of the job, and at least every `poll_s`. A control plane that restarts
        meanwhile is waited for; the job goes on without it.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        last_step: int | None = None
        job = self.get(job_id)
        while True:
            points = list(self.metrics(job_id, after_step=last_step)) if on_update is not None else []
            last_step = points[-1].step if points else last_step
            if on_update is not None:
                on_update(job, points)
            if job.is_finished:
                return job
            if deadline is not None and time.monotonic() > deadline:
                raise Unavailable(f"{job_id} is still {job.state} after {timeout_s:.0f} s: {job.reason}; it goes on")
            seen = self._http.get(f"/jobs/{job_id}", wait_s=poll_s, after_version=job.version)
            job = Job.model_validate(seen)

    def logs(self, job_id: str, *, follow: bool = False, offset: int = 0) -> Iterator[str]:
        """The lines of a job's log from a byte offset; `follow` goes on until the job has ended.

        A stream that breaks is taken up where it broke.
        """
        rest = b""
        broken_since: float | None = None
        while True:
            try:
                for chunk in self._http.stream_text(
                    f"/jobs/{job_id}/logs", follow="true" if follow else None, offset=offset
                ):
                    broken_since = None
                    offset += len(chunk)
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (line.decode(errors="replace") for line in lines)
                break
            except httpx.TransportError as error:
                broken_since = broken_since or time.monotonic()
                if time.monotonic() - broken_since > PATIENCE_S:
                    raise self._http.explain(error) from error
                time.sleep(POLL_S)  # the control plane restarts: there is nothing to wait on
        if rest:
            yield rest.decode(errors="replace")

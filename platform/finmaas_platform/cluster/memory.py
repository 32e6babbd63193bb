"""A cluster in memory: the adapter that unit tests and reconciler tests run on. Time moves only when told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from finmaas_core.errors import Unavailable
from finmaas_platform.cluster.port import (
    ApplicationState,
    JobSubmission,
    ObservedApplication,
    ObservedRun,
    RunState,
    ServeApplication,
)


class MemoryCluster:
    """Keeps submissions and applications as plain dicts.

    Tests drive it: `set_run`, `set_application` and `write_log` play the cluster's part, `down = True` makes every
    call raise Unavailable, and `lose_everything` is a head that died and came back empty.
    """

    def __init__(self) -> None:
        self.down = False
        self.submissions: dict[str, JobSubmission] = {}
        self.applications: dict[str, ServeApplication] = {}
        self.puts: list[tuple[ServeApplication, ...]] = []
        self._runs: dict[str, ObservedRun] = {}
        self._observed: dict[str, ObservedApplication] = {}
        self._logs: dict[str, str] = {}

    # --- the port ---------------------------------------------------------------------------------------------------

    def submit(self, submission: JobSubmission) -> None:
        self._answer()
        if submission.submission_id in self.submissions:
            return
        self.submissions[submission.submission_id] = submission
        self._runs[submission.submission_id] = ObservedRun(submission.submission_id, RunState.PENDING)

    def observe_runs(self) -> Mapping[str, ObservedRun]:
        self._answer()
        return dict(self._runs)

    def stop(self, submission_id: str) -> None:
        self._answer()
        run = self._runs.get(submission_id)
        if run and run.state in (RunState.PENDING, RunState.RUNNING):
            self._runs[submission_id] = replace(run, state=RunState.STOPPED)

    def read_logs(self, submission_id: str, offset: int = 0) -> str:
        self._answer()
        return self._logs.get(submission_id, "")[offset:]

    def put_applications(self, applications: Sequence[ServeApplication]) -> None:
        self._answer()
        self.puts.append(tuple(applications))
        wanted = {application.name: application for application in applications}
        for name, application in wanted.items():
            if self.applications.get(name) != application:
                self._observed[name] = ObservedApplication(
                    name, ApplicationState.DEPLOYING, args=dict(application.args)
                )
        for name in set(self._observed) - set(wanted):
            del self._observed[name]
        self.applications = wanted

    def observe_applications(self) -> Mapping[str, ObservedApplication]:
        self._answer()
        return dict(self._observed)

    # --- the cluster's part, played by the test -----------------------------------------------------------------------

    def set_run(self, submission_id: str, state: RunState, message: str = "") -> None:
        """Says what has become of a submission."""
        self._runs[submission_id] = ObservedRun(submission_id, state, message)

    def set_application(
        self, name: str, state: ApplicationState, message: str = "", replicas: Sequence[str] = ()
    ) -> None:
        """Says what has become of an application; its args stay."""
        args = self._observed[name].args
        self._observed[name] = ObservedApplication(name, state, message, tuple(replicas), args)

    def write_log(self, submission_id: str, text: str) -> None:
        """Appends to the log of a submission."""
        self._logs[submission_id] = self._logs.get(submission_id, "") + text

    def lose_everything(self) -> None:
        """Forgets all runs and applications, as a new head does."""
        for memory in (self.submissions, self.applications, self._runs, self._observed, self._logs):
            memory.clear()

    def _answer(self) -> None:
        if self.down:
            raise Unavailable("the cluster in memory is down; set `down = False`")

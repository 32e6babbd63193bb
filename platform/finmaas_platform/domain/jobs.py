"""Jobs: their states, their attempts, and the two decisions about them — who is admitted, and what to do next.

Pure: no clock, session, client or setting is met here. `plan_job` says what one job needs now; the reconciler in
`reconcile/jobs.py` carries it out. Every action is named after job and attempt: done twice, it does nothing more.

    queued ─► admitted ─► starting ─► running ─► succeeded
                 ▲            │          │
                 └── again ───┴──────────┤        an attempt that was lost, or failed and may be tried again
                                         ├─► failed
                                         └─► cancelled   (from every state that is not an end)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from finmaas_platform.cluster.port import ObservedRun, RunState

MAX_LIVE_JOBS = 2
"""How many jobs hold the cluster at once in the first cut of admission."""
MAX_FAILURES = 3
"""Attempts that may fail by the job's own fault: the first and two more. Losses by infrastructure do not count."""
LOSS_BACKOFF_MAX_S = 60.0
FAILURE_BACKOFF_S = 3.0
LINGER_S = 60.0
"""How long the run of a closed attempt may go on, and how long its log is asked for, before we stop trying."""
POLL_S = 1.0


class JobKind(StrEnum):
    """What a job does."""

    TRAINING = "training"
    EVALUATION = "evaluation"


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    ADMITTED = "admitted"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.ADMITTED, JobState.CANCELLED}),
    JobState.ADMITTED: frozenset({JobState.STARTING, JobState.CANCELLED}),
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.ADMITTED, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.ADMITTED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
FINISHED = frozenset(state for state, following in TRANSITIONS.items() if not following)
LIVE = frozenset({JobState.ADMITTED, JobState.STARTING, JobState.RUNNING})
"""States in which a job holds its share of the cluster."""


class AttemptState(StrEnum):
    """Where one attempt stands; the last four are ends."""

    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # by the job's own fault
    LOST = "lost"  # by the cluster's fault
    CANCELLED = "cancelled"


OPEN = frozenset({AttemptState.STARTING, AttemptState.RUNNING})


@dataclass(frozen=True)
class Attempt:
    """One try at a job. `submitted` holds once the cluster is known to have taken it."""

    number: int
    state: AttemptState
    submitted: bool = False
    closed_at: datetime | None = None
    log_kept: bool = False
    # What the job itself reported before it went, and whether another try is of no use.
    error: str = ""
    error_is_final: bool = False


@dataclass(frozen=True)
class Job:
    """A job as the plan sees it; `attempts` holds the open attempt and those whose log is not kept yet."""

    id: str
    state: JobState
    reason: str = ""
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    cancel_requested: bool = False
    not_before: datetime | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def open_attempt(self) -> Attempt | None:
        return next((a for a in self.attempts if a.state in OPEN), None)


def submission_id(job_id: str, attempt: int) -> str:
    """The name under which the cluster knows one attempt; it fences the attempt."""
    return f"{job_id}-{attempt}"


@dataclass(frozen=True)
class Submit:
    """Hand an attempt to the cluster."""

    attempt: int


@dataclass(frozen=True)
class Stop:
    """Ask the cluster to end an attempt's run."""

    attempt: int


@dataclass(frozen=True)
class KeepLog:
    """Store the end of an attempt's log, so that it outlives the cluster; `give_up` when there is none to be had."""

    attempt: int
    give_up: bool = False


Action = Submit | Stop | KeepLog


@dataclass(frozen=True)
class Plan:
    """What to do for a job now: first the actions, then the rest in one transaction."""

    state: JobState
    reason: str
    actions: tuple[Action, ...] = ()
    # Changes of attempts.
    opens_attempt: bool = False
    marks_submitted: bool = False
    closes_attempt: AttemptState | None = None
    # Bookkeeping of the job.
    counts_failure: bool = False
    counts_loss: bool = False
    wait_s: float = 0.0  # not before this long from now
    settled: bool = False  # nothing is left to do, ever
    next_look_s: float = POLL_S


# --- admission -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdmissionDecision:
    """Whether a waiting job may go, and why (not)."""

    job_id: str
    admitted: bool
    reason: str


def decide_admissions(queue: Sequence[Job], live: int, max_live: int = MAX_LIVE_JOBS) -> list[AdmissionDecision]:
    """Decides for each waiting job, oldest first; `live` jobs hold the cluster already."""
    decisions = []
    free = max(0, max_live - live)
    for position, job in enumerate(queue):
        if position < free:
            decisions.append(AdmissionDecision(job.id, True, "admitted; it starts as soon as the cluster takes it"))
            continue
        ahead = position - free
        waiting = "it is next" if ahead == 0 else f"{ahead} before it"
        decisions.append(
            AdmissionDecision(job.id, False, f"waits for its turn: {max_live} of {max_live} jobs run, {waiting}")
        )
    return decisions


# --- the plan of one job ---------------------------------------------------------------------------------------


def plan_job(job: Job, runs: Mapping[str, ObservedRun] | None, now: datetime) -> Plan:
    """What a job needs now. `runs` are all runs that the cluster knows; None: the cluster does not answer."""
    logs = _plan_logs(job, runs, now)
    if job.state in FINISHED:
        return _plan_settling(job, runs, logs)
    if runs is None:
        return Plan(job.state, _describe_absence(job))
    if job.cancel_requested:
        return _plan_cancel(job, runs, logs)
    if job.state is JobState.QUEUED:
        return Plan(job.state, job.reason, logs)
    if job.state is JobState.ADMITTED:
        return _plan_next_attempt(job, logs, now)
    return _plan_attempt(job, runs, logs, now)


def _describe_absence(job: Job) -> str:
    if job.cancel_requested:
        return "the cluster does not answer; the job is cancelled as soon as it is back"
    if job.state is JobState.RUNNING:
        return "the cluster does not answer; the job goes on, or is started again, when it is back"
    if job.state is JobState.QUEUED:
        return job.reason
    return "the cluster does not answer; the job starts when it is back"


def _plan_next_attempt(job: Job, logs: tuple[Action, ...], now: datetime) -> Plan:
    """An admitted job gets the row of its next attempt before anything is submitted under that number."""
    if job.not_before is not None and now < job.not_before:
        wait_s = (job.not_before - now).total_seconds()
        return Plan(job.state, job.reason, logs, next_look_s=min(POLL_S, wait_s))
    return Plan(
        JobState.STARTING,
        f"attempt {job.attempt + 1} is handed to the cluster",
        logs,
        opens_attempt=True,
        next_look_s=0,
    )


def _plan_attempt(job: Job, runs: Mapping[str, ObservedRun], logs: tuple[Action, ...], now: datetime) -> Plan:
    attempt = job.open_attempt
    assert attempt is not None, f"{job.id} is {job.state} without an open attempt"
    run = runs.get(submission_id(job.id, attempt.number))
    if run is None and not attempt.submitted:
        reason = f"attempt {attempt.number} is with the cluster and starts"
        return Plan(job.state, reason, (*logs, Submit(attempt.number)), marks_submitted=True)
    if run is None:
        return _plan_lost(job, attempt, "the cluster was restarted and does not know it any more", logs)
    if run.state in (RunState.PENDING, RunState.RUNNING):
        return _plan_watch(job, attempt, run, logs)
    if run.state is RunState.FAILED and not attempt.error and is_loss(run.message):
        return _plan_lost(job, attempt, shorten(run.message), logs)
    return _plan_failed(job, attempt, run, logs)


def _plan_watch(job: Job, attempt: Attempt, run: ObservedRun, logs: tuple[Action, ...]) -> Plan:
    if job.state is JobState.RUNNING:
        reason = f"attempt {attempt.number} runs"
    elif run.state is RunState.PENDING:
        reason = f"attempt {attempt.number} waits for free slots of the cluster"
    else:
        reason = f"attempt {attempt.number} is with the cluster and starts"
    return Plan(job.state, reason, logs, marks_submitted=not attempt.submitted)


def _plan_lost(job: Job, attempt: Attempt, cause: str, logs: tuple[Action, ...]) -> Plan:
    """The cluster's fault: tried again without limit, each time after a longer pause."""
    wait_s = min(LOSS_BACKOFF_MAX_S, 2.0 ** min(job.losses, 10) - 1)
    again = f"attempt {attempt.number + 1} starts " + ("at once" if wait_s == 0 else f"in {wait_s:.0f} s")
    return Plan(
        JobState.ADMITTED,
        f"attempt {attempt.number} was lost: {cause}; {again} from the last checkpoint",
        logs,
        closes_attempt=AttemptState.LOST,
        counts_loss=True,
        wait_s=wait_s,
        next_look_s=0,
    )


def _plan_failed(job: Job, attempt: Attempt, run: ObservedRun, logs: tuple[Action, ...]) -> Plan:
    """The job's own fault: tried again twice, unless the job says that this is of no use."""
    cause = attempt.error or _describe_end(run)
    if job.failures + 1 < MAX_FAILURES and not attempt.error_is_final:
        again = f"attempt {attempt.number + 1} starts in {FAILURE_BACKOFF_S:.0f} s"
        return Plan(
            JobState.ADMITTED,
            f"attempt {attempt.number} failed: {cause}; {again}",
            logs,
            closes_attempt=AttemptState.FAILED,
            counts_failure=True,
            wait_s=FAILURE_BACKOFF_S,
            next_look_s=0,
        )
    tries = "" if attempt.error_is_final or job.failures == 0 else f" (the last of {job.failures + 1} tries)"
    return Plan(
        JobState.FAILED,
        f"attempt {attempt.number} failed: {cause}{tries}",
        logs,
        closes_attempt=AttemptState.FAILED,
        counts_failure=True,
        next_look_s=0,
    )


def plan_refused(job: Job, cause: str) -> Plan:
    """The cluster answered, but will not take the open attempt: no other try would fare better."""
    reason = f"the cluster refuses attempt {job.attempt}: {shorten(cause)}"
    return Plan(JobState.FAILED, reason, closes_attempt=AttemptState.FAILED, counts_failure=True, next_look_s=0)


def _describe_end(run: ObservedRun) -> str:
    if run.state is RunState.SUCCEEDED:
        return "its process ended without handing in a result; see the log"
    if run.state is RunState.STOPPED:
        return "it was stopped on the cluster, not through finmaas"
    return shorten(run.message) or "its process failed; see the log"


def _plan_cancel(job: Job, runs: Mapping[str, ObservedRun], logs: tuple[Action, ...]) -> Plan:
    attempt = job.open_attempt
    if attempt is None:
        return Plan(JobState.CANCELLED, "cancelled before it ran", logs, next_look_s=0)
    run = runs.get(submission_id(job.id, attempt.number))
    if run is not None and run.state in (RunState.PENDING, RunState.RUNNING):
        return Plan(job.state, "is being cancelled", (*logs, Stop(attempt.number)))
    return Plan(JobState.CANCELLED, "cancelled", logs, closes_attempt=AttemptState.CANCELLED, next_look_s=0)


# --- closed attempts: end what lingers, keep the logs ----------------------------------------------------------


def _plan_settling(job: Job, runs: Mapping[str, ObservedRun] | None, logs: tuple[Action, ...]) -> Plan:
    """A finished job is settled once the log of each of its attempts is kept or given up."""
    waiting = {a.number for a in job.attempts if not a.log_kept}
    kept = {action.attempt for action in logs if isinstance(action, KeepLog)}
    settled = waiting <= kept
    return Plan(job.state, job.reason, logs, settled=settled, next_look_s=POLL_S if runs is not None else 5 * POLL_S)


def _plan_logs(job: Job, runs: Mapping[str, ObservedRun] | None, now: datetime) -> tuple[Action, ...]:
    if runs is None:
        return ()
    actions: list[Action] = []
    for attempt in job.attempts:
        if attempt.state in OPEN or attempt.log_kept:
            continue
        run = runs.get(submission_id(job.id, attempt.number))
        lingers = attempt.closed_at is not None and now - attempt.closed_at > timedelta(seconds=LINGER_S)
        if run is None:
            actions.append(KeepLog(attempt.number, give_up=True))
        elif run.state in (RunState.PENDING, RunState.RUNNING):
            # A fenced attempt wastes the cluster's time; one that just handed in its result may end by itself.
            if lingers or attempt.state is not AttemptState.SUCCEEDED:
                actions.append(Stop(attempt.number))
        else:
            actions.append(KeepLog(attempt.number, give_up=lingers))
    return tuple(actions)


# --- reading the cluster's messages ----------------------------------------------------------------------------

# Ray's words (2.60, dashboard/modules/job) when its own parts, not the entrypoint, gave up.
_LOSS_MARKS = (
    "job supervisor actor died",
    "job supervisor actor could not be scheduled",
    "job supervisor actor failed to start within",
    "job monitoring for job",
    "node died",
    "nodediederror",
    "actordiederror",
    "actorunavailableerror",
)
_OWN_MARKS = ("entrypoint command failed", "runtime environment", "runtime_env")


def is_loss(message: str) -> bool:
    """Whether a failed run failed by the cluster's fault: then it does not count against the job."""
    text = message.lower()
    if any(mark in text for mark in _OWN_MARKS):
        return False
    return any(mark in text for mark in _LOSS_MARKS)


def shorten(message: str, limit: int = 300) -> str:
    """A long message of the cluster as one line for a user: its last line that says something, cut at `limit`."""
    lines: Iterable[str] = (line.strip() for line in message.strip().splitlines())
    told = [line for line in lines if line]
    if not told:
        return ""
    text = told[0] if len(told) == 1 else f"{told[0].rstrip(':')} … {told[-1]}"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"

"""The log of a job: its attempts' logs one after the other, from the cluster while they run, from our rows after."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import undefer

from finmaas_core.errors import InvalidInput, Unavailable
from finmaas_platform.db.base import read_unit
from finmaas_platform.db.jobs import AttemptRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.deps import Deps
from finmaas_platform.domain.jobs import FINISHED, submission_id
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.jobs import get_job


@dataclass(frozen=True)
class LogPosition:
    """How far a reader has come: so many characters of an attempt. Attempt 0: not begun; `begun`: its header is out."""

    attempt: int = 0
    offset: int = 0
    begun: bool = False


@dataclass(frozen=True)
class LogPart:
    """What followed the position; `more` when there is more at once, `ended` when there will never be."""

    text: str
    position: LogPosition
    more: bool = False
    ended: bool = False


def read_job_log(deps: Deps, caller: Caller, job_id: str, position: LogPosition) -> LogPart:
    """The part of the log that follows a position. A cluster that does not answer has nothing new to tell."""
    job_ended, attempts = _load(deps, caller, job_id, position)
    if not attempts:
        return LogPart("", position, ended=job_ended)
    number, kept = attempts[0]
    offset = position.offset if position.attempt == number else 0
    header = f"--- attempt {number} ---\n" if number > 1 and not position.begun else ""
    text = kept[offset:] if kept is not None else _read_cluster(deps, submission_id(job_id, number), offset)
    if len(attempts) > 1:
        return LogPart(header + (text or ""), LogPosition(attempts[1][0]), more=True)
    # A finished job's log is whole once it is kept; until then its process may still be saying its last words.
    ended = job_ended and (kept is not None or text is None)
    return LogPart(header + (text or ""), LogPosition(number, offset + len(text or ""), True), ended=ended)


def _load(deps: Deps, caller: Caller, job_id: str, position: LogPosition) -> tuple[bool, list[tuple[int, str | None]]]:
    """Whether the job has ended; and the attempts from the position on, each with its log if that is kept."""
    with read_unit(deps.sessions) as session:
        job = get_job(session, caller, job_id)
        query = scoped(select(AttemptRow), caller).where(AttemptRow.job_id == job_id)
        query = query.where(AttemptRow.number >= position.attempt).order_by(AttemptRow.number)
        rows = session.scalars(query.options(undefer(AttemptRow.log)))
        return job.state in FINISHED, [(row.number, row.log) for row in rows]


def _read_cluster(deps: Deps, name: str, offset: int) -> str | None:
    try:
        return deps.cluster.read_logs(name, offset)
    except (Unavailable, InvalidInput):
        return None

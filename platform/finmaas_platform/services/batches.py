"""Batches: made, shown and cancelled by API keys; their lines settled one by one; each line charged once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, case, func, insert, or_, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.batches import BatchLineRow, BatchRow
from finmaas_platform.db.leases import break_lease, wake_after_commit
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.batches import (
    CANCELLABLE,
    ENDPOINTS,
    REPEATED,
    SETTLED,
    WINDOW,
    WINDOW_LENGTH,
    BatchState,
    Fault,
    Line,
    LineState,
    Outcome,
    check_metadata,
)
from finmaas_platform.domain.credentials import ANY_METHOD
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.audit import SYSTEM, record_audit
from finmaas_platform.services.files import BATCH_INPUT, KeyCaller, get_file
from finmaas_platform.services.projects import get_project
from finmaas_serving.gateway.router import METHOD_OF

RECONCILER = "batches"
MAX_OPEN = 20
"""Batches of one project that may wait or run at once."""
_LINE_ID = re.compile(r"(batch_[0-9a-z]{26})\.([0-9]{1,6})")
_FIELDS = frozenset(("input_file_id", "endpoint", "completion_window", "metadata"))


def line_id(batch_id: str, number: int) -> str:
    """What the request of a line is called, in every attempt."""
    return f"{batch_id}.{number}"


def create_batch(session: Session, owner: KeyCaller, now: datetime, body: Mapping[str, Any]) -> BatchRow:
    """A new batch over an uploaded file. InvalidInput names the field that cannot be used."""
    endpoint, file_id = _check_body(owner, body)
    file = get_file(session, owner, now, file_id)
    if file.purpose != BATCH_INPUT:
        raise InvalidInput(f"{file.id} is of the purpose {file.purpose}, not `batch`", param="input_file_id")
    _check_open(session, owner)
    row = BatchRow(
        id=new_id("batch"),
        tenant_id=owner.key.tenant_id,
        project_id=owner.project_id,
        key_id=owner.key.id,
        endpoint=endpoint,
        input_file_id=file.id,
        state=BatchState.VALIDATING,
        note=check_metadata(body.get("metadata")),
        faults=[],
        total=0,
        done=0,
        failed=0,
        created_at=now,
        expires_at=now + WINDOW_LENGTH,
        due_at=now,
    )
    session.add(row)
    after = {"endpoint": endpoint, "input_file": file.id}
    record_audit(session, owner.caller, now, "batch.create", row.id, after=after, tenant_id=row.tenant_id)
    wake_after_commit(session, RECONCILER)
    return row


def _check_body(owner: KeyCaller, body: Mapping[str, Any]) -> tuple[str, str]:
    for name in sorted(body.keys() - _FIELDS):
        raise InvalidInput(f"`{name[:100]}` is no field of a batch", param=name[:100])
    endpoint, file_id = body.get("endpoint"), body.get("input_file_id")
    if endpoint not in ENDPOINTS:
        raise InvalidInput(f"`endpoint` must be one of {', '.join(ENDPOINTS)}", param="endpoint")
    if body.get("completion_window") != WINDOW:
        raise InvalidInput(f"`completion_window` must be {WINDOW}", param="completion_window")
    if not isinstance(file_id, str):
        raise InvalidInput("`input_file_id` must name an uploaded file", param="input_file_id")
    if ANY_METHOD not in owner.key.methods and METHOD_OF[endpoint] not in owner.key.methods:
        raise NotAllowed(f"this key may not ask for {endpoint}; it may for {', '.join(owner.key.methods)}")
    return endpoint, file_id


def _check_open(session: Session, owner: KeyCaller) -> None:
    open_ones = select_batches(owner).where(BatchRow.state.not_in(SETTLED)).subquery()
    if (session.scalar(select(func.count()).select_from(open_ones)) or 0) >= MAX_OPEN:
        raise Conflict(f"{MAX_OPEN} batches of this project are open; wait until one has ended")


def select_batches(owner: KeyCaller) -> Select[BatchRow]:
    """The batches of the key's project."""
    return scoped(select(BatchRow), owner.caller).where(BatchRow.project_id == owner.project_id)


def get_batch(session: Session, owner: KeyCaller, batch_id: str) -> BatchRow:
    """A batch of the key's project; NotFound for every other."""
    row = session.scalar(select_batches(owner).where(BatchRow.id == batch_id))
    if row is None:
        raise NotFound(f"there is no batch {batch_id[:100]}", param="batch_id", openai_code="not_found")
    return row


def select_tenant_batches(session: Session, caller: Caller, project: str | None = None) -> Select[BatchRow]:
    """The batches of a principal's tenant, of one project if named."""
    query = scoped(select(BatchRow), caller)
    return query if project is None else query.where(BatchRow.project_id == get_project(session, caller, project).id)


def get_tenant_batch(session: Session, caller: Caller, batch_id: str) -> BatchRow:
    """A batch in a principal's sight; NotFound else."""
    row = session.scalar(select_tenant_batches(session, caller).where(BatchRow.id == batch_id))
    if row is None:
        raise NotFound(f"there is no batch {batch_id[:100]}; `finmaas batch list` shows yours")
    return row


def cancel_batch(session: Session, caller: Caller, now: datetime, row: BatchRow) -> BatchRow:
    """Asks for the end of a batch; what was answered stays; again: nothing changes. Conflict once it has ended."""
    if row.state == BatchState.CANCELLING:
        return row
    if row.state not in CANCELLABLE:
        raise Conflict(f"{row.id} is {row.state}, so it cannot be cancelled")
    record_audit(session, caller, now, "batch.cancel", row.id, tenant_id=row.tenant_id)
    row.state = BatchState.CANCELLING
    row.cancelling_at = now
    break_lease(row, now)
    wake_after_commit(session, RECONCILER)
    return row


# --- lines ---------------------------------------------------------------------------------------------------------


def store_lines(session: Session, row: BatchRow, lines: Sequence[Line]) -> None:
    """Notes the lines of a validated input, all of them pending."""
    values = [
        {
            "batch_id": row.id,
            "number": line.number,
            "tenant_id": row.tenant_id,
            "custom_id": line.custom_id,
            "offset": line.offset,
            "size_bytes": line.size,
            "state": LineState.PENDING.value,
            "attempts": 0,
            "charged": False,
        }
        for line in lines
    ]
    if values:
        session.execute(insert(BatchLineRow), values)


def find_pending(session: Session, batch_id: str, now: datetime, limit: int) -> Sequence[BatchLineRow]:
    """Lines that want an attempt now, in their order."""
    return session.scalars(
        select(BatchLineRow)  # unscoped: the reconciler serves all tenants
        .where(
            BatchLineRow.batch_id == batch_id,
            BatchLineRow.state == LineState.PENDING,
            or_(BatchLineRow.not_before.is_(None), BatchLineRow.not_before <= now),
        )
        .order_by(BatchLineRow.number)
        .limit(limit)
    ).all()


def settle_line(
    session: Session,
    line: BatchLineRow,
    outcome: Outcome,
    not_before: datetime | None,
    status: int | None,
    request_id: str | None,
    answer: str | None,
) -> bool:
    """Notes the outcome of an attempt; False when the line was settled before, which leaves it as it is."""
    result = session.execute(
        update(BatchLineRow)  # unscoped: the reconciler serves all tenants
        .where(
            BatchLineRow.batch_id == line.batch_id,
            BatchLineRow.number == line.number,
            BatchLineRow.state == LineState.PENDING,
        )
        .values(
            state=outcome.state.value,
            attempts=BatchLineRow.attempts + outcome.counts,
            not_before=not_before,
            status=status,
            request_id=request_id,
            answer=None if outcome.state is LineState.PENDING else answer,
        )
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    return result.rowcount == 1


def count_lines(session: Session, batch_id: str) -> tuple[int, int, int]:
    """How many lines are pending, done and failed."""
    query = select(
        *[
            func.coalesce(func.sum(case((BatchLineRow.state == state, 1), else_=0)), 0)
            for state in (LineState.PENDING, LineState.DONE, LineState.FAILED)
        ]
    ).where(BatchLineRow.batch_id == batch_id)
    pending, done, failed = session.execute(query).one()
    return int(pending), int(done), int(failed)


_FREE = {"reasoning_tokens": 0, "cost_nano": 0}


def charge_once(session: Session, records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Usage records as they count: of several answers to one line of a batch, one.

    A line runs twice when the control plane was killed after the answer and before it was noted. The first record that
    arrives counts, every other of the line is kept with nothing used; what it charges, `ledger.settle` takes for free.
    """
    return [_charge(session, record) for record in records]


def _charge(session: Session, record: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _LINE_ID.fullmatch(record["request_id"])
    if found is None or record["status"] != 200:
        return record
    line = (BatchLineRow.batch_id == found[1], BatchLineRow.number == int(found[2]))
    claimed = session.execute(
        update(BatchLineRow)  # unscoped: gateways report for all tenants
        .where(*line, BatchLineRow.charged.is_(False), BatchLineRow.tenant_id == record["tenant_id"])
        .values(charged=True)
        .execution_options(synchronize_session=False)
    )
    assert isinstance(claimed, CursorResult)
    if claimed.rowcount or not session.scalar(select(BatchLineRow.charged).where(*line)):  # unscoped: gateways report
        return record
    return {**record, "prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0, "finish": REPEATED, **_FREE}


def refuse_batch(session: Session, row: BatchRow, now: datetime, faults: Iterable[Fault]) -> dict[str, Any]:
    """What a batch becomes whose input cannot be used."""
    told = [
        {"code": fault.code, "message": fault.message, "line": fault.line, "param": fault.param} for fault in faults
    ]
    record_audit(session, SYSTEM, now, "batch.state", row.id, after={"state": "failed"}, tenant_id=row.tenant_id)
    return {"state": BatchState.FAILED.value, "faults": told, "settled_at": now, "due_at": None}


def show_batch(row: BatchRow) -> dict[str, Any]:
    """A batch as OpenAI's clients read it."""
    settled = None if row.settled_at is None else int(row.settled_at.timestamp())
    ends = {f"{state.value}_at": settled if row.state == state else None for state in SETTLED}
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "errors": {"object": "list", "data": row.faults} if row.faults else None,
        "input_file_id": row.input_file_id,
        "completion_window": WINDOW,
        "status": row.state,
        "output_file_id": row.output_file_id,
        "error_file_id": row.error_file_id,
        "created_at": int(row.created_at.timestamp()),
        "in_progress_at": _epoch(row.in_progress_at),
        "expires_at": _epoch(row.expires_at),
        "finalizing_at": _epoch(row.finalizing_at),
        "cancelling_at": _epoch(row.cancelling_at),
        **ends,
        "request_counts": {"total": row.total, "completed": row.done, "failed": row.failed},
        "metadata": row.note or None,
    }


def _epoch(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())

"""Moves batches on: checks an input, sends its lines through the gateway, writes what came back to files.

Lines go the way of every request, so keys, guardrails, allowances and metering hold for them. Each line's outcome is
noted by itself: a control plane that is killed runs again only what was not noted, under the same name, and a name is
charged once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import msgspec
from sqlalchemy import select, update

from finmaas_core.errors import InvalidInput
from finmaas_core.ids import new_id
from finmaas_core.telemetry import get_logger
from finmaas_platform.db.api_keys import ApiKeyRow
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.batches import BatchLineRow, BatchRow, FileRow
from finmaas_platform.db.leases import LEASE_S, claim, is_only_control_plane, release_all, update_leased
from finmaas_platform.deps import Deps
from finmaas_platform.domain.batches import (
    MAX_FAULTS,
    MAX_LINES,
    BatchState,
    Fault,
    Line,
    LineState,
    Step,
    check_line,
    decide_outcome,
    error_body,
    plan_batch,
    split_lines,
)
from finmaas_platform.domain.principals import Caller, CallerKind
from finmaas_platform.services.audit import SYSTEM, record_audit
from finmaas_platform.services.batches import (
    RECONCILER,
    count_lines,
    find_pending,
    line_id,
    refuse_batch,
    settle_line,
    store_lines,
)
from finmaas_platform.services.files import BATCH_OUTPUT, KeyCaller, store_file
from finmaas_registry.store import Stored
from finmaas_serving.gateway.batch_pass import make_batch_pass

POLL_S = 2.0
STEP_LINES = 64
STEP_S = LEASE_S / 3
"""A step takes no new line after this; it ends well before its lease does, unless an answer takes long."""
TIMEOUT_S = 660.0  # the gateway answers before that, if only with an error
ROWS_AT_ONCE = 500
log = get_logger()


@dataclass(frozen=True)
class Claimed:
    """A leased batch, and what its lines are sent with."""

    row: BatchRow
    token: str
    key: ApiKeyRow
    input_digest: str


class _StaleError(Exception):
    """The lease was broken meanwhile: nothing of what was planned is kept."""


class BatchReconciler:
    """The reconciler of batches; see `reconcile/loop.py` for how it is run."""

    name = RECONCILER

    def __init__(self, deps: Deps, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._deps = deps
        self._transport = transport

    def prepare(self) -> None:
        """Frees the leases of a killed predecessor."""
        if is_only_control_plane(self._deps.sessions):
            with unit_of_work(self._deps.sessions) as session:
                release_all(session, BatchRow, self._deps.clock.now())

    def run_once(self) -> float:
        """One step for the batch that has waited longest; returns the seconds until the next look."""
        claimed = self._claim()
        if claimed is None:
            return POLL_S
        try:
            self._step(claimed)
        except _StaleError:
            log.info("batch.plan_dropped", batch=claimed.row.id)
        except Exception:
            log.exception("batch.step_failed", batch=claimed.row.id)
            self._release(claimed, {"due_at": self._deps.clock.now() + timedelta(seconds=POLL_S)})
        return 0.0

    def _claim(self) -> Claimed | None:
        now = self._deps.clock.now()
        with unit_of_work(self._deps.sessions) as session:
            rows = claim(session, BatchRow, now, limit=1)
            if not rows:
                return None
            [row] = rows
            key, file = session.get_one(ApiKeyRow, row.key_id), session.get_one(FileRow, row.input_file_id)
            return Claimed(row, row.lease_token or "", key, file.digest)

    def _release(self, claimed: Claimed, values: dict[str, Any]) -> None:
        with unit_of_work(self._deps.sessions) as session:
            if not update_leased(session, claimed.row, claimed.token, values):
                log.info("batch.plan_dropped", batch=claimed.row.id)

    def _step(self, claimed: Claimed) -> None:
        row, now = claimed.row, self._deps.clock.now()
        with read_unit(self._deps.sessions) as session:
            pending, _, _ = count_lines(session, row.id)
        match plan_batch(BatchState(row.state), pending, row.expires_at, now):
            case Step.VALIDATE:
                self._validate(claimed)
            case Step.RUN:
                self._run(claimed)
            case Step.EXPIRE:
                self._finish(claimed, BatchState.EXPIRED)
            case Step.FINISH:
                cancelled = row.state == BatchState.CANCELLING
                self._finish(claimed, BatchState.CANCELLED if cancelled else BatchState.COMPLETED)

    # --- validate ----------------------------------------------------------------------------------------------------

    def _validate(self, claimed: Claimed) -> None:
        lines, faults = read_input(
            self._deps.store.open(claimed.input_digest), claimed.row.endpoint, self._deps.settings.max_request_bytes
        )
        now = self._deps.clock.now()
        with unit_of_work(self._deps.sessions) as session:
            values: dict[str, Any] = {"state": BatchState.IN_PROGRESS.value, "in_progress_at": now, "due_at": now}
            if faults:
                values = refuse_batch(session, claimed.row, now, faults)
            values["total"] = len(lines)
            if update_leased(session, claimed.row, claimed.token, values) and not faults:
                store_lines(session, claimed.row, lines)

    # --- run ---------------------------------------------------------------------------------------------------------

    def _run(self, claimed: Claimed) -> None:
        now = self._deps.clock.now()
        with read_unit(self._deps.sessions) as session:
            lines = find_pending(session, claimed.row.id, now, STEP_LINES)
        if lines:
            asyncio.run(self._send_all(claimed, list(lines)))
        with unit_of_work(self._deps.sessions) as session:
            _, done, failed = count_lines(session, claimed.row.id)
            now = self._deps.clock.now()
            due = now if lines else now + timedelta(seconds=POLL_S)
            update_leased(session, claimed.row, claimed.token, {"done": done, "failed": failed, "due_at": due})

    async def _send_all(self, claimed: Claimed, lines: list[BatchLineRow]) -> None:
        """Sends lines, a few at once, until all are sent or the step is over."""
        until = time.monotonic() + STEP_S
        waiting = iter(lines)
        async with httpx.AsyncClient(
            base_url=self._deps.settings.gateway_url, timeout=TIMEOUT_S, trust_env=False, transport=self._transport
        ) as gateway:

            async def work() -> None:
                for line in waiting:
                    await self._send(claimed, gateway, line)
                    if time.monotonic() > until or not self._renew(claimed):
                        return

            await asyncio.gather(*(work() for _ in range(self._deps.settings.batch_concurrency)))

    def _renew(self, claimed: Claimed) -> bool:
        """Keeps the lease; False when it was broken, because the batch was cancelled or another one took it."""
        now = self._deps.clock.now()
        with unit_of_work(self._deps.sessions) as session:
            result = session.execute(
                update(BatchRow)
                .where(BatchRow.id == claimed.row.id, BatchRow.lease_token == claimed.token)
                .values(lease_expires_at=now + timedelta(seconds=LEASE_S))
                .execution_options(synchronize_session=False)
            )
            return bool(result.rowcount)  # type: ignore[attr-defined]

    async def _send(self, claimed: Claimed, gateway: httpx.AsyncClient, line: BatchLineRow) -> None:
        """One attempt of one line, noted at once."""
        name = line_id(line.batch_id, line.number)
        credential = make_batch_pass(self._deps.secrets.pepper, claimed.key.hash, name, time.time())
        headers = {"authorization": f"Bearer {credential}", "content-type": "application/json"}
        body = read_body(self._deps.store.open(claimed.input_digest, line.offset), line.size_bytes)
        try:
            answer = await gateway.post(claimed.row.endpoint, content=body, headers=headers)
            status, text, after = answer.status_code, answer.text.replace("\x00", ""), _retry_after(answer)
        except httpx.HTTPError as error:
            log.info("batch.gateway_away", batch=line.batch_id, error=f"{type(error).__name__}: {error}")
            status, text, after = None, None, None
        outcome = decide_outcome(status, after, line.attempts + 1)
        not_before = self._deps.clock.now() + timedelta(seconds=outcome.wait_s) if outcome.wait_s else None
        with unit_of_work(self._deps.sessions) as session:
            settle_line(session, line, outcome, not_before, status, name, text)

    # --- finish ------------------------------------------------------------------------------------------------------

    def _finish(self, claimed: Claimed, end: BatchState) -> None:
        """Writes the files and settles the batch, in one transaction; bytes written for nothing name nothing."""
        row = claimed.row
        with read_unit(self._deps.sessions) as session:
            _, done, failed = count_lines(session, row.id)
        outputs = {
            state: self._write(row.id, state, end) for state in (LineState.DONE, LineState.FAILED, LineState.PENDING)
        }
        errors = self._join(outputs[LineState.FAILED], outputs[LineState.PENDING])
        now = self._deps.clock.now()
        owner = KeyCaller(claimed.key, Caller(CallerKind.NODE, SYSTEM.id, SYSTEM.name, tenant_id=row.tenant_id))
        with unit_of_work(self._deps.sessions) as session:
            values: dict[str, Any] = {
                "state": end.value, "settled_at": now, "finalizing_at": now, "due_at": None, "done": done,
                "failed": row.total - done if end is not BatchState.COMPLETED else failed,
            }  # fmt: skip
            for column, stored in (("output_file_id", outputs[LineState.DONE]), ("error_file_id", errors)):
                if stored.size:
                    name = f"{row.id}_{column.partition('_')[0]}.jsonl"
                    file = store_file(session, owner, now, name, BATCH_OUTPUT, stored)
                    values[column] = file.id
            if not update_leased(session, row, claimed.token, values):
                raise _StaleError
            forget = update(BatchLineRow).where(BatchLineRow.batch_id == row.id).values(answer=None)
            session.execute(forget.execution_options(synchronize_session=False))
            after = {"state": end.value, "done": done}
            record_audit(session, SYSTEM, now, "batch.state", row.id, after=after, tenant_id=row.tenant_id)

    def _write(self, batch_id: str, state: LineState, end: BatchState) -> Stored:
        return self._deps.store.put(self._told(batch_id, state, end))

    def _join(self, first: Stored, second: Stored) -> Stored:
        if not second.size or not first.size:
            return first if first.size else second

        def both() -> Iterator[bytes]:
            yield from self._deps.store.open(first.digest)
            yield from self._deps.store.open(second.digest)

        return self._deps.store.put(both())

    def _told(self, batch_id: str, state: LineState, end: BatchState) -> Iterator[bytes]:
        last = 0
        while True:
            with read_unit(self._deps.sessions) as session:
                rows = session.scalars(
                    select(BatchLineRow)  # unscoped: the reconciler serves all tenants
                    .where(BatchLineRow.batch_id == batch_id, BatchLineRow.state == state, BatchLineRow.number > last)
                    .order_by(BatchLineRow.number)
                    .limit(ROWS_AT_ONCE)
                ).all()
            if not rows:
                return
            last = rows[-1].number
            yield b"".join(tell_line(row, end) for row in rows)


def read_input(chunks: Iterator[bytes], endpoint: str, max_bytes: int) -> tuple[list[Line], list[Fault]]:
    """The lines of an input, or its faults, of which the first are named."""
    lines: list[Line] = []
    faults: list[Fault] = []
    names: dict[str, int] = {}
    try:
        for number, offset, raw in split_lines(chunks, max_bytes):
            read = check_line(number, offset, raw, endpoint)
            if isinstance(read, Line) and (first := names.setdefault(read.custom_id, number)) != number:
                why = f"line {number}: `custom_id` is that of line {first}"
                read = Fault("duplicate_custom_id", why, number, "custom_id")
            if isinstance(read, Fault):
                faults.append(read)
            else:
                lines.append(read)
            if len(lines) > MAX_LINES or len(faults) >= MAX_FAULTS:
                break
    except InvalidInput as error:
        faults.append(Fault("line_too_long", error.message))
    if len(lines) > MAX_LINES:
        faults.append(Fault("too_many_lines", f"a batch takes at most {MAX_LINES} lines; split the file"))
    if not lines and not faults:
        faults.append(Fault("empty_file", "the file holds no line"))
    return lines, faults


def read_body(chunks: Iterator[bytes], size: int) -> bytes:
    """The body of the request in a line, letter by letter."""
    raw = b""
    for chunk in chunks:
        raw += chunk
        if len(raw) >= size:
            break
    return bytes(msgspec.json.decode(raw[:size], type=dict[str, msgspec.Raw])["body"])


def tell_line(row: BatchLineRow, end: BatchState) -> bytes:
    """A line of the output or error file."""
    told: dict[str, Any] = {"id": new_id("batch_line"), "custom_id": row.custom_id, "response": None, "error": None}
    if row.state == LineState.PENDING:
        name, why = ("batch_expired", "ran out of time") if end is BatchState.EXPIRED else ("batch_cancelled", "ended")
        told["error"] = error_body(name, f"the batch {why} before this line was answered")
    else:
        told["response"] = {"status_code": row.status, "request_id": row.request_id, "body": _as_json(row.answer)}
    return msgspec.json.encode(told) + b"\n"


def _as_json(answer: str | None) -> Any:
    raw = (answer or "").encode()
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return answer
    return msgspec.Raw(raw)


def _retry_after(answer: httpx.Response) -> float | None:
    given = answer.headers.get("retry-after", "")
    return float(given) if given.isascii() and given.isdigit() else None

"""One request on its way to a replica and back: turns, attempts, rewriting, and its usage record.

The order at the end is fixed: the record is in the spool, then the last bytes go to the client. A request is sent
again, to another replica or another target, only while its client has seen nothing and no guardrail has read an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from finmaas_core.errors import Corrupt, FinmaasError, StoreFull
from finmaas_serving.gateway import errors, wire
from finmaas_serving.gateway.answer import engine_problem
from finmaas_serving.gateway.body import CallBody
from finmaas_serving.gateway.bounded import Bounded
from finmaas_serving.gateway.cache import Slot
from finmaas_serving.gateway.context import Gateway
from finmaas_serving.gateway.course import Course
from finmaas_serving.gateway.errors import Problem, problem_of
from finmaas_serving.gateway.quiet import Say, choose_words, quiet_problem, quiet_stream
from finmaas_serving.gateway.schemas import Usage, UsageRecord
from finmaas_serving.gateway.shapes import Rewriter, Screen, Shape
from finmaas_serving.gateway.snapshot import Key, Route
from finmaas_serving.gateway.spending import Spending
from finmaas_serving.gateway.tally import COMPLETE
from finmaas_serving.gateway.upstream import Exchange

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from finmaas_serving.gateway.holds import Hold
    from finmaas_serving.gateway.upstream import Replica, UpstreamConnection

CLIENT_LEFT, UPSTREAM_FAILED = "client_left", "upstream_failed"
_NO_ROOM: Final = StoreFull(
    "the gateway cannot record usage: its disk is full; the operator has to free room", retry_after_s=30
)
WITHHELD: Final = "withheld"  # a guardrail refused the answer
MAX_CLAIMS: Final = 8  # what a spool frame has room for
CACHE: Final = "cache"  # who counted: nobody, the answer had been kept
ELSEWHERE: Final = frozenset((401, 403, 404, 405, 408, 429, 502, 503, 504))  # another replica may know better


class Client(Protocol):
    """The client's side, as a call sees it."""

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"") -> None: ...

    def refuse(self, problem: Problem) -> None: ...

    def start_stream(self, content_type: bytes, extra: bytes = b"") -> None: ...

    def send(self, data: bytes) -> None: ...

    def end_stream(self) -> None: ...

    def break_off(self, data: bytes) -> None:
        """Sends the last bytes of a stream that cannot be completed, and closes."""


class Call(Spending):
    """A call of a model; lives from the whole request to the last byte of the answer."""

    __slots__ = (
        "_at",
        "_client",
        "_content_type",
        "_counted_by",
        "_has_judge",
        "_put_off",
        "_recorded",
        "_screen",
        "_slot",
        "_started",
        "_status",
        "_streaming",
        "_timer",
        "_usage",
    )

    def __init__(
        self,
        gateway: Gateway,
        client: Client,
        request_id: str,
        shape: Shape,
        key: Key,
        route: Route,
        body: CallBody,
        screen: Screen | None = None,
        slot: Slot | None = None,
        span: Span | None = None,
        course: Course | None = None,
        timeout_s: float | None = None,
    ) -> None:
        super().__init__(gateway, request_id, shape, key, route, body, course, timeout_s)
        self._screen = screen
        self._slot = slot
        self._span = span
        self._client = client
        self._at = time.time()
        self._started = time.monotonic()  # uvloop's own clock stands still between turns, in steps of a millisecond
        self._timer: asyncio.TimerHandle | None = None
        self._usage: Usage | None = None
        self._status = 0
        self._content_type = wire.JSON
        self._counted_by = ""
        self._streaming = False  # the client has the head of a stream
        self._hold = None
        self._upstream_ended = False
        self._recorded = True  # nothing to record until room is set aside
        self._has_judge = False  # whoever gets the answer says what became of it
        self._put_off = False  # the engine is through, and the record waits for the judge

    def answer_to(self, judge: Client) -> None:
        """Gives the answer to a judge, who then says `conclude` or `withhold`, before its client has the last of it."""
        self._client = judge
        self._has_judge = True

    def start(self) -> None:
        """Sets room for the record aside and sends the request off; answers with the reason when it cannot."""
        if not self._gateway.spool.reserve():
            self._client.refuse(problem_of(_NO_ROOM))
            return
        self._recorded = False
        self._gateway.running += 1
        if self._slot is not None and (held := self._slot.find(self._gateway.loop.time())) is not None:
            self._answer_again(held)
            return
        if self._due is not None:
            self._timer = self._gateway.loop.call_at(self._due, self._too_late)
        self._pay_and_enter()

    def take_over(self, at: float, started: float, deadline: float, hold: Hold | None) -> None:
        """Goes on with a call that has begun: room for its record is set aside, `hold` reserved or asked for."""
        self._at, self._started, self._deadline, self._hold = at, started, deadline, hold
        self._recorded = False

    def take_over_exchange(self, replica: Replica, connection: UpstreamConnection) -> Exchange:
        """… and that a replica has been asked for."""
        self._attempts = self._here = 1
        self._judged = False
        self._replica = replica
        self._exchange = Exchange(replica, self, connection)
        return self._exchange

    @property
    def exchange(self) -> Exchange | None:
        return self._exchange

    @property
    def runs(self) -> bool:
        return not self._recorded and not self._put_off

    def client_gone(self) -> None:
        """The client left: the connection to the replica is closed at once, which stops the engine."""
        if self._recorded:
            return
        if self._exchange is not None:
            self._exchange.cancel()
        if self._attempts:
            self._try_record(499, CLIENT_LEFT)
        else:
            self._withdraw()

    def withhold(self) -> None:
        """A judge refuses the answer: the engine stops, and what it used is recorded."""
        if self._recorded:
            return
        if self._exchange is not None:
            self._exchange.cancel()
            self._exchange = None
        self._try_record(200, WITHHELD)

    def conclude(self) -> bool:
        """The judge lets the answer through: its record is written. False: it could not be, and the client hears so."""
        return not self._put_off or self._try_record(200, COMPLETE)

    def pause(self) -> None:
        """The client reads too slowly."""
        self._paused_at = self._gateway.loop.time()
        if self._exchange is not None:
            self._exchange.pause()

    def resume(self) -> None:
        self._paused_at = None
        self._deadline = self._gateway.loop.time() + self._gateway.limits.gap_s
        if self._exchange is not None:
            self._exchange.resume()

    def overdue(self, now: float) -> bool:
        """Ends the call when its replica has been silent too long; True when it is the client that does not read."""
        if self._paused_at is not None:
            return now > self._paused_at + self._gateway.limits.stalled_s
        if now > self._deadline and self.runs:
            if self._exchange is not None:
                self._exchange.cancel()
            self._fail(errors.upstream_timeout("no answer in time"))
        return False

    def upstream_failed(self, what: str, *, answered: bool, reused: bool) -> None:
        self._exchange = None
        if self._recorded:
            return
        if self._rewriter is not None and self._rewriter.done:
            self._complete_stream()
            return
        if self._is_kept_back():
            self._upstream_ended = True
            return
        if not answered and self._here < self._gateway.limits.attempts:
            if reused:  # a kept connection may just have been closed for its age
                self._attempt()
                return
            self._judge(ok=False)
            if self._try_again():
                return
        self._fail(errors.upstream_failed(what))

    def _too_late(self) -> None:
        """The client's own deadline has come."""
        if self._recorded:
            return
        if self._exchange is not None:
            self._exchange.cancel()
        self._course = None  # no time is left for another target
        problem = errors.deadline_exceeded("waiting for its turn" if not self._attempts else "waiting for the model")
        if self._attempts:
            self._fail(problem)
        else:
            self._give_up(problem)

    # The way back.

    def upstream_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._status = status
        self._content_type = headers.get(b"content-type", wire.JSON)
        self._deadline = self._gateway.loop.time() + self._gateway.limits.gap_s
        if status == 200 and self._body.stream and self._content_type.startswith(b"text/event-stream"):
            self._rewriter = self._shape.rewriter(self._target.model_name, self._body, self._screen)
            self._limit(self._rewriter)

    def upstream_body(self, data: bytes) -> None:
        self._parts.append(data)
        self._bytes += len(data)

    def upstream_read(self) -> None:
        rewriter = self._rewriter
        if rewriter is None:
            if self._bytes > self._gateway.limits.answer_bytes:
                self._drop("its answer is too long")
            return
        parts = self._parts
        if not parts:
            return
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._pass_on(rewriter, data)

    def _pass_on(self, rewriter: Rewriter, data: bytes, *, cut: bool = False) -> None:
        try:
            out = rewriter.cut() if cut and isinstance(rewriter, Bounded) else rewriter.feed(data)
        except Corrupt as error:
            self._drop(error.message)
            return
        self._deadline = self._gateway.loop.time() + self._gateway.limits.gap_s
        if self._ttft is None:
            self._ttft = time.monotonic() - self._started
        withheld = self._screen is not None and self._screen.withheld is not None
        finish = WITHHELD if withheld else UPSTREAM_FAILED if rewriter.failed else COMPLETE
        if rewriter.done and not self._try_record(200, finish):
            return
        if out:
            self._forward(quiet_stream(out, self._words()) if rewriter.failed else out)
        if (withheld or cut) and self._exchange is not None:  # the engine need not go on
            self._exchange.cancel()
            self._exchange = None
            self._complete_stream()
        elif cut:
            self._complete_stream()
        elif self._hold is not None:
            self._keep_ahead(rewriter)

    def upstream_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        content_type = headers.get(b"content-type", wire.JSON)
        if (
            self._body.stream or len(body) > self._gateway.limits.answer_bytes
        ):  # a stream in one piece is one all the same
            self.upstream_head(status, headers)
            self.upstream_body(body)
            self.upstream_read()
            self.upstream_done()
            return
        self._status, self._content_type, self._exchange = status, content_type, None
        if not self._recorded:
            self._answer(body)

    def upstream_done(self) -> None:
        self._exchange = None
        if self._rewriter is not None:
            if self._rewriter.done:
                self._complete_stream()
            elif self._is_kept_back():
                self._upstream_ended = True
            elif not self._recorded:
                self._fail(errors.upstream_failed("its stream ended before it was complete"))
        elif not self._recorded:
            self._answer(b"".join(self._parts))

    def _forward(self, data: bytes) -> None:
        if not self._streaming:
            self._streaming = True
            self._client.start_stream(self._content_type, self._answered_by() + self._allowance_lines())
        self._client.send(data)

    def _complete_stream(self) -> None:
        if self._streaming:
            self._client.end_stream()
        else:
            self._client.break_off(b"")

    def _answer(self, body: bytes) -> None:
        """An answer in one piece: read, recorded, sent."""
        if self._status != 200:
            problem = engine_problem(self._status, body, self._shape.path if self._shape.optional else None)
            if problem.status >= 500 and self._again_after(self._status):
                return
            finish = COMPLETE if problem.status < 500 else UPSTREAM_FAILED
            if self._try_record(problem.status, finish):
                self._client.refuse(quiet_problem(problem, self._words()))
            return
        try:
            body, self._usage = self._shape.read_answer(body, self._target.model_name, self._body.model)
            if self._slot is not None and self._slot.target_id == self._target.endpoint_id:
                self._slot.store(body, self._gateway.loop.time())
            if self._screen is not None:
                self._screened = True
                body = self._screen.answer(body)
        except Corrupt as error:
            self._fail(errors.upstream_failed(error.message))
            return
        self._ttft = time.monotonic() - self._started
        withheld = self._screen is not None and self._screen.withheld is not None
        lines = self._answered_by() if self._hold is None else self._answered_by() + self._allowance_lines()
        if self._try_record(200, WITHHELD if withheld else COMPLETE):
            self._client.respond(200, self._content_type, body, lines)

    def _words(self) -> Say | None:
        return choose_words(self._role, self._gateway.snapshots.current.guards.get(self._key.project_id), self._screen)

    def _again_after(self, status: int) -> bool:
        """Whether a refusal of the engine is answered by another replica or target; both see the request anew."""
        self._judge(ok=False)
        several = len(self._gateway.replicas_of(self._target, self._course)) > len(self._tried) + 1
        if status in ELSEWHERE and several and self._here < self._gateway.limits.attempts:
            self._parts.clear()
            self._bytes = 0
            return self._try_again()
        return self._go_elsewhere()

    def _answer_again(self, body: bytes) -> None:
        """An answer that was kept: screened anew; no engine worked for it, so no token is counted."""
        if self._screen is not None:
            body = self._screen.answer(body)
        withheld = self._screen is not None and self._screen.withheld is not None
        self._counted_by = CACHE
        if self._try_record(200, WITHHELD if withheld else COMPLETE):
            self._client.respond(200, wire.JSON, body, b"x-finmaas-cache: hit\r\n")

    def _drop(self, what: str) -> None:
        """The replica answers something that cannot be passed on."""
        if self._exchange is not None:
            self._exchange.cancel()
        self._fail(errors.upstream_failed(what))

    def _fail(self, problem: Problem) -> None:
        """The answer cannot be completed: another target, an error instead, or one at the end of what was sent."""
        self._exchange = None
        if self._go_elsewhere():
            return
        if not self._try_record(problem.status, UPSTREAM_FAILED):
            return
        if self._streaming:
            self._client.break_off(self._shape.problem_event(problem))
        else:
            self._client.refuse(problem)

    def _give_up(self, problem: Problem) -> None:
        """No replica took the request, so there is nothing to record."""
        if self._attempts:
            self._fail(problem)
            return
        self._withdraw()
        self._client.refuse(problem)

    def _refuse_unsent(self, problem: Problem) -> None:
        """The present target may not have the request, so the last problem of those asked before does not matter."""
        self._judged = True
        self._course = None
        if self._attempts == 1:
            self._attempts = 0
        self._give_up(problem)

    def _withdraw(self) -> None:
        """Ends a call that no replica was asked for: there is nothing to record."""
        self._recorded = True
        self._let_go()
        self._leave_lane()
        self._stop_timer()
        self._gateway.running -= 1
        self._gateway.spool.give_back()
        if self._span is not None:
            self._span.end()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # The record.

    def _try_record(self, status: int, finish: str) -> bool:
        """Writes the usage record; when that fails the client gets an error in place of the rest of its answer."""
        if self._recorded:
            return True
        if self._has_judge and not self._put_off and status == 200 and finish == COMPLETE:
            self._put_off = True
            self._judge(ok=True)
            self._leave_lane()
            self._stop_timer()
            return True
        self._recorded = True
        self._gateway.running -= 1
        if finish != CLIENT_LEFT:
            self._judge(ok=finish != UPSTREAM_FAILED)
        elif self._replica is not None:
            self._replica.probing = False
        if self._lane is not None:
            self._leave_lane()
        if self._timer is not None:
            self._timer.cancel()
        record = self._record(status, finish)
        self._gateway.tally.observe(self._route.name, self._key.project, record)
        if self._span is not None and self._gateway.tracing is not None:
            self._gateway.tracing.end(self._span, record, self._target.model_version)
        try:
            self._gateway.spool.append(record)
        except StoreFull as error:
            self._unrecorded(error)
            return False
        return True

    def _unrecorded(self, error: FinmaasError) -> None:
        self._gateway.spool.broken = True
        if self._exchange is not None:
            self._exchange.cancel()
        if self._streaming:
            self._client.break_off(self._shape.problem_event(problem_of(error)))
        else:
            self._client.refuse(problem_of(error))

    def _record(self, status: int, finish: str) -> UsageRecord:
        usage = self._rewriter.usage if self._rewriter is not None else self._usage
        count = usage or (self._rewriter.estimate if self._rewriter is not None else Usage())
        key, route = self._key, self._route
        record = UsageRecord(
            request_id=self._request_id,
            at=datetime.fromtimestamp(self._at, UTC),
            key_id=key.key_id,
            project_id=key.project_id,
            tenant_id=key.tenant_id,
            endpoint_id=route.endpoint_id,
            model_version_id=self._target.model_version_id,
            path=self._shape.path,
            status=status,
            stream=self._body.stream,
            prompt_tokens=count.prompt_tokens,
            completion_tokens=count.completion_tokens or 0,
            cached_tokens=count.cached_tokens,
            ttft_ms=None if self._ttft is None else round(self._ttft * 1000, 3),
            duration_ms=round((time.monotonic() - self._started) * 1000, 3),
            replica=self._replica.name if self._replica is not None else None,
            finish=finish,
            target_id=self._target.endpoint_id,
            failed_target_id=self._failed_target,
            traffic=self._role,
            attempts=self._attempts,
            claims=self._screen.claims[:MAX_CLAIMS] if self._screen is not None else [],
            counted_by=self._counted_by or ("engine" if usage is not None else "gateway"),
        )
        self._charge(record, count)
        return record

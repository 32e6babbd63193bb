"""The way of one request to who answers it: its turn, its target, its replica, and again elsewhere when they fail.

Knows nothing of what the client sees, of answers or of usage: that is the call's, which is built on this.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from finmaas_core.errors import FinmaasError
from finmaas_serving.gateway import wire
from finmaas_serving.gateway.balance import choose_replica, opening_of, prefix_of
from finmaas_serving.gateway.errors import Problem, problem_of
from finmaas_serving.gateway.router import not_ready
from finmaas_serving.gateway.traffic import CANARY, SHADOW
from finmaas_serving.gateway.upstream import Exchange, Replica

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from finmaas_serving.gateway.body import CallBody
    from finmaas_serving.gateway.context import Gateway
    from finmaas_serving.gateway.course import Course
    from finmaas_serving.gateway.fair import Entry
    from finmaas_serving.gateway.lanes import Lane, Waiter
    from finmaas_serving.gateway.shapes import Rewriter, Shape
    from finmaas_serving.gateway.snapshot import Key, Route

USUAL_TOKENS: Final = 256  # of an answer, where the request names no bound
BYTES_PER_TOKEN: Final = 4


class Journey:
    """Asks the targets of a request, one after the other, each at replicas that take it."""

    __slots__ = (
        "_attempts",
        "_body",
        "_bytes",
        "_course",
        "_deadline",
        "_due",
        "_entry",
        "_exchange",
        "_failed_target",
        "_gateway",
        "_here",
        "_judged",
        "_key",
        "_lane",
        "_parts",
        "_paused_at",
        "_replica",
        "_request_id",
        "_rewriter",
        "_role",
        "_route",
        "_screened",
        "_shape",
        "_span",
        "_target",
        "_tried",
        "_ttft",
        "_turn_at",
    )

    def __init__(
        self,
        gateway: Gateway,
        request_id: str,
        shape: Shape,
        key: Key,
        route: Route,
        body: CallBody,
        course: Course | None,
        timeout_s: float | None,
    ) -> None:
        now = gateway.loop.time()
        self._gateway = gateway
        self._request_id = request_id
        self._shape = shape
        self._key = key
        self._route = route  # what was called, and is billed
        self._course = course
        self._target = route if course is None else course.hop.route  # what is asked
        self._role = "" if course is None else course.hop.role
        self._body = body
        self._deadline = now + gateway.limits.first_byte_s
        self._due = None if timeout_s is None else now + timeout_s  # the client's own deadline
        self._paused_at: float | None = None
        self._lane: Lane | None = None  # where it has a turn, or waits for one
        self._entry: Entry[Waiter] | None = None  # its place while it waits
        self._turn_at = 0.0
        self._attempts = 0
        self._here = 0  # of those, at the present target
        self._judged = True  # the present attempt's outcome is known to breaker and canary
        self._failed_target: str | None = None  # the first one that was asked in vain
        self._tried: list[Replica] = []
        self._exchange: Exchange | None = None
        self._replica: Replica | None = None
        self._rewriter: Rewriter | None = None
        self._screened = False  # a guardrail has read of the answer
        self._parts: list[bytes] = []
        self._bytes = 0
        self._ttft: float | None = None
        self._span: Span | None = None

    @abstractmethod
    def _give_up(self, problem: Problem) -> None:
        """No target took the request."""

    @abstractmethod
    def _refuse_unsent(self, problem: Problem) -> None:
        """The present target may not have the request."""

    # Of an exchange's sink.

    @abstractmethod
    def upstream_head(self, status: int, headers: Mapping[bytes, bytes]) -> None: ...

    @abstractmethod
    def upstream_body(self, data: bytes) -> None: ...

    @abstractmethod
    def upstream_read(self) -> None: ...

    @abstractmethod
    def upstream_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None: ...

    @abstractmethod
    def upstream_done(self) -> None: ...

    @abstractmethod
    def upstream_failed(self, what: str, *, answered: bool, reused: bool) -> None: ...

    # Its turn.

    def _enter(self) -> None:
        """Asks for a turn at the target; one without a bound takes all."""
        target = self._target
        if not target.terms.concurrency:
            self._attempt()
            return
        gateway, key = self._gateway, self._key
        lane = gateway.lane_of(target)
        until = gateway.loop.time() + gateway.limits.first_byte_s if self._due is None else self._due
        try:
            if self._role == SHADOW:
                lane.enter_aside(key.tenant_id)
                entry = None
            else:
                entry = lane.enter(self, key.tenant_id, batch=key.batch or bool(key.line), until=until)
        except FinmaasError as error:
            self.turned_away(error)
            return
        self._lane, self._entry = lane, entry
        if entry is None:
            self.turn_came()

    def turn_came(self) -> None:
        self._entry = None
        self._turn_at = self._gateway.loop.time()
        self._attempt()

    def turned_away(self, error: FinmaasError) -> None:
        self._lane = self._entry = None
        if not self._go_elsewhere():
            self._give_up(problem_of(error))

    def cost(self) -> float:
        """What it asks of the engine, in tokens, about: the whole prompt and as long an answer as may come."""
        fields = self._body.fields
        prompt = sum([len(memoryview(fields[name])) for name in ("messages", "prompt", "input") if name in fields])
        bound = fields.get("max_tokens") or fields.get("max_completion_tokens") or fields.get("max_output_tokens")
        digits = bytes(bound) if bound is not None else b""
        return prompt / BYTES_PER_TOKEN + (int(digits) if digits.isdigit() and len(digits) < 9 else USUAL_TOKENS)

    def _leave_lane(self) -> None:
        lane, entry = self._lane, self._entry
        self._lane = self._entry = None
        if lane is None:
            return
        if entry is not None:
            lane.withdraw(entry)
        else:
            lane.leave(self._key.tenant_id, self._gateway.loop.time() - self._turn_at)

    # The way there.

    def _attempt(self) -> None:
        gateway, target = self._gateway, self._target
        replicas = gateway.replicas_of(target, self._course)
        now = gateway.loop.time()
        ring = prefix = None
        if len(replicas) > 1 and self._shape.salted:
            ring, prefix = gateway.replicas.ring_of(target.app), self._prefix()
        replica = choose_replica(replicas, self._tried, now, gateway.next_turn(), ring, prefix)
        if replica is None:
            if not self._go_elsewhere():
                self._give_up(problem_of(not_ready(target)))
            return
        self._attempts += 1
        self._here += 1
        self._judged = False
        self._replica = replica
        if replica.failed_until:
            replica.note_sent()
        course = self._course
        if course is not None and course.traffic.first_byte_s is not None:
            self._deadline = now + course.traffic.first_byte_s
        try:
            request = self._request(replica)
        except FinmaasError as error:  # what may not leave the house does not
            self._refuse_unsent(problem_of(error))
            return
        self._exchange = Exchange(replica, self)
        self._exchange.start(request, gateway.loop, gateway.outbox)
        if self._paused_at is not None:
            self._exchange.pause()

    def _request(self, replica: Replica) -> bytes:
        """The bytes for the present target. Serve mounts each application under its own name."""
        gateway, target, shape = self._gateway, self._target, self._shape
        course = self._course
        if course is not None and (provider := course.hop.provider) and (outside := gateway.outside.find(provider)):
            path = outside.path + shape.path.removeprefix("/v1")
            body = gateway.outside.body_for(shape, self._body, target.model_name)
            return wire.upstream_request(path.encode(), replica.host_header, self._attempt_id(), body, outside.door)
        salt = gateway.cache_salt_of(self._key.tenant_id) if shape.salted else None
        body = shape.engine_body(self._body, target.model_name, salt)
        door = gateway.snapshots.current.replica_header
        if self._span is not None:
            door += self._gateway.tracing.header_of(self._span) if self._gateway.tracing else b""
        path = f"/{target.app}{shape.path}"
        return wire.upstream_request(path.encode(), replica.host_header, self._attempt_id(), body, door)

    def _prefix(self) -> int | None:
        if self._body.usual is not None:
            return opening_of(self._key.tenant_id, self._body.raw)
        fields = self._body.fields
        text = fields.get("messages") or fields.get("prompt") or fields.get("input")
        return None if text is None else prefix_of(self._key.tenant_id, memoryview(text))

    def _attempt_id(self) -> bytes:
        """The request id as the engine sees it: a second attempt must not look like the first one coming twice."""
        tail = f"-{self._attempts}" if self._attempts > 1 else ""
        return f"{self._request_id}{tail}".encode()

    def _try_again(self) -> bool:
        """At another replica of the target; at the same one only where there is nothing else."""
        if self._replica is not None:
            self._tried.append(self._replica)
        replicas = self._gateway.replicas_of(self._target, self._course)
        fresh = any(one not in self._tried for one in replicas)
        if not fresh and self._course is not None and self._course.more:
            return False
        self._attempt()
        return True

    def _go_elsewhere(self) -> bool:
        """To the next target of the course, while the client has seen nothing; False when there is none."""
        course = self._course
        if course is None or self._rewriter is not None or self._screened or not course.go_on():
            return False
        if self._here and self._failed_target is None:
            self._failed_target = self._target.endpoint_id
        self._judge(ok=False)
        self._leave_lane()
        self._target, self._role = course.hop.route, course.hop.role
        self._exchange = None
        self._tried.clear()
        self._parts.clear()
        self._bytes = self._here = 0
        self._deadline = self._gateway.loop.time() + self._gateway.limits.first_byte_s
        self._enter()
        return True

    def _judge(self, *, ok: bool) -> None:
        """Tells breaker and canary how the present attempt went; once each."""
        replica = self._replica
        if self._judged or replica is None:
            return
        self._judged = True
        if not ok:
            replica.note_failure(self._gateway.loop.time())
        elif replica.failures:
            replica.note_answer()
        if self._role == CANARY and self._course is not None:
            self._gateway.note_canary(self._course, failed=not ok, first_byte_s=self._ttft)

    def _answered_by(self) -> bytes:
        """Who answered, for the client, as header lines."""
        served = self._target.served
        if self._attempts == 1 and not self._role:
            return served
        more = b"x-finmaas-attempts: %d\r\nx-finmaas-traffic: %b\r\n" % (self._attempts, self._role.encode())
        return served + more

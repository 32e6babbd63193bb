"""The usual call, in one go: a chat of texts on a connection that asked before, answered whole by its replica.

Nearly all calls that are not streamed go so, and what they have in common is found once for each key and model (`Way`)
and kept as long as the snapshot. Whatever turns out otherwise, at any moment, is handed over to a `Call`, which knows
everything: this module decides nothing that a `Call` would decide otherwise, and its tests compare the two.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from finmaas_core.errors import Corrupt, FinmaasError, StoreFull
from finmaas_serving.gateway import wire
from finmaas_serving.gateway.answer import read_answer
from finmaas_serving.gateway.balance import choose_replica, opening_of
from finmaas_serving.gateway.body import read_usual, usual_body, usual_engine_body
from finmaas_serving.gateway.bounds import bound_usual
from finmaas_serving.gateway.call import Call
from finmaas_serving.gateway.errors import problem_of
from finmaas_serving.gateway.router import resolve
from finmaas_serving.gateway.schemas import UsualChat
from finmaas_serving.gateway.screen import CHAT, Provenance
from finmaas_serving.gateway.shapes import SHAPES, Shape
from finmaas_serving.gateway.spending import settle
from finmaas_serving.gateway.spool import RecordForm
from finmaas_serving.gateway.tally import COMPLETE
from finmaas_serving.gateway.upstream import Exchange
from finmaas_serving.guard.answer import AnswerScreen, mark_plain
from finmaas_serving.guard.policy import Guard

if TYPE_CHECKING:
    from finmaas_serving.gateway.call import Client
    from finmaas_serving.gateway.context import Gateway
    from finmaas_serving.gateway.holds import Hold
    from finmaas_serving.gateway.request import Asked
    from finmaas_serving.gateway.snapshot import Key, Route
    from finmaas_serving.gateway.upstream import Replica, UpstreamConnection

_SHAPE: Final[Shape] = SHAPES[CHAT]
OK: Final = 200


class Way:
    """What the usual calls of one key to one model have in common, while a snapshot lasts."""

    __slots__ = (
        "_forms", "counts", "door", "guard", "model_name", "paid", "path", "priced", "route", "salt", "served",
        "touches",
    )  # fmt: skip

    def __init__(self, gateway: Gateway, key: Key, route: Route, guard: Guard | None) -> None:
        snapshot = gateway.snapshots.current
        self.route = route
        self.guard = guard
        self.touches = guard is not None and guard.touches_answers
        self.model_name = route.model_name
        self.served = route.served
        self.path = f"/{route.app}{CHAT}".encode()
        self.door = snapshot.replica_header
        self.salt = gateway.cache_salt_of(key.tenant_id)
        self.paid = bool(snapshot.allowances and gateway.allowances.plan(snapshot, key, route).meters)
        self.priced = bool(snapshot.prices)
        self.counts = gateway.tally.of(route.name, key.project)
        self._forms: dict[str, RecordForm] = {}

    def form_of(self, key: Key, replica: str) -> RecordForm:
        """The record of a call that went this way, but for what each call has of its own."""
        form = self._forms.get(replica)
        if form is None:
            route = self.route
            shared: dict[str, object] = {
                "key_id": key.key_id,
                "project_id": key.project_id,
                "tenant_id": key.tenant_id,
                "endpoint_id": route.endpoint_id,
                "model_version_id": route.model_version_id,
                "path": CHAT,
                "status": OK,
                "stream": False,
                "replica": replica,
                "finish": COMPLETE,
                "counted_by": "engine",
                "target_id": route.endpoint_id,
            }
            form = self._forms[replica] = RecordForm(shared)
        return form


def find_way(gateway: Gateway, key: Key, model: str) -> Way | None:
    """The way of a key's usual calls; None where none of them is usual: every step there wants a `Call`."""
    snapshot = gateway.snapshots.current
    try:
        route = resolve(snapshot, key, model)
    except FinmaasError:
        return None
    guard = snapshot.guards.get(key.project_id)
    if route.traffic is not None or route.terms.concurrency or gateway.tracing is not None or key.line:
        return None
    if guard is None:
        return Way(gateway, key, route, None)
    if not isinstance(guard, Guard) or not guard.is_simple:
        return None
    return Way(gateway, key, route, guard)


def start_usual(gateway: Gateway, client: Client, asked: Asked, raw: bytes, request_id: str) -> UsualCall | None:
    """Sends a call on its way, if it is a usual one; None, with nothing done, when it is not.

    Raises what an allowance refuses.
    """
    usual = read_usual(raw) if asked.path == CHAT and asked.timeout is None else None
    if usual is None or usual.stream:
        return None
    model = usual.model
    way = asked.ways.get(model)
    if way is None:
        if model in asked.ways:
            return None
        way = asked.ways[model] = find_way(gateway, asked.key, model) if len(asked.ways) < MOST_WAYS else None
        if way is None:
            return None
    guard = way.guard
    if guard is not None and guard.reads_requests and not guard.input.scanner.is_plain(raw):
        return None
    found = _find_connection(gateway, asked.key, way, raw)
    if found is None:
        return None
    body = usual_engine_body(raw, usual, way.model_name, way.salt)
    if body is None or not gateway.spool.reserve():
        found[0].idle.append(found[1])
        return None
    call = UsualCall(gateway, client, asked.key, way, raw, usual, request_id, found[0], found[1])
    call.begin(body)
    return call


MOST_WAYS: Final = 64  # models that one connection's clients call; more of them are found anew each time


def _find_connection(
    gateway: Gateway, key: Key, way: Way, raw: bytes
) -> tuple[Replica, UpstreamConnection] | None:  # fmt: skip
    """A kept connection to the replica whose turn it is; None where one has to be made, or where one failed lately."""
    replicas = gateway.replicas_of(way.route)
    ring = opening = None
    if len(replicas) > 1:
        ring, opening = gateway.replicas.ring_of(way.route.app), opening_of(key.tenant_id, raw)
    replica = choose_replica(replicas, (), gateway.loop.time(), gateway.next_turn(), ring, opening)
    if replica is None or replica.failed_until:
        return None
    while replica.idle:
        connection = replica.idle.pop()
        if connection.usable:
            return replica, connection
    return None


class UsualCall:
    """A usual call under way: it stands where a `Call` and its exchange would stand, and becomes them when need be."""

    __slots__ = (
        "_at", "_call", "_client", "_connection", "_deadline", "_gateway", "_hold", "_key", "_raw", "_replica",
        "_request_id", "_started", "_usual", "_way",
    )  # fmt: skip

    def __init__(
        self, gateway: Gateway, client: Client, key: Key, way: Way, raw: bytes, usual: UsualChat, request_id: str,
        replica: Replica, connection: UpstreamConnection,
    ) -> None:  # fmt: skip
        self._gateway = gateway
        self._client = client
        self._key = key
        self._way = way
        self._raw = raw
        self._usual = usual
        self._request_id = request_id
        self._replica = replica
        self._connection: UpstreamConnection | None = connection
        self._at = time.time()
        self._started = time.monotonic()
        self._deadline = gateway.loop.time() + gateway.limits.first_byte_s
        self._hold: Hold | None = None
        self._call: Call | None = None

    def begin(self, body: bytes) -> None:
        """Reserves what the call may use, and sends it; a `Call` waits when the ledger has to be asked first."""
        gateway, way = self._gateway, self._way
        gateway.running += 1
        if way.paid:
            try:
                if not self._reserve():
                    self._put_back()
                    self._become()
                    return
            except FinmaasError:
                self._put_back()
                gateway.running -= 1
                gateway.spool.give_back()
                raise
        connection, replica = self._connection, self._replica
        assert connection is not None
        replica.in_flight += 1
        request_id = self._request_id.encode()
        request = wire.upstream_request(way.path, replica.host_header, request_id, body, way.door)
        connection.send(request, self, gateway.outbox)

    def _reserve(self) -> bool:
        gateway, route, usual = self._gateway, self._way.route, self._usual
        prompt, output = bound_usual(usual, len(self._raw), route.max_model_len)
        book = gateway.allowances
        plan = book.plan(gateway.snapshots.current, self._key, route)
        self._hold = hold = book.begin(plan, prompt, output, stepped=False)
        return hold.acquire_at_once() or hold.acquire(self._admitted)

    def _admitted(self, error: FinmaasError | None) -> None:
        if self._call is not None:
            self._call.admitted(error)

    def _put_back(self) -> None:
        if self._connection is not None:
            self._replica.idle.append(self._connection)
            self._connection = None

    # What the client's side asks.

    @property
    def runs(self) -> bool:
        """Neither answered nor given up."""
        return self._call.runs if self._call is not None else self._connection is not None

    def client_gone(self) -> None:
        """The client left."""
        if self.runs:
            self._become().client_gone()

    def pause(self) -> None:
        """The client reads too slowly."""
        if self.runs:
            self._become().pause()

    def resume(self) -> None:
        if self.runs:
            self._become().resume()

    def overdue(self, now: float) -> bool:
        """Ends the call when its replica has been silent too long."""
        if self._call is None and now <= self._deadline:
            return False
        return self.runs and self._become().overdue(now)

    # What the replica's side reports.

    def whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        """Head, body and end of the answer at once, as they mostly come."""
        if status != OK or len(body) > self._gateway.limits.answer_bytes or not self._answer(headers, body):
            exchange = self._become(ended=True).exchange
            assert exchange is not None
            exchange.whole(status, headers, body)

    def head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._as_exchange().head(status, headers)

    def body(self, data: bytes) -> None:
        self._as_exchange().body(data)

    def read(self) -> None:
        self._as_exchange().read()

    def done(self) -> None:
        self._as_exchange().done()

    def failed(self, what: str, *, answered: bool, reused: bool) -> None:
        self._as_exchange().failed(what, answered=answered, reused=reused)

    def _as_exchange(self) -> Exchange:
        exchange = self._become().exchange
        assert exchange is not None  # the replica has something to say only while it is asked
        return exchange

    def _become(self, *, ended: bool = False) -> Call:
        """The call that takes over, as far as this one has come. `ended`: the connection is done with its answer."""
        if self._call is None:
            way, gateway = self._way, self._gateway
            screen = None
            if way.touches and way.guard is not None:
                seal = Provenance(gateway.provenance_key, way.route, self._request_id)
                screen = AnswerScreen(way.guard, {}, is_text=True, seal=seal)
            body = usual_body(self._raw, self._usual)
            call = Call(gateway, self._client, self._request_id, _SHAPE, self._key, way.route, body, screen)
            connection, self._connection = self._connection, None
            call.take_over(self._at, self._started, self._deadline, self._hold)
            if connection is not None:
                exchange = call.take_over_exchange(self._replica, connection)
                if not ended:
                    connection.report_to(exchange)
            self._call = call
        return self._call

    # The answer.

    def _answer(self, headers: Mapping[bytes, bytes], body: bytes) -> bool:
        """Reads, marks, records and sends the answer; False, with nothing done, when it is not a plain one."""
        way, gateway, guard = self._way, self._gateway, self._way.guard
        claim = ""
        try:
            body, usage = read_answer(body, way.model_name, self._usual.model)
        except Corrupt:
            return False
        if guard is not None and way.touches:
            seal = Provenance(gateway.provenance_key, way.route, self._request_id) if guard.provenance else None
            marked = mark_plain(guard, guard.output.scanner, body, seal)
            if marked is None:
                return False
            body, claim = marked
        if usage is None:
            return False
        self._connection = None
        self._replica.in_flight -= 1
        if self._replica.failures:
            self._replica.note_answer()
        lines = way.served
        if self._hold is not None:
            lines += self._hold.lines()
        gateway.running -= 1
        prompt, cached, output = usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens or 0
        took_ms = (time.monotonic() - self._started) * 1000
        try:
            gateway.spool.append_text(self._record(prompt, cached, output, usage.reasoning_tokens, took_ms, claim))
        except StoreFull as error:
            gateway.spool.broken = True
            self._client.refuse(problem_of(error))
        else:
            self._client.respond(OK, headers.get(b"content-type", wire.JSON), body, lines)
        way.counts.add(OK, COMPLETE, prompt, cached, output, took_ms, took_ms)
        return True

    def _record(self, prompt: int, cached: int, output: int, reasoning: int, took_ms: float, claim: str) -> bytes:
        way, gateway, hold = self._way, self._gateway, self._hold
        cost: int | None = None
        currency: str | None = None
        charges: list[tuple[int, int]] = []
        if hold is not None or way.priced:
            cost, currency, charges = settle(gateway, self._key, way.route, hold, prompt, cached, output, reasoning)
        return way.form_of(self._key, self._replica.name).fill(
            gateway.spool.last + 1, self._request_id, self._at, took_ms, prompt, cached, output, reasoning, cost,
            currency, hold.epoch if hold is not None else 0, charges, claim,
        )  # fmt: skip

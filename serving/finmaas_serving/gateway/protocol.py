"""The client's side of a connection: HTTP/1.1 in, answers out, one at a time and in order.

Holds what HTTP asks for (keep-alive, pipelining, chunked bodies, `Expect`, limits, closing so that the last answer is
seen). A client that closes its sending side while it waits for an answer counts as gone, as with other proxies: that
is the only sign of a closed connection that comes in time to stop the engine.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final, cast

import httptools
import msgspec

from finmaas_core.errors import FinmaasError
from finmaas_core.telemetry import get_logger
from finmaas_serving.gateway import errors, routes, wire
from finmaas_serving.gateway.admission import check_head, long_head, take_credential
from finmaas_serving.gateway.archive import Keeper
from finmaas_serving.gateway.cache import choose_slot
from finmaas_serving.gateway.call import Call, Client
from finmaas_serving.gateway.context import Gateway
from finmaas_serving.gateway.course import open_course
from finmaas_serving.gateway.errors import Problem, problem_of
from finmaas_serving.gateway.forward import FILES, Forward
from finmaas_serving.gateway.heads import KnownHead, learn_head
from finmaas_serving.gateway.judged_answer import moderate
from finmaas_serving.gateway.moderation import Waiting
from finmaas_serving.gateway.request import Asked, Request
from finmaas_serving.gateway.router import read_timeout, resolve
from finmaas_serving.gateway.screen import screen_call
from finmaas_serving.gateway.shadow import send_shadow
from finmaas_serving.gateway.shapes import SHAPES
from finmaas_serving.gateway.upload import Body, Upload
from finmaas_serving.gateway.usual import UsualCall, start_usual
from finmaas_serving.guard.policy import Guard

log = get_logger()
NEVER: Final = math.inf
OK: Final = 200


class ClientConnection(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = (
        "_answering", "_call", "_chunked", "_close_after", "_deadline", "_gateway", "_head_bytes",
        "_header_count", "_in_head", "_incoming", "_keeper", "_known", "_lingering", "_parser", "_peer", "_queue",
        "_raw_bytes", "_read_paused", "_transport", "_url", "_write_paused",
    )  # fmt: skip

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._queue: list[Request] = []
        self._incoming: Request | None = None  # being read
        self._answering: Request | None = None  # being answered
        self._keeper: Keeper | None = None
        self._known: KnownHead[Asked] | None = None
        self._call: Waiting | UsualCall | Forward | Upload | None = None
        self._in_head = False
        self._raw_bytes = 0  # of the head being read, as they came
        self._head_bytes = 0  # of the head being read, as parsed
        self._header_count = 0
        self._peer = ""  # the address that the client comes from
        self._url = b""
        self._chunked = False  # the answer under way is sent in chunks
        self._close_after = False
        self._lingering = False
        self._read_paused = False
        self._write_paused = False
        self._deadline = gateway.loop.time() + gateway.limits.head_s

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self._gateway.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gateway.connections.discard(self)
        if self._gateway.draining and not self._gateway.connections:
            self._gateway.drained.set()
        self._leave()
        self._transport = None

    def eof_received(self) -> None:
        self._gateway.outbox.flush()  # answers to what came before; the transport closes after this
        self._leave()

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._close_after:
            return
        between = self._incoming is None and self._answering is None and not self._queue
        if between and self._known is not None and self._take_again(self._known, data):
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._no_more()
        except httptools.HttpParserError as error:
            self._broken(errors.bad_http(f"the request is not proper HTTP: {error}"))
        if self._in_head:
            self._raw_bytes += len(data)
            if max(self._raw_bytes, self._head_bytes) > self._gateway.limits.head_bytes and not self._close_after:
                self._broken(long_head(self._gateway))
        if between and len(self._queue) == 1:
            self._learn(self._queue[0], data)
        self._advance()

    def _take_again(self, known: KnownHead[Asked], data: bytes) -> bool:
        """Starts a whole request whose head came before on this connection; False when it has to be parsed."""
        body = known.body_of(data)
        asked = known.meaning
        if body is None or len(body) > self._gateway.limits.body_bytes or not asked.holds(self._gateway):
            return False
        request = self._answering = asked.again(self._gateway.new_request_id())
        try:
            call = start_usual(self._gateway, self, asked, body, request.id)
        except FinmaasError as error:
            self.refuse(problem_of(error))
            return True
        if call is None:
            request.parts.append(body)
            self._start(request)
            return True
        self._deadline, self._keeper, self._call = NEVER, None, call
        if self._write_paused:  # an earlier answer is still on its way out
            call.pause()
        return True

    def _learn(self, request: Request, data: bytes) -> None:
        """Remembers the head of a call that came whole and alone."""
        self._known = None
        key = request.key
        plain = request.complete and request.keep_alive and not request.expects and not request.old
        if plain and request.problem is None and key is not None and not key.line and request.path in SHAPES:
            self._known = learn_head(data, request.asked(self._gateway.snapshots.current, key))

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._call is not None:
            self._call.pause()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._call is not None:
            self._call.resume()

    # httptools

    def on_message_begin(self) -> None:
        self._incoming = Request()
        self._in_head = True
        self._deadline = self._gateway.loop.time() + self._gateway.limits.head_s
        self._raw_bytes = self._head_bytes = self._header_count = 0
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._incoming
        if request is None or not self._in_head:  # a trailer
            return
        self._head_bytes += len(name) + len(value)
        self._header_count += 1
        name = name.lower()
        if name == b"authorization":
            take_credential(request, value, again=False)
        elif name == b"x-api-key":  # Anthropic's clients
            take_credential(request, b"Bearer " + value, again=True)
        elif name == b"content-length":
            request.length = int(value)
        elif name == b"x-request-id":
            request.echo = wire.echo_of(value)
        elif name == b"traceparent":
            request.traceparent = value
        elif name == b"content-type":
            request.content_type = value
        elif name == b"x-session-id":
            request.session = value
        elif name == b"x-request-timeout":
            request.timeout = value
        elif name == b"openai-project":
            request.project = value
        elif name == b"expect":
            request.expects = value.lower() == b"100-continue"
            if not request.expects:
                request.problem = errors.bad_http("only `Expect: 100-continue` is understood", 417)

    def on_headers_complete(self) -> None:
        request = self._incoming
        assert request is not None
        self._in_head = False
        self._raw_bytes = 0
        version = self._parser.get_http_version()
        request.old = version == "1.0"
        request.keep_alive = self._parser.should_keep_alive() and not self._gateway.draining
        request.method = self._parser.get_method().decode("ascii", "replace")
        request.id = self._gateway.new_request_id()
        self._deadline = self._gateway.loop.time() + self._gateway.limits.body_s
        self._queue.append(request)
        if request.problem is None:
            request.problem = self._check_head(request, version)
        request.authorization = None

    def on_body(self, body: bytes) -> None:
        request = self._incoming
        if request is not None and request.problem is None:
            request.take(body)

    def on_message_complete(self) -> None:
        request, self._incoming = self._incoming, None
        if request is not None:
            request.end()

    # What the server asks.

    def sweep(self, now: float) -> None:
        """Called about once a second: ends what takes too long."""
        if self._call is not None:
            if self._call.overdue(now) and self._transport is not None:
                self._transport.abort()
        elif now > self._deadline and self._transport is not None:
            if self._transport.is_closing():  # the client does not take the last bytes
                self._transport.abort()
            elif self._lingering or self._incoming is None:
                self._close()
            else:
                self._broken(errors.bad_http("the request did not arrive in time", 408, "request_timeout"))
                self._advance()

    def drain(self) -> None:
        """Closes as soon as nothing is being answered."""
        for request in self._queue:
            request.keep_alive = False
        if self._answering is None and not self._queue:
            self._close()

    def cut(self) -> None:
        """Closes now."""
        if self._transport is not None:
            self._transport.abort()

    # What a call asks (call.Client).

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"") -> None:
        self._respond(status, content_type, body, extra)

    def refuse(self, problem: Problem) -> None:
        if self._call is None:
            self._gateway.tally.refuse(problem.status)
        self._respond(problem.status, wire.JSON, self._problem_body(problem), wire.header_lines(problem.header_lines()))

    def _problem_body(self, problem: Problem) -> bytes:
        shape = SHAPES.get(self._answering.path) if self._answering is not None else None
        return problem.body() if shape is None else shape.problem_body(problem)

    def start_stream(self, content_type: bytes, extra: bytes = b"") -> None:
        request, transport = self._answering, self._transport
        if request is None or transport is None:
            return
        self._chunked = not request.old
        if request.old:
            request.keep_alive = False
        lines = self._ids(request) + extra + b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
        if self._chunked:
            lines += b"transfer-encoding: chunked\r\n"
        head = wire.answer_head(200, content_type, lines, None, not self._stays(request))
        self._gateway.outbox.put(transport, head)

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._gateway.outbox.write(self._transport, wire.chunk(data) if self._chunked else data)

    def end_stream(self) -> None:
        if self._transport is not None and self._chunked:
            self._gateway.outbox.write(self._transport, wire.LAST_CHUNK)
        self._answered()

    def break_off(self, data: bytes) -> None:
        if data:
            self.send(data)
        self._call = self._answering = None
        self._no_more()
        self._close()

    def invite(self) -> None:
        if self._answering is not None:
            self._invite(self._answering)

    # In order.

    def _advance(self) -> None:
        """Answers the next request whose turn has come, until one has to wait."""
        while self._answering is None and self._queue and not self._lingering:
            request = self._queue[0]
            if request.problem is None and not request.complete and request.upload is None:
                self._invite(request)
                break
            del self._queue[0]
            self._answering = request
            self._start(request)
        self._bound_reading()

    def _start(self, request: Request) -> None:
        if request.problem is not None:
            self.refuse(request.problem)
            return
        try:
            if request.path in SHAPES:
                self._start_call(request)
                return
            if request.target:
                self._start_forward(request)
                return
            status, content_type, body = routes.answer_locally(self._gateway, request.key, request.path)
        except FinmaasError as error:
            self.refuse(problem_of(error))
            return
        self.respond(status, content_type, body)

    def _start_call(self, request: Request) -> None:
        assert request.key is not None
        raw = request.parts[0] if len(request.parts) == 1 else b"".join(request.parts)
        shape = SHAPES[request.path]
        body = shape.read(raw)
        request.parts.clear()
        gateway, key = self._gateway, request.key
        snapshot = gateway.snapshots.current
        route = resolve(snapshot, key, body.model)
        timeout_s = None if request.timeout is None else read_timeout(request.timeout, gateway.limits.longest_s)
        course = open_course(snapshot, key, route, request.session, body, gateway.canaries.given_up)
        target = route if course is None else course.hop.route
        screen = slot = None
        guard = snapshot.guards.get(key.project_id)
        if guard is not None:
            body, screen = screen_call(guard, gateway.provenance_key, shape, request.id, course or route, raw, body)
            if isinstance(guard, Guard) and guard.document.cache.ttl_s:
                slot = choose_slot(gateway.cache, guard, key, target, request.path, body)
        tracing = gateway.tracing
        span = tracing.begin(request.path, key, route, request.id, request.traceparent) if tracing else None
        self._deadline = NEVER
        client: Client = self
        self._keeper = None
        if isinstance(guard, Guard) and ((keep := guard.document.keep).requests or keep.answers):
            self._keeper = Keeper(gateway.archive, snapshot.archive_key, keep, key, route, request.id)
            self._keeper.keep_request(msgspec.json.encode(body.fields))
            client = self._keeper.watch(self)
        made = Call(gateway, client, request.id, shape, key, route, body, screen, slot, span, course, timeout_s)
        call = made if guard is None else moderate(gateway, guard, key, shape, body, request.id, made, client)
        self._call = call
        if self._write_paused:  # an earlier answer is still on its way out
            call.pause()
        call.start()
        if course is not None and course.shadow is not None and call.runs:
            send_shadow(gateway, request.id, shape, key, route, body, course.shadow)

    def _check_head(self, request: Request, version: str) -> Problem | None:
        """What can be refused before the body is read."""
        gateway, size = self._gateway, self._head_bytes
        problem = check_head(gateway, request, version, self._url, self._peer, size, self._header_count)
        if problem is not None:
            return problem
        if request.target and request.path == FILES and request.method == "POST":
            request.limit = gateway.limits.file_bytes
            request.upload = Body(self._bound_reading)
        return errors.body_too_large(request.limit) if request.limit and request.length > request.limit else None

    def _start_forward(self, request: Request) -> None:
        assert request.key is not None
        self._deadline = NEVER
        gateway, key, target, kind = self._gateway, request.key, request.target, request.content_type
        if request.upload is not None:
            self._call = Upload(gateway, self, key, target, kind, request.length, request.upload)
        else:
            body = b"".join(request.parts)
            request.parts.clear()
            self._call = Forward(gateway, self, key, request.method, target, kind, body)
        if self._write_paused:
            self._call.pause()
        self._call.start()

    def _invite(self, request: Request) -> None:
        if request.expects and not request.continued and not request.old and self._transport is not None:
            request.continued = True
            self._gateway.outbox.put(self._transport, wire.CONTINUE)

    def _respond(self, status: int, content_type: bytes, body: bytes, extra: bytes) -> None:
        request, transport = self._answering, self._transport
        if request is None or transport is None:
            return
        if status == OK and request.echo is None and request.method == "POST" and self._stays(request):
            self._gateway.outbox.put(transport, wire.plain_answer(content_type, request.id, extra, body))
            self._answered()
            return
        if not request.complete:
            request.keep_alive = False
        head = wire.answer_head(status, content_type, self._ids(request) + extra, len(body), not self._stays(request))
        self._gateway.outbox.put(transport, head if request.method == "HEAD" else head + body)
        self._answered()

    def _answered(self) -> None:
        """One answer is out: on to the next request, or close."""
        request = self._answering
        self._call = self._answering = None
        self._chunked = False
        if request is None or self._transport is None:
            return
        if self._stays(request):
            limits = self._gateway.limits
            waits = limits.body_s if self._incoming is not None else limits.idle_s
            self._deadline = self._gateway.loop.time() + waits
            if self._queue:
                self._gateway.loop.call_soon(self._advance)
            else:
                self._bound_reading()
            return
        self._no_more()
        if request.complete:
            self._close()
        else:
            self._linger()

    def _close(self) -> None:
        """Closes once all that was answered is written."""
        if self._transport is not None:
            self._gateway.outbox.flush()
            self._transport.close()

    def _linger(self) -> None:
        """Reads on for a moment: closing on unread bytes would reset the connection and lose the answer."""
        self._lingering = True
        self._incoming = None
        self._bound_reading()
        self._deadline = self._gateway.loop.time() + self._gateway.limits.linger_s
        if self._transport is not None and self._transport.can_write_eof():
            self._gateway.outbox.flush()
            self._transport.write_eof()

    def _broken(self, problem: Problem) -> None:
        """The bytes cannot be understood any further: answer what came before, then this, then close."""
        request = self._incoming or Request()
        request.spoil(problem)
        request.id = request.id or self._gateway.new_request_id()
        request.complete = request.keep_alive = False
        if request not in self._queue and request is not self._answering:
            self._queue.append(request)
        self._incoming = None
        self._close_after = True

    def _stays(self, request: Request) -> bool:
        return request.keep_alive and not self._gateway.draining and not (self._close_after and not self._queue)

    def _no_more(self) -> None:
        """Nothing more is read from this client; what it sent before is answered unless the connection is closing."""
        self._close_after = True

    def _leave(self) -> None:
        call, self._call = self._call, None
        self._queue.clear()
        self._answering = self._incoming = None
        if call is not None:
            call.client_gone()
        if self._keeper is not None:
            self._keeper.keep_answer()  # as far as the client got it

    def _bound_reading(self) -> None:
        """A client that sends ahead is read only so far."""
        if self._transport is None or self._transport.is_closing():
            return
        upload = self._incoming.upload if self._incoming is not None else None
        full = len(self._queue) > self._gateway.limits.pipelined or (upload is not None and upload.full)
        if full and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()
        elif self._read_paused and not full:
            self._read_paused = False
            self._transport.resume_reading()

    def _ids(self, request: Request) -> bytes:
        own = b"x-request-id: %b\r\n" % request.id.encode()
        return own if request.echo is None else b"%bx-client-request-id: %b\r\n" % (own, request.echo)

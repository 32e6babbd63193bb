"""Replicas and the connections to them: raw sockets, kept open, one request at a time on each.

Knows HTTP/1.1 from the client's side; knows nothing of keys, models or usage.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final, Protocol, cast

import httptools

from finmaas_core.telemetry import get_logger
from finmaas_serving.gateway.balance import Breaker, Ring
from finmaas_serving.gateway.heads import KnownHead, learn_head, split_chunks
from finmaas_serving.gateway.outbox import Outbox

Address = tuple[str, int]
CONNECT_TIMEOUT_S: Final = 3.0
MAX_IDLE: Final = 256
OK: Final = 200
MAX_HEAD_BYTES: Final = 64 * 1024
log = get_logger()


class Sink(Protocol):
    """Who waits for an answer. `upstream_failed` and `upstream_done` end it; nothing follows them."""

    def upstream_head(self, status: int, headers: Mapping[bytes, bytes]) -> None: ...

    def upstream_body(self, data: bytes) -> None: ...

    def upstream_read(self) -> None:
        """All that came with one read from the socket has been handed over."""

    def upstream_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        """Head, body and end of an answer at once."""

    def upstream_done(self) -> None: ...

    def upstream_failed(self, what: str, *, answered: bool, reused: bool) -> None:
        """`answered`: at least one byte of the answer came. `reused`: the connection had served before."""


class Replica(Breaker):
    """One replica's address, how it fares as seen from here, and its idle connections; `tls` for one elsewhere."""

    __slots__ = ("app", "gone", "host", "host_header", "idle", "in_flight", "known", "name", "port", "tls")

    def __init__(self, app: str, address: Address, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.app = app
        self.tls = tls
        self.host, self.port = address
        self.name = f"{self.host}:{self.port}"
        self.host_header = self.name.encode()
        self.in_flight = 0
        self.gone = False
        self.idle: list[UpstreamConnection] = []
        self.known: KnownHead[Mapping[bytes, bytes]] | None = None  # the head of its last answer that came whole

    def close_idle(self) -> None:
        for connection in self.idle.copy():
            connection.close()
        self.idle.clear()


_NONE: Final[list[Replica]] = []


class ReplicaBook:
    """The replicas of each application, as last heard from Ray."""

    def __init__(self) -> None:
        self._by_app: dict[str, list[Replica]] = {}
        self._rings: dict[str, Ring[Replica]] = {}

    def of(self, app: str) -> list[Replica]:
        return self._by_app.get(app, _NONE)

    def ring_of(self, app: str) -> Ring[Replica]:
        """The circle on which an application's replicas share the beginnings of prompts."""
        ring = self._rings.get(app)
        if ring is None:
            ring = self._rings[app] = Ring(self.of(app))
        return ring

    def count(self) -> int:
        return sum(len(replicas) for replicas in self._by_app.values())

    def replace(self, found: Mapping[str, list[Address]]) -> None:
        """Takes the new addresses; replicas that stay keep their load and connections."""
        fresh = {app: [self._keep(app, address) for address in addresses] for app, addresses in found.items()}
        kept = {id(replica) for replicas in fresh.values() for replica in replicas}
        for replicas in self._by_app.values():
            for replica in replicas:
                if id(replica) not in kept:
                    replica.gone = True
                    replica.close_idle()
        if {app: [id(one) for one in ones] for app, ones in fresh.items()} != {
            app: [id(one) for one in ones] for app, ones in self._by_app.items()
        }:
            self._rings = {}
        self._by_app = fresh

    def close(self) -> None:
        self.replace({})

    def _keep(self, app: str, address: Address) -> Replica:
        for replica in self.of(app):
            if (replica.host, replica.port) == address:
                return replica
        return Replica(app, address)


class Asker(Protocol):
    """Who sent a request on a connection, and hears of its answer."""

    def head(self, status: int, headers: Mapping[bytes, bytes]) -> None: ...

    def body(self, data: bytes) -> None: ...

    def read(self) -> None: ...

    def whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None: ...

    def done(self) -> None: ...

    def failed(self, what: str, *, answered: bool, reused: bool) -> None: ...


class Exchange:
    """One request to one replica. `cancel` closes the connection, which is what makes the engine stop."""

    __slots__ = ("_connecting", "_connection", "_paused", "_sink", "replica")

    def __init__(self, replica: Replica, sink: Sink, connection: UpstreamConnection | None = None) -> None:
        """With a connection: goes on with a request that was sent on it; else `start` sends one."""
        self.replica = replica
        self._sink: Sink | None = sink
        self._connection = connection
        self._connecting: asyncio.Task[None] | None = None
        self._paused = False

    def start(self, request: bytes, loop: asyncio.AbstractEventLoop, outbox: Outbox) -> None:
        """Sends the request, over a connection that is kept or a new one."""
        replica = self.replica
        replica.in_flight += 1
        while replica.idle:
            connection = replica.idle.pop()
            if connection.usable:
                self._connection = connection
                connection.send(request, self, outbox)
                return
        self._connecting = loop.create_task(self._connect(request, loop, outbox))

    def cancel(self) -> None:
        """Ends the exchange; the sink hears nothing more."""
        if self._sink is None:
            return
        self._release()
        if self._connection is not None:
            self._connection.close()
        if self._connecting is not None:
            self._connecting.cancel()

    def pause(self) -> None:
        self._paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        self._paused = False
        if self._connection is not None:
            self._connection.resume()

    async def _connect(self, request: bytes, loop: asyncio.AbstractEventLoop, outbox: Outbox) -> None:
        replica = self.replica
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(replica), replica.host, replica.port, ssl=replica.tls
                )
        except (OSError, TimeoutError) as error:
            replica.note_failure(loop.time(), at_once=True)
            self._connecting = None
            self.failed(f"no connection to it ({type(error).__name__})", answered=False, reused=False)
            return
        self._connecting = None
        if self._sink is None:
            connection.close()
            return
        self._connection = connection
        connection.send(request, self, outbox)
        if self._paused:
            connection.pause()

    # What the connection reports.

    def head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        if self._sink is not None:
            self._sink.upstream_head(status, headers)

    def body(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink.upstream_body(data)

    def read(self) -> None:
        if self._sink is not None:
            self._sink.upstream_read()

    def whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        sink = self._release()
        if sink is not None:
            sink.upstream_whole(status, headers, body)

    def done(self) -> None:
        sink = self._release()
        if sink is not None:
            sink.upstream_done()

    def failed(self, what: str, *, answered: bool, reused: bool) -> None:
        sink = self._release()
        if not answered and reused:
            self.replica.close_idle()  # they may all have been closed over there
        if sink is not None:
            sink.upstream_failed(what, answered=answered, reused=reused)

    def _release(self) -> Sink | None:
        sink, self._sink = self._sink, None
        if sink is not None:
            self.replica.in_flight -= 1
        return sink


class UpstreamConnection(asyncio.Protocol):
    """One connection to a replica: idle, or busy with one exchange."""

    __slots__ = (
        "_answered",
        "_between_chunks",
        "_complete",
        "_exchange",
        "_head_bytes",
        "_headers",
        "_keep",
        "_parser",
        "_paused",
        "_replica",
        "_served",
        "_status",
        "_transport",
    )

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._transport: asyncio.Transport | None = None
        self._exchange: Asker | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._status = 0
        self._answered = False
        self._between_chunks = False
        self._complete = False
        self._keep = False
        self._paused = False
        self._served = 0

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def report_to(self, exchange: Asker) -> None:
        """What comes from now on goes to another asker."""
        self._exchange = exchange

    def send(self, request: bytes, exchange: Asker, outbox: Outbox) -> None:
        """Sends a request; its answer goes to the exchange."""
        assert self._transport is not None
        self._exchange = exchange
        self._answered = self._complete = False
        outbox.put(self._transport, request)

    def close(self) -> None:
        """Closes at once; what is still to be sent is dropped."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if not self._paused and self.usable and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self.usable and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # bytes nobody asked for
            self.close()
            return
        first, self._answered = not self._answered, True
        if first and self._replica.known is not None:
            body = self._replica.known.body_of(data)
            if body is not None:
                self._complete = self._keep = True
                self._put_back()
                exchange.whole(200, self._replica.known.meaning, body)
                return
        elif self._between_chunks and (parts := split_chunks(data)) is not None:
            for part in parts:
                exchange.body(part)
            exchange.read()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"its answer is not HTTP ({error})")
            return
        exchange = self._exchange  # a usual call has handed over by now
        if exchange is None:
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._fail("the head of its answer is too long")
            return
        exchange.read()
        if self._complete and self._exchange is exchange:
            if first and self._keep and self._status == OK:
                self._replica.known = learn_head(data, self._headers)
            self._put_back()
            exchange.done()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._replica.idle:
            self._replica.idle.remove(self)
        self._fail("it closed the connection")
        self._transport = None

    # httptools

    def on_message_begin(self) -> None:
        if self._complete:  # more bytes than the answer has: what follows cannot be trusted to be one
            self._keep = False
        self._headers = {}
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status >= 200 and self._exchange is not None:
            self._exchange.head(self._status, self._headers)

    def on_body(self, body: bytes) -> None:
        if self._exchange is not None:
            self._exchange.body(body)

    def on_message_complete(self) -> None:
        if self._status >= 200:
            self._keep = self._parser.should_keep_alive() and not self._complete
            self._complete = True

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = True

    def _put_back(self) -> None:
        """The answer is complete: back to the idle ones."""
        self._exchange = None
        self._served += 1
        self._between_chunks = False
        if self._paused:
            self.resume()
        replica, transport = self._replica, self._transport
        if transport is None:
            return
        if self._keep and not replica.gone and len(replica.idle) < MAX_IDLE and not transport.is_closing():
            replica.idle.append(self)
        else:
            transport.close()

    def _fail(self, what: str) -> None:
        exchange, self._exchange = self._exchange, None
        if self._transport is not None:
            self._transport.abort()
        if exchange is not None:
            exchange.failed(what, answered=self._answered, reused=self._served > 0)

"""One request as its connection reads it, and what its head said to the next one with the same head. No socket here."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from finmaas_serving.gateway.context import Gateway
from finmaas_serving.gateway.errors import Problem, body_too_large
from finmaas_serving.gateway.snapshot import Key, Snapshot
from finmaas_serving.gateway.upload import Body

if TYPE_CHECKING:
    from finmaas_serving.gateway.usual import Way

_NEVER: Final = math.inf


class Request:
    """One request as it arrives."""

    __slots__ = (
        "authorization", "body", "complete", "content_type", "continued", "echo", "expects", "id", "keep_alive", "key",
        "length", "limit", "method", "old", "parts", "path", "problem", "project", "received", "session", "target",
        "timeout", "traceparent", "upload",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method = ""
        self.path = ""
        self.authorization: bytes | None = None
        self.content_type = b""
        self.target = ""  # path and query of a request that is forwarded
        self.limit = 0  # of the body, in bytes
        self.echo: bytes | None = None
        self.traceparent: bytes | None = None
        self.project = b""  # that a person names
        self.session = b""  # what makes requests belong together
        self.timeout: bytes | None = None
        self.id = ""
        self.old = False  # HTTP/1.0: knows no chunks
        self.keep_alive = False
        self.expects = False
        self.continued = False
        self.length = 0  # as announced
        self.received = 0
        self.parts: list[bytes] = []
        self.upload: Body | None = None  # in the place of parts: a file that is handed on as it comes
        self.complete = False
        self.key: Key | None = None
        self.problem: Problem | None = None

    def take(self, body: bytes) -> None:
        """Some more of the body."""
        self.received += len(body)
        if self.received > self.limit:
            self.spoil(body_too_large(self.limit))
        elif self.upload is not None:
            self.upload.feed(body)
        else:
            self.parts.append(body)

    def end(self) -> None:
        """All of the body has come."""
        self.complete = True
        if self.upload is not None:
            self.upload.end()

    def spoil(self, problem: Problem) -> None:
        """The body will not be taken."""
        self.problem = problem
        self.parts.clear()
        if self.upload is not None:
            self.upload.fail(problem)

    def asked(self, snapshot: Snapshot, key: Key) -> Asked:
        """What the head said."""
        return Asked(snapshot, key, self.path, self.echo, self.traceparent, self.session, self.timeout)


@dataclass(slots=True)
class Asked:
    """What a head said, for the next request with the same one on its connection. Holds while the snapshot does."""

    snapshot: Snapshot
    key: Key
    path: str
    echo: bytes | None
    traceparent: bytes | None
    session: bytes
    timeout: bytes | None
    ways: dict[str, Way | None] = field(default_factory=dict)  # of its usual calls, by model
    _request: Request | None = None

    def again(self, request_id: str) -> Request:
        """A request with this head, whole but for its body. Those of one connection come one after the other, so it is
        the same object each time."""
        request = self._request
        if request is None:
            request = self._request = Request()
            request.path, request.key, request.echo = self.path, self.key, self.echo
            request.traceparent, request.session, request.timeout = self.traceparent, self.session, self.timeout
            request.method = "POST"
        request.id = request_id
        request.parts.clear()
        request.keep_alive = request.complete = True
        return request

    def holds(self, gateway: Gateway) -> bool:
        """Whether the key may still be used; a draining gateway says so in its answers, so it parses each request."""
        until = self.key.expires_at
        return (
            self.snapshot is gateway.snapshots.current
            and not gateway.draining
            and (until is None or until > time.time())
            and (self.snapshot.strictest_s == _NEVER or gateway.snapshots.age_s <= self.snapshot.strictest_s)
        )

"""Copies of requests for a version that is only watched: sent when there is room, their answers thrown away.

A copy is metered under `shadow`, which is charged to nobody. It never waits for a place, never delays the request it
was made of, and goes on when the client of that one leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finmaas_serving.gateway.call import Call
from finmaas_serving.gateway.course import Course
from finmaas_serving.gateway.errors import Problem
from finmaas_serving.gateway.traffic import Traffic

if TYPE_CHECKING:
    from finmaas_serving.gateway.body import CallBody
    from finmaas_serving.gateway.context import Gateway
    from finmaas_serving.gateway.shapes import Shape
    from finmaas_serving.gateway.snapshot import Key, Route
    from finmaas_serving.gateway.traffic import Hop

MOST = 256  # copies at once in one gateway
SUFFIX = "-shadow"


class Nobody:
    """Takes the answer to a copy, and notes that it came to its end."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.call: Call | None = None

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"") -> None:
        self._end()

    def refuse(self, problem: Problem) -> None:
        self._end()

    def start_stream(self, content_type: bytes, extra: bytes = b"") -> None:
        """Nobody waits for it."""

    def send(self, data: bytes) -> None:
        """Nobody reads it."""

    def end_stream(self) -> None:
        self._end()

    def break_off(self, data: bytes) -> None:
        self._end()

    def _end(self) -> None:
        if self.call is not None:
            self._gateway.shadows.discard(self.call)


def send_shadow(
    gateway: Gateway, request_id: str, shape: Shape, key: Key, route: Route, body: CallBody, hop: Hop
) -> None:
    """Sends a copy of a request, as it stands after screening, unless too many are on their way already."""
    if len(gateway.shadows) >= MOST or gateway.draining:
        return
    client = Nobody(gateway)
    course = Course(route.name, Traffic("shadow"), (hop,), None)
    client.call = Call(gateway, client, request_id + SUFFIX, shape, key, route, body, course=course)
    gateway.shadows.add(client.call)
    client.call.start()

"""What the gateway's own code costs a request: the real protocols between transports that only take bytes.

    python tests/benchmarks/bench_gateway_path.py [--profile]

No sockets and no system calls, and of many rounds the quickest counts, so the figure stands still on a busy machine,
where one over sockets does not. What sockets cost comes on top, and is the same for every proxy on this loop.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from as_compiled import IS_COMPILED
from gateway_world import APP, KEY, PEPPER, StreamUpstream, _event, answer_body, chat_body, snapshot_document

from finmaas_serving.gateway.context import Gateway
from finmaas_serving.gateway.protocol import ClientConnection
from finmaas_serving.gateway.snapshot import SnapshotFile, SnapshotHolder
from finmaas_serving.gateway.spool import Spool
from finmaas_serving.gateway.upstream import ReplicaBook, UpstreamConnection
from finmaas_serving.guard.policy import PolicyDocument, strict_policy

ROUNDS, REQUESTS = 60, 200
HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Wed, 25 Nov 2026 03:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-length: %d\r\ncontent-type: application/json\r\n\r\n"
)


class Transport(asyncio.Transport):
    """Takes bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


def request_bytes(body: bytes) -> bytes:
    """As OpenAI's Python client sends it, its headers included."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway:8000\r\nAccept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        f"User-Agent: OpenAI/Python 2.30.0\r\nX-Stainless-Lang: python\r\nAuthorization: Bearer {KEY}\r\n"
        f"X-Stainless-Retry-Count: 0\r\nX-Stainless-Read-Timeout: 600\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def open_gateway(
    folder: Path, loop: asyncio.AbstractEventLoop, policy: PolicyDocument | None, *, allowances: bool
) -> Gateway:
    """A gateway with one replica, without its feeds; with allowances it holds more of each than is ever asked."""
    holder = SnapshotHolder(SnapshotFile(folder / "snapshot", "t"))
    holder.take(msgspec.json.encode(snapshot_document(policy, allowances=allowances)))
    gateway = Gateway(PEPPER.encode(), holder, ReplicaBook(), Spool(folder / "spool"), loop)
    gateway.replicas.replace({APP: [("127.0.0.1", 9)]})
    _fill_slices(gateway)
    return gateway


def _fill_slices(gateway: Gateway) -> None:
    book, snapshot = gateway.allowances, gateway.snapshots.current
    book.epoch = 1
    key, route = next(iter(snapshot.keys.values())), snapshot.routes[APP]
    for number, meter in enumerate(book.plan(snapshot, key, route).meters, 1):
        slice_ = book.slice_of(meter, book.now())
        slice_.granted = slice_.held = slice_.idle = 2**60
        slice_.number = number


async def measure(
    policy: PolicyDocument | None, profile: cProfile.Profile | None, *, allowances: bool
) -> tuple[float, float]:
    """Microseconds a request of the quickest round, and a chunk of a stream."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as name:
        gateway = open_gateway(Path(name), loop, policy, allowances=allowances)
        replica = gateway.replicas.of(APP)[0]
        upstream, client = UpstreamConnection(replica), ClientConnection(gateway)
        there, back = Transport(), Transport()
        upstream.connection_made(there)
        client.connection_made(back)
        replica.idle.append(upstream)
        request, body = request_bytes(chat_body()), answer_body()
        answer = HEAD % len(body) + body

        def once() -> None:
            client.data_received(request)
            upstream.data_received(answer)

        once()
        assert there.written
        assert back.written
        assert b"200 OK" in back.written[0], back.written[0]
        best = _best(once, there, back, profile, gateway)
        stream = _stream_answer()
        asked = request_bytes(chat_body(stream=True))

        def one_stream() -> None:
            client.data_received(asked)
            for piece in stream:
                upstream.data_received(piece)

        chunk = _best(one_stream, there, back, None, gateway, rounds=20, count=2) / len(stream)
        assert b"[DONE]" in b"".join(back.written[-2:])
        gateway.spool.close()
        return best, chunk


def _stream_answer() -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    pieces = [head]
    for i in range(256):
        line = _event(i).replace(b"%d", b"1764000000")
        pieces.append(b"%x\r\n%b\r\n" % (len(line), line))
    pieces.append(StreamUpstream.tail())
    return pieces


def _best(
    once: Any, there: Transport, back: Transport, profile: cProfile.Profile | None, gateway: Gateway,
    rounds: int = ROUNDS, count: int = REQUESTS,
) -> float:  # fmt: skip
    best = float("inf")
    if profile is not None:
        profile.enable()
    for _ in range(rounds):
        gc.collect()
        there.written.clear()
        back.written.clear()
        began = time.perf_counter()
        for _ in range(count):
            once()
        best = min(best, (time.perf_counter() - began) / count)
        gateway.spool.finish_sync(gateway.spool.start_sync())
        gateway.spool.acknowledge(gateway.spool.last)
    if profile is not None:
        profile.disable()
    return best * 1e6


def main() -> None:
    """Prints both figures for the gateway bare, with allowances, with guardrails, and with everything on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    print("compiled" if IS_COMPILED else "interpreted")
    strict = strict_policy()
    sorts: dict[str, tuple[PolicyDocument | None, bool]] = {
        "bare": (None, False),
        "bare with allowances": (None, True),
        "guardrails and marks": (strict, False),
        "everything on": (strict, True),
    }
    for name, (policy, allowances) in sorts.items():
        profile = cProfile.Profile() if given.profile else None
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            request, chunk = runner.run(measure(policy, profile, allowances=allowances))
        print(f"{name}: {request:.1f} µs a request, {chunk:.1f} µs a chunk")
        if profile is not None:
            pstats.Stats(profile).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()

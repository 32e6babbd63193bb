"""Load on a port: closed loop by wrk (or our own), open loop at a fixed rate by our own, and streams.

Every answer is checked. The generators are raw sockets and `select`, whose time-outs are exact to tens of microseconds;
in the open loop latency counts from the moment at which a request was due, so a slow answer delays nobody's clock.
"""

from __future__ import annotations

import ctypes
import json
import random
import re
import select
import shutil
import socket
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway_world import CHAT, OTHER_CORE, STREAM_CHUNKS, STREAM_TEXT, WANTED

PR_SET_TIMERSLACK = 29
SAMPLED = 50


@dataclass(frozen=True)
class Target:
    """Where a proxy listens, and what it wants to be asked."""

    port: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    path: str = CHAT

    @property
    def request(self) -> bytes:
        """The whole request."""
        lines = {"host": "bench", "content-type": "application/json", **self.headers}
        head = f"POST {self.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{head}content-length: {len(self.body)}\r\n\r\n".encode() + self.body


def closed_loop(target: Target, connections: int, seconds: float, folder: Path) -> dict[str, Any]:
    """As many requests as come back, `connections` at a time."""
    if shutil.which("wrk"):
        return {"generator": "wrk", **_wrk(target, connections, seconds, folder)}
    return {"generator": "own", **_own_closed_loop(target, connections, seconds)}


def _wrk(target: Target, connections: int, seconds: float, folder: Path) -> dict[str, Any]:
    body = folder / "body.json"
    body.write_bytes(target.body)
    headers = [part for pair in target.headers.items() for part in pair]
    script = Path(__file__).parent / "peers" / "wrk.lua"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s", "-s", str(script)]
    command += [f"http://127.0.0.1:{target.port}{target.path}", "--", str(body), WANTED, *headers]
    done = subprocess.run(["taskset", "-c", str(OTHER_CORE), *command], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"connections": connections, **found, "rps": round(found["requests"] / found["seconds"], 1)}


class _Connection:
    """One connection: a request out, an answer back, checked."""

    __slots__ = ("due", "held", "need", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.held = b""
        self.need = 0
        self.due = 0.0

    def ask(self, request: bytes, due: float) -> None:
        self.due, self.held, self.need = due, b"", 0
        self.socket.sendall(request)

    def read(self) -> bool | None:
        """None: more to come; else whether the answer is right."""
        data = self.socket.recv(262_144)
        if not data:
            raise SystemExit("a connection was closed in the middle of a benchmark")
        self.held = data = self.held + data if self.held else data
        if not self.need:
            head = data.find(b"\r\n\r\n")
            if head < 0:
                return None
            lower = data[:head].lower()
            at = lower.find(b"content-length:")
            if at < 0:  # in chunks: a proxy may answer so
                return _check(data) if data.endswith(b"0\r\n\r\n") else None
            self.need = head + 4 + int(lower[at + 15 :].split(b"\r\n", 1)[0])
        return _check(data) if len(data) >= self.need else None


def _check(data: bytes) -> bool:
    return data.startswith(b"HTTP/1.1 200") and WANTED.encode() in data.replace(b'": "', b'":"')


def _own_closed_loop(target: Target, connections: int, seconds: float) -> dict[str, Any]:
    request = target.request
    held = {c.socket: c for c in (_Connection(target.port) for _ in range(connections))}
    times: list[float] = []
    wrong = 0
    began = time.perf_counter()
    for one in held.values():
        one.ask(request, time.perf_counter())
    while (now := time.perf_counter()) < began + seconds:
        for ready in select.select(list(held), [], [], 1)[0]:
            one = held[ready]
            if (right := one.read()) is not None:
                now = time.perf_counter()
                times.append(now - one.due)
                wrong += not right
                one.ask(request, now)
    for one in held.values():
        one.socket.close()
    return {"connections": connections, **_summary(times, wrong, time.perf_counter() - began)}


def open_loop(target: Target, rate: float, seconds: float, max_connections: int = 400) -> dict[str, Any]:
    """Requests due at random moments, `rate` a second on average (a Poisson process), whatever the answers do."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    request, moments = target.request, random.Random(7)
    idle = deque([_Connection(target.port) for _ in range(32)])
    busy: dict[socket.socket, _Connection] = {}
    waiting: deque[float] = deque()
    times: list[float] = []
    wrong = late = 0
    began = time.perf_counter()
    due = began
    while due < began + seconds or busy or waiting:
        now = time.perf_counter()
        while due <= now and due < began + seconds:
            late += now - due > 0.001
            waiting.append(due)
            due += moments.expovariate(rate)
        while waiting and (idle or len(busy) < max_connections):
            one = idle.pop() if idle else _Connection(target.port)
            busy[one.socket] = one
            one.ask(request, waiting.popleft())
        pause = max(0.0, due - time.perf_counter()) if due < began + seconds else 1.0
        for ready in select.select(list(busy), [], [], pause)[0]:
            one = busy[ready]
            if (right := one.read()) is not None:
                times.append(time.perf_counter() - one.due)
                wrong += not right
                idle.append(busy.pop(ready))
    took = time.perf_counter() - began
    for one in idle:
        one.socket.close()
    return {"rate": rate, "sent_late_by_1_ms": late, "connections": len(idle), **_summary(times, wrong, took)}


def _summary(times: list[float], wrong: int, took: float) -> dict[str, Any]:
    times.sort()
    return {
        "requests": len(times),
        "wrong": wrong,
        "seconds": round(took, 3),
        "rps": round(len(times) / took, 1),
        "p50_ms": round(_at(times, 0.5) * 1000, 4),
        "p99_ms": round(_at(times, 0.99) * 1000, 4),
    }


def _at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def streams(target: Target, count: int, seconds: float, length: int = STREAM_CHUNKS) -> dict[str, Any]:
    """`count` streams, each asked anew when it ends; each chunk tells when the upstream sent it.

    `seconds` 0: each is read once, to its end.
    """
    request = target.request
    held: dict[int, socket.socket] = {}
    texts: dict[int, bytes] = {}  # of some streams, all of it
    done: set[int] = set()
    epoll = select.epoll()
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", target.port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        held[one.fileno()] = one
        if len(held) % SAMPLED == 1:
            texts[one.fileno()] = b""
        epoll.register(one, select.EPOLLIN)
        one.sendall(request)
    began = time.perf_counter()
    delays: list[float] = []
    chunks = ended = cut = 0
    while held and (not seconds or time.perf_counter() < began + seconds):
        for fd, _ in epoll.poll(1):
            data = held[fd].recv(262_144)
            if not data:
                cut += 1
                held.pop(fd).close()
                continue
            chunks += data.count(b'"delta"')
            if fd in texts:
                texts[fd] += data
            at = data.rfind(b'"created":') + 10
            stamp = data[at : data.find(b",", at)] if at > 9 else b""
            if len(stamp) > 9:
                delays.append((time.monotonic_ns() - int(stamp)) / 1e9)
            if b"[DONE]" in data:
                done.add(fd)
            if data.endswith(b"0\r\n\r\n"):
                ended += 1
                cut += fd not in done or (fd in texts and not _is_whole(texts[fd], length))
                done.discard(fd)
                if fd in texts:
                    texts[fd] = b""
                if seconds:
                    held[fd].sendall(request)
                else:
                    held.pop(fd).close()
    took = time.perf_counter() - began
    for left in held.values():
        left.close()
    delays.sort()
    return {
        "streams": count,
        "ended": ended,
        "cut": cut,
        "chunks": chunks,
        "chunks_per_s": round(chunks / took, 1),
        "chunk_p50_ms": round(_at(delays, 0.5) * 1000, 4),
        "chunk_p99_ms": round(_at(delays, 0.99) * 1000, 4),
    }


def _is_whole(data: bytes, chunks: int) -> bool:
    """Whether a stream said everything that the upstream did."""
    text = b"".join(re.findall(rb'"content":"([^"]*)"', data)).decode()
    return text.startswith(STREAM_TEXT * chunks)

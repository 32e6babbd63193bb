"""What the gateway's benchmark runs against: bodies, an upstream with fixed answers, stand-ins for the control plane.

Every proxy is measured on the same upstream. Where nginx is installed, it gives the answers that are not streamed (it
costs least, so the proxies have more of the machine); streams come from a loop over raw sockets here, which writes into
each chunk when it was sent.
"""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import multiprocessing
import os
import re
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from finmaas_serving.guard.policy import PolicyDocument

KEY, PEPPER = "fmk_bench", "pepper"
MODEL = "default/default/bench"
APP = "ep_bench"
CHAT = "/v1/chat/completions"
STREAM_CHUNKS, STREAM_TEXT = 256, " 你好 word"
BODY_BYTES = 1024
WANTED = '"finish_reason":"stop"'
"""What every good answer holds, however a proxy writes its JSON anew."""
TEXT = "客户询问信用卡账单的还款日期 and how to dispute a charge. " * 40
GATEWAY_CORE, OTHER_CORE = 0, 1


def _json(value: Any) -> bytes:
    """As the OpenAI clients and vLLM write it: no spaces, UTF-8 as it is."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _of_size(make: Callable[[str], bytes]) -> bytes:
    """The body with as much of the text as makes it 1 KB; a Chinese character more or less."""
    fits = next(chars for chars in range(len(TEXT), 0, -1) if len(make(TEXT[:chars])) <= BODY_BYTES)
    return make(TEXT[:fits])


def chat_body(model: str = "bench", *, stream: bool = False) -> bytes:
    """A request of 1 KB; a stream may be longer than the first step of its reservation."""
    more: dict[str, Any] = {"stream": True, "max_tokens": 2 * STREAM_CHUNKS} if stream else {"max_tokens": 64}
    return _of_size(lambda text: _json({"model": model, "messages": [{"role": "user", "content": text}], **more}))


def answer_body() -> bytes:
    """An answer of 1 KB, written as vLLM writes it."""
    usage = {"prompt_tokens": 300, "total_tokens": 364, "completion_tokens": 64}
    base = {"id": "chatcmpl-0", "object": "chat.completion", "created": 1, "model": MODEL}

    def make(text: str) -> bytes:
        message = {"role": "assistant", "content": text}
        return _json({**base, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})

    return _of_size(make)


_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _event(i: int) -> bytes:
    """One chunk as vLLM writes it; `@` stands where the time of sending goes, in nanoseconds."""
    base = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": "@", "model": MODEL}
    delta = {"index": 0, "delta": {"content": STREAM_TEXT}, "logprobs": None, "finish_reason": None}
    count = {"prompt_tokens": 300, "total_tokens": 301 + i, "completion_tokens": i + 1}
    line = b"data: " + _json({**base, "choices": [delta], "usage": count}) + b"\n\n"
    return line.replace(b'"@"', b"%d")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class StreamUpstream:
    """Streams that advance together, one chunk each at every step, as an engine's batch does. One thread, epoll."""

    def __init__(self, port: int, step_s: float, chunks: int = STREAM_CHUNKS) -> None:
        self._step_s, self._chunks = step_s, chunks
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._sockets: dict[int, socket.socket] = {}
        self._read: dict[int, bytes] = {}
        self._streams: dict[int, int] = {}
        self._events = [_event(i).partition(b"%d") for i in range(chunks)]
        self._tail = self.tail()
        body = answer_body()
        self._whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._whole += body

    @staticmethod
    def tail() -> bytes:
        """How a stream ends: its last choice, its usage, and that it is done."""
        usage = {"prompt_tokens": 300, "total_tokens": 556, "completion_tokens": STREAM_CHUNKS}
        last = {"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}
        base = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
        end = [{**base, "choices": [last]}, {**base, "choices": [], "usage": usage}]
        events = b"".join(_chunk(b"data: " + _json(one) + b"\n\n") for one in end)
        return events + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"

    def run(self) -> None:
        """For ever."""
        due = time.monotonic() + self._step_s
        while True:
            for fd, _ in self._epoll.poll(max(0.0, due - time.monotonic())):
                self._readable(fd)
            if time.monotonic() >= due:
                due += self._step_s
                if due < time.monotonic():  # behind: the streams are as quick as this machine makes them
                    due = time.monotonic()
                self._step()

    def _readable(self, fd: int) -> None:
        if fd == self._listener.fileno():
            self._accept()
            return
        held = self._sockets[fd]
        try:
            data = held.recv(65536)
        except OSError:  # a proxy that ends cuts its connections
            data = b""
        if not data:
            self._drop(fd)
            return
        request = self._read.pop(fd, b"") + data
        head, _, body = request.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            self._read[fd] = request
        elif b'"stream":true' in body:
            held.send(_STREAM_HEAD)
            self._streams[fd] = 0
        else:
            held.send(self._whole)

    def _accept(self) -> None:
        try:
            while True:
                fresh, _ = self._listener.accept()
                fresh.setblocking(False)
                fresh.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets[fresh.fileno()] = fresh
                self._epoll.register(fresh, select.EPOLLIN)
        except BlockingIOError:
            pass

    def _drop(self, fd: int) -> None:
        self._streams.pop(fd, None)
        self._sockets.pop(fd).close()

    def _step(self) -> None:
        for fd, i in list(self._streams.items()):
            try:
                if i == self._chunks:
                    del self._streams[fd]
                    self._sockets[fd].send(self._tail)
                    continue
                before, _, after = self._events[i]
                self._sockets[fd].send(_chunk(b"%b%d%b" % (before, time.monotonic_ns(), after)))
                self._streams[fd] = i + 1
            except BlockingIOError:  # the proxy is behind: this stream waits
                self._streams[fd] = i
            except OSError:
                self._drop(fd)


def serve_delayed(port: int, delay_s: float) -> None:
    """Answers each request after a known delay, to within tens of microseconds: what a load generator is checked by."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    body = answer_body()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    waiting: list[tuple[float, socket.socket]] = []
    held: set[socket.socket] = set()
    while True:
        pause = max(0.0, waiting[0][0] - time.perf_counter()) if waiting else None
        for one in select.select([listener, *held], [], [], pause)[0]:
            if one is listener:
                fresh = listener.accept()[0]
                fresh.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                held.add(fresh)
            elif one.recv(65536):
                waiting.append((time.perf_counter() + delay_s, one))
            else:
                held.discard(one)
                one.close()
        while waiting and waiting[0][0] <= time.perf_counter():
            waiting.pop(0)[1].send(answer)


@contextmanager
def upstream(folder: Path, port: int, stream_port: int, step_s: float = 0.004) -> Iterator[str]:
    """Both upstreams; gives the name of what serves the answers that are not streamed."""
    process = multiprocessing.Process(target=_run_streams, args=(stream_port, step_s), daemon=True)
    process.start()
    nginx = None
    if shutil.which("nginx"):
        nginx = start_nginx(folder / "upstream", f"listen 127.0.0.1:{port}", f"return 200 '{answer_body().decode()}';")
    else:
        plain = multiprocessing.Process(target=_run_streams, args=(port, step_s), daemon=True)
        plain.start()
    wait_for_port(stream_port)
    wait_for_port(port)
    try:
        yield "nginx" if nginx else "python"
    finally:
        process.kill()
        if nginx:
            nginx.terminate()
            nginx.wait(10)
        else:
            plain.kill()


def _run_streams(port: int, step_s: float) -> None:
    pin(OTHER_CORE)
    StreamUpstream(port, step_s).run()


def start_nginx(folder: Path, listen: str, location: str, more: str = "", core: int = OTHER_CORE) -> Any:
    """nginx with one worker and one place, from the committed configuration."""
    folder.mkdir(parents=True)
    text = (Path(__file__).parent / "peers" / "nginx.conf").read_text()
    for name, value in {"FOLDER": str(folder), "LISTEN": listen, "LOCATION": location, "MORE": more}.items():
        text = text.replace(f"@{name}@", value)
    (folder / "nginx.conf").write_text(text)
    process = subprocess.Popen(["nginx", "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")])
    psutil.Process(process.pid).cpu_affinity([core % (os.cpu_count() or 1)])
    return process


class Neighbours:
    """What the gateway's feeds ask: the snapshot, the replicas, the ledger, and where usage goes. A thread for each
    server."""

    def __init__(
        self, api_port: int, dashboard_port: int, replica_port: int, policy: PolicyDocument | None, *, allowances: bool
    ) -> None:
        snapshot = snapshot_document(policy, allowances=allowances)
        handler = type("Handler", (_NeighbourHandler,), {"replica_port": replica_port, "snapshot": snapshot})
        self._servers = [
            http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) for port in (api_port, dashboard_port)
        ]
        for server in self._servers:
            server.daemon_threads = True
            server.handle_error = _expect_hang_ups  # type: ignore[method-assign]
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


def _expect_hang_ups(*args: Any) -> None:
    """A gateway that stops leaves in the middle of its polls."""


class _NeighbourHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # as servers in production have it
    replica_port: int
    snapshot: dict[str, Any]

    def do_GET(self) -> None:
        if self.path.startswith("/api/v1/gateway/snapshot?after=-1"):
            self._answer(self.snapshot)
        elif self.path.startswith("/api/v1/gateway/snapshot"):
            time.sleep(5)
            self.send_response(304)
            self.send_header("content-length", "0")
            self.end_headers()
        else:
            target = {"ip": "127.0.0.1", "port": self.replica_port, "name": "SERVE_REPLICA::bench"}
            group = {"app_name": APP, "protocol": "HTTP", "targets": [target]}
            self._answer({"applications": {APP: {}}, "target_groups": [group]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.startswith("/api/v1/gateway/usage"):
            newest = re.match(rb"\d+", body[body.rindex(b'"seq":') + 6 :])
            self._answer({"accepted_through": int(newest[0]) if newest else 0})
        elif self.path.startswith("/api/v1/gateway/ledger/"):
            self._answer(_ledger_answer(self.path.rpartition("/")[2], body))
        else:
            self._answer({})

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _ledger_answer(what: str, body: bytes) -> dict[str, Any]:
    """A ledger that hands out what is asked, and is never near an end; how it behaves there is not measured here."""
    if what == "recalls":
        time.sleep(5)
        return {"recalls": []}
    wants = json.loads(body).get("wants", [])
    grants = [
        {
            "allowance_id": want["allowance_id"], "starts_at": want["starts_at"],
            "slice": [one["allowance_id"] for one in ALLOWANCES].index(want["allowance_id"]) + 1,
            "granted": 2**50, "tight": False, "low": 2**40, "pool": 2**50, "settled": 0, "outstanding": 2**50,
        }
        for want in wants
    ]  # fmt: skip
    return {"epoch": 1, "now": time.time(), "grants": grants}


_PAID = {"tenant_id": "ten_1", "model": "", "limit": 2**60}
ALLOWANCES: list[dict[str, Any]] = [
    {**_PAID, "allowance_id": "alw_1", "scope": "project", "scope_id": "prj_1", "unit": "money", "window": "month",
     "currency": "CNY"},
    {**_PAID, "allowance_id": "alw_2", "scope": "key", "scope_id": "key_1", "unit": "tokens", "window": "minute"},
    {**_PAID, "allowance_id": "alw_3", "scope": "tenant", "scope_id": "ten_1", "unit": "requests", "window": "day"},
]  # fmt: skip
"""What a bank would set for an application: a budget a month, tokens a minute, requests a day."""
PRICES = [
    {"model": "*", "currency": "CNY", "valid_from": "2026-01-01", "input_nano": 10**9, "cached_nano": 10**8,
     "output_nano": 10**10, "reasoning_nano": 10**10}
]  # fmt: skip


def snapshot_document(policy: PolicyDocument | None, *, allowances: bool) -> dict[str, Any]:
    """The snapshot of one key, one endpoint, and a policy; with three allowances where asked."""
    ids = {"project_id": "prj_1", "project": "default/default", "tenant_id": "ten_1"}
    key = {"hash": hmac.new(PEPPER.encode(), KEY.encode(), hashlib.sha256).hexdigest(), "key_id": "key_1", "name": "b"}
    route = {
        "endpoint_id": APP, "name": MODEL, "short_name": "bench", "project_id": "prj_1", "app": APP,
        "model_name": MODEL, "model_version_id": "mdv_1", "model_version": "b@1", "state": "ready",
        "max_model_len": 4096,
    }  # fmt: skip
    policies = [{"project_id": "prj_1", "digest": "d", "document": msgspec.to_builtins(policy)}] if policy else []
    keys = [{**key, **ids, "models": ["*"]}]
    paid = {"allowances": ALLOWANCES, "prices": PRICES, "calendars": [{"tenant_id": "ten_1"}]} if allowances else {}
    base = {"number": 1, "issued_at": "now", "keys": keys, "routes": [route], "grants": [], "policies": policies}
    return {**base, **paid}


def pin(core: int) -> None:
    """The proxy under test has one core to itself; who loads it and who answers it share the other."""
    psutil.Process().cpu_affinity([core % (os.cpu_count() or 1)])


def wait_for_port(port: int, timeout_s: float = 30) -> None:
    """Until something listens there."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port} after {timeout_s} s")

"""What the gateway adds to a call: requests a second, latency, processor time for each streamed chunk.

    python tests/benchmarks/bench_gateway.py [--seconds 5] [--out build/bench/gateway.json]

Three processes: an upstream with fixed answers, the gateway as it runs in production (its feeds find a small stand-in
for the control plane and for Ray's dashboard in the upstream's process), and this one, which loads them. Every answer
is checked. Measured twice: bare (keys, metering), and with everything on (the strict policy: 24 rules both ways, marks,
provenance). The figures are of one machine at one time: read them beside the direct ones of the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import multiprocessing
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import httptools
import msgspec
import psutil
import uvloop

from finmaas_serving.guard.policy import strict_policy

KEY, PEPPER = "fmk_bench", "pepper"
MODEL = "default/default/bench"
APP = "ep_bench"
CHUNKS = 256
TEXT = "客户询问信用卡账单的还款日期 and how to dispute a charge. " * 12
SIDES = ("bare", "everything_on")


def _body(text: str, **more: Any) -> bytes:
    """As the OpenAI clients write it: no spaces, UTF-8 as it is."""
    value = {"model": "bench", "messages": [{"role": "user", "content": text}], **more}
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


BODY = _body(TEXT[:440], max_tokens=64)  # 1 KB
STREAM_BODY = _body("hi", stream=True)


def _event(value: dict[str, Any]) -> bytes:
    line = b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(line), line)


def _answers() -> tuple[bytes, bytes, bytes, list[bytes]]:
    usage = {"prompt_tokens": 300, "total_tokens": 364, "completion_tokens": 64}
    base = {"id": "chatcmpl-0", "object": "chat.completion", "created": 1, "model": MODEL}
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT[:330]}, "finish_reason": "stop"}
    body = json.dumps({**base, "choices": [choice], "usage": usage}, separators=(",", ":"), ensure_ascii=False).encode()
    whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    base["object"] = "chat.completion.chunk"
    events = []
    for i in range(CHUNKS):
        delta = {"index": 0, "delta": {"content": " 你好 word"}, "logprobs": None, "finish_reason": None}
        count = {"prompt_tokens": 300, "total_tokens": 301 + i, "completion_tokens": i + 1}
        events.append(_event({**base, "choices": [delta], "usage": count}))
    tail = _event({**base, "choices": [], "usage": usage}) + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    return whole, head, tail, events


class Upstream(asyncio.Protocol):
    """Fixed answers. Streams advance together, one chunk each at every step, as an engine's batch does."""

    whole, head, tail, events = _answers()
    step_s = 0.01
    streams: ClassVar[dict[Upstream, int]] = {}

    def connection_made(self, transport: Any) -> None:
        self.transport, self.parser = transport, httptools.HttpRequestParser(self)
        self.body = b""

    def connection_lost(self, exc: Exception | None) -> None:
        self.streams.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        if b'"stream":true' in body.replace(b" ", b""):
            self.transport.write(self.head)
            self.streams[self] = 0
        else:
            self.transport.write(self.whole)

    @classmethod
    async def step(cls) -> None:
        """Sends the next chunk of every stream."""
        while True:
            await asyncio.sleep(cls.step_s)
            for stream, i in list(cls.streams.items()):
                last = i == CHUNKS
                stream.transport.write(cls.tail if last else cls.events[i])
                if last:
                    del cls.streams[stream]
                else:
                    cls.streams[stream] = i + 1


class Neighbours(asyncio.Protocol):
    """What the gateway's feeds ask: the snapshot, the replicas, and where usage goes."""

    def __init__(self, replica_port: int, everything_on: bool) -> None:
        self.replica_port, self.everything_on = replica_port, everything_on

    def connection_made(self, transport: Any) -> None:
        self.transport, self.parser = transport, httptools.HttpRequestParser(self)
        self.body = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        if self.url.startswith(b"/api/v1/gateway/snapshot?after=-1"):
            self._answer(_snapshot(self.everything_on))
        elif self.url.startswith(b"/api/v1/gateway/snapshot"):
            later = b"HTTP/1.1 304 Not Modified\r\n\r\n"
            asyncio.get_running_loop().call_later(5, self.transport.write, later)
        elif self.url.startswith(b"/api/v1/gateway/usage"):
            self._answer({"accepted_through": json.loads(body)["records"][-1]["seq"]})
        else:
            target = {"ip": "127.0.0.1", "port": self.replica_port, "name": "SERVE_REPLICA::bench"}
            group = {"app_name": APP, "protocol": "HTTP", "targets": [target]}
            self._answer({"applications": {APP: {}}, "target_groups": [group]})

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


def _snapshot(everything_on: bool) -> dict[str, Any]:
    ids = {"project_id": "prj_1", "project": "default/default", "tenant_id": "ten_1"}
    key = {"hash": hmac.new(PEPPER.encode(), KEY.encode(), hashlib.sha256).hexdigest(), "key_id": "key_1", "name": "b"}
    route = {
        "endpoint_id": APP, "name": MODEL, "short_name": "bench", "project_id": "prj_1", "app": APP,
        "model_name": MODEL, "model_version_id": "mdv_1", "model_version": "b@1", "state": "ready", "max_model_len": 1,
    }  # fmt: skip
    keys = [{**key, **ids, "models": ["*"]}]
    policy = {"project_id": "prj_1", "digest": "d", "document": msgspec.to_builtins(strict_policy())}
    policies = [policy] if everything_on else []
    return {"number": 1, "issued_at": "now", "keys": keys, "routes": [route], "grants": [], "policies": policies}


def _serve_upstream(port: int, api_port: int, dashboard_port: int, ready: Any, everything_on: bool) -> None:
    _pin(1)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        await loop.create_server(Upstream, "127.0.0.1", port, backlog=4096)
        for other in (api_port, dashboard_port):
            await loop.create_server(lambda: Neighbours(port, everything_on), "127.0.0.1", other)
        ready.set()
        await Upstream.step()

    uvloop.run(serve())


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it has the whole answer."""

    def __init__(self, request: bytes, load: Load) -> None:
        self.request, self.load = request, load

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)
        self.ask()

    def ask(self) -> None:
        self.size = self.chunks = 0
        self.done = False
        self.started = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self.size += len(data)
        self.chunks += data.count(b"data: {")
        self.done = self.done or b"data: [DONE]" in data or b'"finish_reason":"stop"' in data

    def on_message_complete(self) -> None:
        self.load.note(self)
        if time.perf_counter() < self.load.until:
            self.ask()
        else:
            self.transport.close()
            self.load.open -= 1
            if not self.load.open:
                self.load.finished.set()


class Load:
    """What a run of connections saw."""

    def __init__(self, seconds: float, connections: int) -> None:
        self.until = time.perf_counter() + seconds
        self.open = connections
        self.finished = asyncio.Event()
        self.times: list[float] = []
        self.chunks = self.wrong = 0

    def note(self, client: Client) -> None:
        self.times.append(time.perf_counter() - client.started)
        self.chunks += client.chunks
        if client.parser.get_status_code() != 200 or not client.done:
            self.wrong += 1


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: b\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _load(port: int, request: bytes, connections: int, seconds: float, pid: int) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    load = Load(seconds, connections)
    process = psutil.Process(pid)
    before, began = sum(process.cpu_times()[:2]), time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: Client(request, load), "127.0.0.1", port)
    await load.finished.wait()
    took = time.perf_counter() - began
    cpu = sum(process.cpu_times()[:2]) - before
    times = sorted(load.times)
    return {
        "connections": connections,
        "requests": len(times),
        "wrong": load.wrong,
        "rps": round(len(times) / took, 1),
        "p50_ms": round(statistics.median(times) * 1000, 4),
        "p99_ms": round(times[int(len(times) * 0.99)] * 1000, 4),
        "chunks": load.chunks,
        "chunks_per_s": round(load.chunks / took, 1),
        "process_cpu_s": round(cpu, 3),
        "cpu_us_per_request": round(cpu / len(times) * 1e6, 2),
        "cpu_us_per_chunk": round(cpu / load.chunks * 1e6, 2) if load.chunks else None,
    }


def _start_gateway(home: Path, base: int) -> subprocess.Popen[bytes]:
    secrets = home / "secrets"
    secrets.mkdir(parents=True)
    for name, text in (("pepper", PEPPER), ("gateway.token", "fmg_bench")):
        (secrets / name).write_text(text)
    env = {**os.environ, "FINMAAS_HOME": str(home), "FINMAAS_PORT_BASE": str(base)}
    log = (home / "gateway.log").open("wb")
    gateway = subprocess.Popen([sys.executable, "-m", "finmaas_serving.gateway"], env=env, stderr=log)
    psutil.Process(gateway.pid).cpu_affinity([0])
    return gateway


def _pin(core: int) -> None:
    """The gateway has the first core to itself; who loads it and who answers it share the second."""
    psutil.Process().cpu_affinity([core % (os.cpu_count() or 1)])


async def _wait_ready(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /readyz HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n")
                answer = await reader.read()
                writer.close()
                if b'"count":1' in answer and b" 200 " in answer:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.05)


async def _measure(gateway_port: int, upstream_port: int, gateway_pid: int, upstream_pid: int, seconds: float) -> Any:
    await _wait_ready(gateway_port)
    path = "/v1/chat/completions"
    sides = {"direct": (upstream_port, upstream_pid), "gateway": (gateway_port, gateway_pid)}
    runs = {
        "one_connection": (BODY, 1),
        "32_connections": (BODY, 32),
        "32_streams": (STREAM_BODY, 32),
        "256_streams": (STREAM_BODY, 256),
    }
    found: dict[str, Any] = {}
    for name, (body, connections) in runs.items():
        for side, (port, pid) in sides.items():
            request = _request(f"/{APP}{path}" if side == "direct" else path, body)
            if name == "one_connection":
                await _load(port, request, connections, 0.5, pid)
            found[f"{name}.{side}"] = await _load(port, request, connections, seconds, pid)
    return found


def _free_base() -> int:
    """A port whose two neighbours (control plane, dashboard) are free too."""
    for base in range(23_000, 29_000, 10):
        try:
            for offset in (0, 1, 2, 9):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise SystemExit("no free ports between 23000 and 29000")


def main() -> int:
    """Runs the benchmark and writes its JSON; 1 when an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each of the eight runs")
    parser.add_argument("--out", type=Path, default=Path("build/bench/gateway.json"))
    given = parser.parse_args()
    _pin(1)
    runs = {side: _run_side(side == "everything_on", given.seconds) for side in SIDES}
    report = {"at": datetime.now(UTC).isoformat(), "machine": _machine(), **_summary(runs), "runs": runs}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({name: value for name, value in report.items() if name != "runs"}, indent=2))
    return 1 if report["wrong"] else 0


def _run_side(everything_on: bool, seconds: float) -> dict[str, Any]:
    base = _free_base()
    ready = multiprocessing.Event()
    ports = (base + 9, base + 1, base + 2)
    upstream = multiprocessing.Process(target=_serve_upstream, args=(*ports, ready, everything_on), daemon=True)
    upstream.start()
    ready.wait(10)
    with tempfile.TemporaryDirectory() as folder:
        gateway = _start_gateway(Path(folder) / "home", base)
        try:
            return dict(uvloop.run(_measure(base, base + 9, gateway.pid, upstream.pid or 0, seconds)))
        finally:
            gateway.send_signal(signal.SIGTERM)
            gateway.wait(60)
            upstream.kill()


def _summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"rps": runs["everything_on"]["32_connections.gateway"]["rps"]}
    for side, side_runs in runs.items():
        one, one_direct = side_runs["one_connection.gateway"], side_runs["one_connection.direct"]
        many = side_runs["32_connections.gateway"]
        found[side] = {
            "rps": many["rps"],
            "rps_direct": side_runs["32_connections.direct"]["rps"],
            "cpu_us_per_request": many["cpu_us_per_request"],
            "rps_of_a_whole_core": round(1e6 / many["cpu_us_per_request"], 1),
            "added_p50_ms": round(one["p50_ms"] - one_direct["p50_ms"], 4),
            "added_p99_ms": round(one["p99_ms"] - one_direct["p99_ms"], 4),
            "cpu_us_per_chunk_32_streams": side_runs["32_streams.gateway"]["cpu_us_per_chunk"],
            "cpu_us_per_chunk_256_streams": side_runs["256_streams.gateway"]["cpu_us_per_chunk"],
            "chunks_per_s_256_streams": side_runs["256_streams.gateway"]["chunks_per_s"],
        }
    found["wrong"] = sum(run["wrong"] for side_runs in runs.values() for run in side_runs.values())
    return found


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]}


if __name__ == "__main__":
    sys.exit(main())

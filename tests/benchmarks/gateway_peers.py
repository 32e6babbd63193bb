"""Starts the proxies that are compared, one process each: ours, nginx, LiteLLM's proxy, Portkey's gateway.

Peers live in environments of their own under build/peers (`make peers`), with the versions of requirements/peers.txt
and peers/portkey/package-lock.json, and the configuration committed under peers/.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from gateway_load import Target
from gateway_world import (
    GATEWAY_CORE,
    KEY,
    MODEL,
    PEPPER,
    WANTED,
    Neighbours,
    chat_body,
    start_nginx,
    wait_for_port,
)  # fmt: skip

from finmaas_serving.guard.policy import PolicyDocument

PEERS = Path("build/peers")
HERE = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Proxy:
    """One that runs: where to load it, and the process whose cost counts."""

    name: str
    version: str
    target: Target
    pid: int

    def cpu_s(self) -> float:
        """Processor time of the process and its children so far."""
        process = psutil.Process(self.pid)
        return float(sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True))))

    def rss(self) -> int:
        """Memory held, in bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)


@contextmanager
def ours(
    folder: Path,
    upstream_port: int,
    policy: PolicyDocument | None,
    *,
    allowances: bool,
    stream: bool = False,
    busy_poll_us: int | None = None,
) -> Iterator[Proxy]:
    """Our gateway as it runs in production, its feeds beside it. `busy_poll_us` None: what it has by default."""
    base = free_base()
    neighbours = Neighbours(base + 1, base + 2, upstream_port, policy, allowances=allowances)
    home = folder / f"home-{base}-{time.monotonic_ns()}"
    (home / "secrets").mkdir(parents=True)
    for name, text in (("pepper", PEPPER), ("gateway.token", "fmg_bench")):
        (home / "secrets" / name).write_text(text)
    env = {"FINMAAS_HOME": str(home), "FINMAAS_PORT_BASE": str(base)}
    if busy_poll_us is not None:
        env["FINMAAS_GATEWAY_BUSY_POLL_US"] = str(busy_poll_us)
    target = Target(base, chat_body(stream=stream), {"authorization": f"Bearer {KEY}"})
    command = [sys.executable, "-m", "finmaas_serving.gateway"]
    try:
        with _process("ours", command, env, home / "gateway.log", target) as proxy:
            _wait_ready(base)
            yield proxy
    finally:
        neighbours.close()
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def nginx(folder: Path, upstream_port: int) -> Iterator[Proxy]:
    """nginx passing everything through over kept connections."""
    port = free_base()
    pool = f"upstream replica {{ server 127.0.0.1:{upstream_port}; keepalive 512; keepalive_requests 1000000000; }}"
    place = "proxy_pass http://replica; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_buffering on;"
    process = start_nginx(folder / "nginx", f"listen 127.0.0.1:{port}", place, pool, GATEWAY_CORE)
    wait_for_port(port)
    version = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr.strip()
    try:
        yield Proxy("nginx", version, Target(port, chat_body()), process.pid)
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def litellm(folder: Path, upstream_port: int) -> Iterator[Proxy]:
    """LiteLLM's proxy with one worker."""
    port = free_base()
    command = [str(PEERS / "litellm/bin/litellm"), "--config", str(HERE / "litellm.yaml"), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1"]
    env = {
        "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "UPSTREAM": f"http://127.0.0.1:{upstream_port}/v1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    target = Target(port, chat_body(), {"authorization": "Bearer sk-bench"})
    with _process("litellm", command, env, folder / "litellm.log", target) as proxy:
        yield proxy


@contextmanager
def portkey(folder: Path, upstream_port: int) -> Iterator[Proxy]:
    """Portkey's gateway: it is told its upstream by headers."""
    port = free_base()
    command = ["node", str(PEERS / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"), "--headless"]
    command.append(f"--port={port}")
    headers = {
        "authorization": "Bearer none", "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1",
    }  # fmt: skip
    target = Target(port, chat_body(MODEL), headers)
    with _process("portkey", command, {"NODE_ENV": "production"}, folder / "portkey.log", target) as proxy:
        yield proxy


def missing(name: str) -> str | None:
    """Why a peer cannot be measured here; None when it can."""
    if name == "nginx" and not shutil.which("nginx"):
        return "nginx is not installed: `apt-get install nginx-light`"
    if name == "litellm" and not (PEERS / "litellm/bin/litellm").exists():
        return "LiteLLM is not installed: `make peers`"
    if name == "portkey" and not (PEERS / "portkey/node_modules").exists():
        return "Portkey's gateway is not installed: `make peers` (wants npm)"
    return None


@contextmanager
def _process(name: str, command: list[str], env: dict[str, str], log: Path, target: Target) -> Iterator[Proxy]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=out, stderr=out)
    psutil.Process(process.pid).cpu_affinity([GATEWAY_CORE])
    try:
        _wait_answer(process, target, log)
        yield Proxy(name, _version(name), target, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_answer(process: subprocess.Popen[bytes], target: Target, log: Path, timeout_s: float = 90) -> None:
    """Until it gives the right answer; a peer that never does ends the benchmark and shows its log."""
    until = time.monotonic() + timeout_s
    last = "no answer"
    while time.monotonic() < until and process.poll() is None:
        try:
            status, text = _ask("POST", target)
            if status == 200 and (WANTED in text.replace('": "', '":"') or "[DONE]" in text):
                return
            last = f"{status} {text[:500]}"
        except OSError as error:
            last = str(error)
        time.sleep(0.1)
    raise SystemExit(f"{log.stem} did not come up: {last}\n{log.read_text(errors='replace')[-3000:]}")


def _ask(method: str, target: Target) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)
    headers = {"content-type": "application/json", **target.headers}
    try:
        connection.request(method, target.path, target.body or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def _wait_ready(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        status, text = _ask("GET", Target(port, b"", path="/readyz"))
        if status == 200 and '"count":1' in text:
            return
        time.sleep(0.05)
    raise SystemExit(f"the gateway on port {port} is not ready: {text}")


def _version(name: str) -> str:
    if name == "litellm":
        pinned = [line for line in Path("requirements/peers.in").read_text().splitlines() if line.startswith("litellm")]
        return pinned[0].rpartition("==")[2]
    if name == "portkey":
        return (HERE / "portkey" / "package.json").read_text().partition('gateway": "')[2].partition('"')[0]
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()


def free_base() -> int:
    """A port whose neighbours (control plane, dashboard) are free too."""
    for base in range(23_000, 29_000, 10):
        try:
            for offset in (0, 1, 2, 5, 8, 9):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise SystemExit("no free ports between 23000 and 29000")

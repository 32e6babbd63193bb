"""Measures what the way to the engine costs: vLLM's own server, a replica's port, the gateway. One after the other.

    python tests/benchmarks/bench_serving.py                  # a small model, and a Ray of its own for the replica
    python tests/benchmarks/bench_serving.py --model DIR \\
        --replica http://127.0.0.1:8120/ep_1 --replica-model default/default/banking \\
        --gateway http://127.0.0.1:8100 --gateway-model banking --key fmk_...

The same load client and the same prompts are used for each; every answer is checked. Figures of different runs of one
machine differ by some percent: compare within one file, and look at the load average in it. The client speaks HTTP
itself, so that it takes little of the processor that it shares with what it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MAX_TOKENS = 64
READY_TIMEOUT_S = 300.0
ENGINE_ARGUMENTS = ("--max-model-len", "1024")
# On CPUs both sides run the model in the scheduler's process with one thread less than there are cores, as our replicas
# do. With vLLM's own default (a process apart, a thread per core) its first token takes twenty times as long here.
CPU_ARGUMENTS = ("--enforce-eager", "--distributed-executor-backend", "uni")


@dataclass(frozen=True)
class Target:
    """Where requests go: an address up to the `/v1`, the model's name there, and a bearer token where one is wanted."""

    name: str
    url: str
    model: str
    key: str = ""


@dataclass(frozen=True)
class Answer:
    """One streamed answer: seconds to the first token and to the end, and tokens as the engine counted them."""

    first_token_s: float
    total_s: float
    tokens: int


@dataclass(frozen=True)
class Figures:
    """What one target did."""

    ttft_ms_p50: float
    ttft_ms_p95: float
    tokens_per_s_1: float
    tokens_per_s: dict[str, float]


class BadAnswer(Exception):
    """An answer was refused, cut short or empty; a benchmark of wrong answers says nothing."""


async def stream_chat(target: Target, prompt: str) -> Answer:
    """Sends one streamed chat completion on a connection of its own and reads it to the end. Raises BadAnswer."""
    url = urlsplit(target.url)
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(_request(target, url.path.rstrip("/"), url.netloc, prompt))
        status = await reader.readline()
        if b" 200 " not in status:
            raise BadAnswer(f"{target.name}: {status!r} {await reader.read(2000)!r}")
        first, tokens = 0.0, 0
        async for event in _events(reader):
            if event["choices"] and "role" not in event["choices"][0]["delta"]:
                first = first or time.perf_counter()
            if usage := event.get("usage"):
                tokens = usage["completion_tokens"]
        ended = time.perf_counter()
    finally:
        writer.close()
    if tokens != MAX_TOKENS or not first:
        raise BadAnswer(f"{target.name}: {tokens} tokens instead of {MAX_TOKENS}")
    return Answer(first - started, ended - started, tokens)


async def measure(target: Target, clients: tuple[int, ...], requests: int) -> Figures:
    """Warms up, then one client for the time to first token, then so many clients at once for tokens a second."""
    await _load(target, 4, 8, "warm")
    alone = await _load(target, 1, 40, "one")
    waits = sorted(answer.first_token_s * 1000 for answer in alone[0])
    rates = {}
    for count in clients:
        answers, wall_s = await _load(target, count, requests * count // 8, f"many{count}")
        rates[str(count)] = round(sum(answer.tokens for answer in answers) / wall_s, 1)
    return Figures(
        ttft_ms_p50=round(statistics.median(waits), 2),
        ttft_ms_p95=round(waits[int(len(waits) * 0.95)], 2),
        tokens_per_s_1=round(sum(answer.tokens for answer in alone[0]) / alone[1], 1),
        tokens_per_s=rates,
    )


async def _load(target: Target, clients: int, requests: int, tag: str) -> tuple[list[Answer], float]:
    """So many clients share so many requests, each sending its next one when the last has ended."""
    prompts = iter([_prompt(tag, number) for number in range(requests)])
    answers: list[Answer] = []

    async def one_client() -> None:
        for prompt in prompts:
            answer = await stream_chat(target, prompt)
            answers.append(answer)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one_client())
    return answers, time.perf_counter() - started


def _prompt(tag: str, number: int) -> str:
    return f"Question {tag} {number}: how do I open a second account, and which card comes with it?"


def _request(target: Target, prefix: str, host: str, prompt: str) -> bytes:
    body = json.dumps(
        {
            "model": target.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": MAX_TOKENS,
            # Greedy, a model without training says one piece of text for ever, or none at all; then no event is sent.
            "temperature": 1,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    key = f"Authorization: Bearer {target.key}\r\n" if target.key else ""
    head = (
        f"POST {prefix}/v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"{key}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The JSON events of an SSE body. Lines of chunked framing do not begin with `data:` and are skipped."""
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            return
        yield json.loads(line[6:])
    raise BadAnswer("the stream ended without [DONE]")


@contextlib.contextmanager
def bare_vllm(model: Path, port: int, arguments: list[str]) -> Iterator[tuple[Target, float]]:
    """vLLM's own OpenAI server as a child process; gives the target and the seconds until it was ready."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "bare", "--host", "127.0.0.1", "--port", str(port), *arguments]
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        started = time.perf_counter()
        threads = str(max(1, len(os.sched_getaffinity(0)) - 1))
        env = {"OMP_NUM_THREADS": threads, "VLLM_CPU_KVCACHE_SPACE": "1", **os.environ}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{port}/health", log.name)
            yield Target("vllm", f"http://127.0.0.1:{port}", "bare"), time.perf_counter() - started
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.2)
    raise SystemExit(f"vLLM did not become ready:\n{Path(log).read_text()[-3000:]}")


def main() -> None:
    options = _parse()
    clients = tuple(int(one) for one in options.clients.split(","))
    report: dict[str, Any] = {"at": datetime.now(UTC).isoformat(), "commit": _commit(), "machine": _machine()}

    def take(target: Target) -> None:
        _add(report, target, asyncio.run(measure(target, clients, options.requests)))

    with tempfile.TemporaryDirectory(prefix="fmbench-") as scratch:
        model = Path(options.model) if options.model else make_small_model(Path(scratch))
        arguments = [*ENGINE_ARGUMENTS, *(() if options.gpu else CPU_ARGUMENTS), *options.engine_argument]
        if not options.gpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        with bare_vllm(model, options.bare_port, arguments) as (target, ready_s):
            take(target)
            report |= {"vllm_ready_s": round(ready_s, 1), "vllm_arguments": arguments}
        if options.replica:
            take(Target("replica", options.replica, options.replica_model, options.replica_secret))
        elif not options.gateway:
            with own_replica(model, Path(scratch) / "home") as (target, ready_s):
                take(target)
                report["replica_ready_s"] = round(ready_s, 1)
        if options.gateway:
            take(Target("gateway", options.gateway, options.gateway_model, options.key))
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


def make_small_model(folder: Path) -> Path:
    """A small model with a tokenizer and a chat template, without training."""
    rows = ["text,label", *(f"my card {number} did not arrive,card-arrival" for number in range(200))]
    (folder / "rows.csv").write_text("\n".join(rows))
    command = [sys.executable, "-m", "finmaas_training.base_model"]
    subprocess.run([*command, "--texts", folder / "rows.csv", "--out", folder / "model"], check=True)
    return folder / "model"


@contextlib.contextmanager
def own_replica(model: Path, home: Path) -> Iterator[tuple[Target, float]]:
    """An endpoint on a Ray started for it; gives the replica and the seconds from deployment to readiness."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
    from integration_helpers import find_port_block, wait_until
    from serving_parts import control_plane_of_one_model, ray_of_our_own

    from finmaas_core.home import read_secret
    from finmaas_core.settings import Settings
    from finmaas_platform.cluster.port import ServeApplication
    from finmaas_serving.replica_door import derive_replica_secret

    settings = Settings(home=home, port_base=find_port_block())
    args = {
        "endpoint_id": "ep_bench",
        "model_version_id": "mdv_bench",
        "model_name": "bench",
        "replicas": 1,
        "engine": {"max_model_len": int(ENGINE_ARGUMENTS[1])},
    }
    wanted = ServeApplication("ep_bench", "finmaas_serving.llm_app:build_app", args)
    with ray_of_our_own(settings, Path(__file__).parent) as cluster:
        with control_plane_of_one_model(settings, model, "mdv_bench"):
            started = time.perf_counter()
            cluster.put_applications([wanted])
            wait_until(lambda: cluster.observe_applications()["ep_bench"].replicas, READY_TIMEOUT_S, "the replica")
            ready_s = time.perf_counter() - started
        address = cluster.observe_applications()["ep_bench"].replicas[0]
        secret = derive_replica_secret(read_secret(settings.paths.cluster_token))
        yield Target("replica", f"http://{address}/ep_bench", "bench", secret), ready_s


def _add(report: dict[str, Any], target: Target, figures: Figures) -> None:
    """Adds figures, and beside them what they are of vLLM's own."""
    report[target.name] = asdict(figures)
    bare = report.get("vllm")
    if isinstance(bare, dict) and target.name != "vllm":
        report[f"{target.name}_against_vllm"] = {
            "added_ttft_ms_p50": round(figures.ttft_ms_p50 - bare["ttft_ms_p50"], 2),
            "throughput": {n: round(rate / bare["tokens_per_s"][n], 3) for n, rate in figures.tokens_per_s.items()},
        }


def _machine() -> dict[str, object]:
    """Whose figures these are; a load average far above zero says that the machine had other work."""
    return {"cpus": os.cpu_count(), "load_1m": round(os.getloadavg()[0], 2), "python": platform.python_version()}


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="", help="model folder; empty: a small one is made")
    parser.add_argument("--bare-port", type=int, default=8190)
    parser.add_argument("--engine-argument", action="append", default=[], help="further argument of vLLM's own server")
    parser.add_argument("--gpu", action="store_true", help="vLLM's own server on the GPU")
    parser.add_argument("--replica", default="", help="address of a replica, route prefix included")
    parser.add_argument("--replica-model", default="")
    parser.add_argument("--gateway", default="", help="address of the gateway")
    parser.add_argument("--gateway-model", default="")
    parser.add_argument("--replica-secret", default=os.environ.get("FINMAAS_REPLICA_SECRET", ""))
    parser.add_argument("--key", default=os.environ.get("FINMAAS_API_KEY", ""))
    parser.add_argument("--clients", default="8,32")
    parser.add_argument("--requests", type=int, default=32, help="requests at 8 clients; in proportion for others")
    parser.add_argument("--out", default="build/bench/serving.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""The gateway beside its peers: requests a second, added latency, streams, memory, and what each feature costs.

    python tests/benchmarks/bench_gateway.py [--seconds 5] [--memory-requests 1000000] [--only peers,latency,…]
                                             [--out build/bench/gateway.json]

Each proxy runs alone, one process on one core, in front of the same upstream; load and upstream share the other core.
Every answer is checked. Figures are of one machine at one time: compare within a run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gateway_peers as peers
from gateway_load import Target, closed_loop, open_loop, streams
from gateway_peers import Proxy
from gateway_world import APP, CHAT, OTHER_CORE, StreamUpstream, chat_body, pin, serve_delayed, upstream, wait_for_port

from finmaas_serving import compiled
from finmaas_serving.guard.policy import Action, Marks, PolicyDocument, RuleUse, strict_policy

CONNECTIONS = 32
OPEN_RATE = 5_000
OWN_CORE_US = 10_000  # `gateway_busy_poll_us` for a core that is the gateway's own
DELAY_S = 0.002
OPEN_STEP_S, OPEN_CHUNKS = 1.0, 30
STRICT = strict_policy()
PARTS: dict[str, PolicyDocument] = {
    "screening requests": PolicyDocument(tuple(RuleUse(one.rule, one.input) for one in STRICT.rules)),
    "screening answers": PolicyDocument(tuple(RuleUse(one.rule, Action.OFF, one.output) for one in STRICT.rules)),
    "visible mark": PolicyDocument(marks=Marks(text=STRICT.marks.text)),
    "sealed provenance": PolicyDocument(marks=Marks(provenance=True)),
}


class Bench:
    """One run of the benchmark: its folder, its upstreams, how long each load lasts."""

    def __init__(self, folder: Path, port: int, stream_port: int, seconds: float, memory_requests: int) -> None:
        self.folder, self.port, self.stream_port = folder, port, stream_port
        self.seconds, self.memory_requests = seconds, memory_requests
        self.wrong = 0

    def ours(
        self, policy: PolicyDocument | None, *, allowances: bool = False, stream: bool = False
    ) -> AbstractContextManager[Proxy]:
        port = self.stream_port if stream else self.port
        return peers.ours(self.folder, port, policy, allowances=allowances, stream=stream)

    def full(self, *, stream: bool = False, busy_poll_us: int | None = None) -> AbstractContextManager[Proxy]:
        """Ours with everything on."""
        port = self.stream_port if stream else self.port
        return peers.ours(self.folder, port, STRICT, allowances=True, stream=stream, busy_poll_us=busy_poll_us)

    def closed(self, proxy: Proxy, connections: int = CONNECTIONS, seconds: float | None = None) -> dict[str, Any]:
        """A closed loop after a second of warming up, with the processor time of the proxy."""
        closed_loop(proxy.target, connections, 1, self.folder)
        before = proxy.cpu_s()
        found = closed_loop(proxy.target, connections, seconds or self.seconds, self.folder)
        return self._note(found, proxy.cpu_s() - before)

    def _note(self, found: dict[str, Any], cpu_s: float) -> dict[str, Any]:
        self.wrong += found.get("wrong", 0) + found.get("cut", 0)
        if found.get("requests"):
            found["cpu_us_per_request"] = round(cpu_s / found["requests"] * 1e6, 2)
        if found.get("chunks"):
            found["cpu_us_per_chunk"] = round(cpu_s / found["chunks"] * 1e6, 2)
        return found

    def direct(self) -> Target:
        return Target(self.port, chat_body(), path=f"/{APP}{CHAT}")

    # The parts of the report.

    def measure_peers(self) -> dict[str, Any]:
        """Requests a second of each, closed loop."""
        runs: dict[str, Any] = {"direct": closed_loop(self.direct(), CONNECTIONS, self.seconds, self.folder)}
        start: dict[str, Callable[[], AbstractContextManager[Proxy]]] = {
            "ours_bare": lambda: self.ours(None),
            "ours": self.full,
            "nginx": lambda: peers.nginx(self.folder, self.port),
            "portkey": lambda: peers.portkey(self.folder, self.port),
            "litellm": lambda: peers.litellm(self.folder, self.port),
        }
        for name, begin in start.items():
            if (why := peers.missing(name)) is not None:
                runs[name] = {"missing": why}
                continue
            with begin() as proxy:
                runs[name] = {"version": proxy.version, **self.closed(proxy)}
            if name not in ("ours", "ours_bare", "nginx"):
                runs[name]["error_rate"] = round(runs[name]["wrong"] / max(1, runs[name]["requests"]), 5)
            _say(name, runs[name])
        rps = {name: run.get("rps") for name, run in runs.items()}
        ratios = {f"ratio_{peer}": _ratio(rps["ours"], rps[peer]) for peer in ("litellm", "portkey", "nginx")}
        keys = {f"rps_{peer}": rps[peer] for peer in ("litellm", "portkey", "nginx", "direct")}
        return {"rps": rps["ours"], "rps_bare": rps["ours_bare"], **keys, **ratios, "throughput": runs}

    def measure_latency(self) -> dict[str, Any]:
        """Added at one connection and at 5,000 a second, after the generator was checked on a known delay."""
        runs: dict[str, Any] = {"generator_check": self._check_generator()}
        loads: dict[str, Callable[[Target], dict[str, Any]]] = {
            "one": lambda target: closed_loop(target, 1, self.seconds, self.folder),
            "open": lambda target: open_loop(target, OPEN_RATE, self.seconds),
        }
        with self.full() as proxy:
            for name, load in loads.items():
                load(proxy.target)
                for side, target in (("direct", self.direct()), ("gateway", proxy.target)):
                    before = proxy.cpu_s()
                    runs[f"{name}_{side}"] = self._note(load(target), proxy.cpu_s() - before)
                    _say(f"{name} {side}", runs[f"{name}_{side}"])
        added: dict[str, Any] = {}
        for name, label in (("one", "1_connection"), ("open", f"{OPEN_RATE}_per_s")):
            for point in ("p50", "p99"):
                gateway, direct = (runs[f"{name}_{side}"][f"{point}_ms"] for side in ("gateway", "direct"))
                added[f"added_{point}_ms_{label}"] = round(gateway - direct, 4)
        return {**added, "latency": runs}

    def _check_generator(self) -> dict[str, Any]:
        port = peers.free_base()
        process = multiprocessing.Process(target=serve_delayed, args=(port, DELAY_S), daemon=True)
        process.start()
        wait_for_port(port)
        found = open_loop(Target(port, chat_body()), 500, 3)
        process.kill()
        if not DELAY_S * 1000 <= found["p50_ms"] <= DELAY_S * 1000 + 0.5:
            raise SystemExit(f"the load generator measured {found['p50_ms']} ms where the upstream waits {DELAY_S} s")
        return {"known_delay_ms": DELAY_S * 1000, **found}

    def measure_streams(self) -> dict[str, Any]:
        """Chunks through all guardrails: as many as go, and what each is delayed by when there is room: as the gateway
        is by default, and as it is set on a core of its own, where it need not sleep between chunks."""
        runs: dict[str, Any] = {}
        direct = Target(self.stream_port, chat_body(stream=True), path=f"/{APP}{CHAT}")
        for label, busy_poll_us, counts in (("", None, (8, 256)), ("own_core_", OWN_CORE_US, (8,))):
            with self.full(stream=True, busy_poll_us=busy_poll_us) as proxy:
                for count in counts:
                    for side, target in (("direct", direct), ("gateway", proxy.target)):
                        before = proxy.cpu_s()
                        found = self._note(streams(target, count, self.seconds), proxy.cpu_s() - before)
                        runs[f"{label}{count}_{side}"] = found
                        _say(f"{label}{count} streams {side}", found)
        added = {
            label: round(runs[f"{label}8_gateway"]["chunk_p50_ms"] - runs[f"{label}8_direct"]["chunk_p50_ms"], 4)
            for label in ("", "own_core_")
        }
        return {
            "chunks_per_s": runs["256_gateway"]["chunks_per_s"],
            "added_chunk_p50_ms": added["own_core_"],
            "added_chunk_p50_ms_by_default": added[""],
            "cpu_us_per_chunk": runs["256_gateway"]["cpu_us_per_chunk"],
            "streaming": runs,
        }

    def measure_memory(self) -> dict[str, Any]:
        """Held after 10,000 requests and after many more."""
        with self.full() as proxy:
            done, first = 0, 0
            while done < self.memory_requests:
                found = closed_loop(proxy.target, CONNECTIONS, 1 if not first else self.seconds, self.folder)
                done += found["requests"]
                self.wrong += found["wrong"]
                if not first and done >= 10_000:
                    first, at_first = proxy.rss(), done
            last = proxy.rss()
        found = {"requests_first": at_first, "rss_first": first, "requests_last": done, "rss_last": last}
        _say("memory", found)
        return {"memory_ratio": round(last / first, 4), "memory": found}

    def measure_parts(self) -> dict[str, Any]:
        """What each feature adds, in microseconds of processor time a request."""
        costs: dict[str, float] = {}
        with self.ours(None) as proxy:
            costs["bare: HTTP both ways, key, route, metering"] = self.closed(proxy)["cpu_us_per_request"]
        bare = costs["bare: HTTP both ways, key, route, metering"]
        for name, policy in PARTS.items():
            with self.ours(policy) as proxy:
                costs[f"+ {name}"] = round(self.closed(proxy)["cpu_us_per_request"] - bare, 2)
        with self.ours(None, allowances=True) as proxy:
            costs["+ allowances"] = round(self.closed(proxy)["cpu_us_per_request"] - bare, 2)
        with self.full() as proxy:
            costs["everything on"] = self.closed(proxy)["cpu_us_per_request"]
        _say("costs", costs)
        return {"us_per_feature": costs}


def measure_open_streams(bench: Bench, count: int) -> dict[str, Any]:
    """Many streams at once, each read to its end, in one process."""
    port = peers.free_base() + 5
    slow = multiprocessing.Process(target=_slow_streams, args=(port,), daemon=True)
    slow.start()
    wait_for_port(port)
    with peers.ours(bench.folder, port, STRICT, allowances=True, stream=True) as proxy:
        before = proxy.rss()
        reader = multiprocessing.Pool(1)
        reading = reader.apply_async(streams, (proxy.target, count, 0, OPEN_CHUNKS))
        peak = before
        while not reading.ready():
            peak = max(peak, proxy.rss())
            reading.wait(0.2)
        found = reading.get()
        reader.terminate()
    slow.kill()
    bench.wrong += found["cut"]
    found.update({"rss_before": before, "rss_peak": peak})
    _say("open streams", found)
    return {"open_streams": count, "open_streams_cut": found["cut"], "open_streams_peak_bytes": peak, "streams": found}


def _slow_streams(port: int) -> None:
    pin(OTHER_CORE)
    StreamUpstream(port, OPEN_STEP_S, OPEN_CHUNKS).run()


def _ratio(mine: float, other: float | None) -> float | None:
    return round(mine / other, 3) if other else None


def _say(what: str, found: dict[str, Any]) -> None:
    print(f"{what}: {json.dumps(found)}", file=sys.stderr, flush=True)


def main() -> int:
    """Runs the benchmark and writes its JSON; 1 when an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each load")
    parser.add_argument("--memory-requests", type=int, default=1_000_000)
    parser.add_argument("--open-streams", type=int, default=9_000)
    parser.add_argument("--only", default="peers,latency,streams,parts,open,memory")
    parser.add_argument("--out", type=Path, default=Path("build/bench/gateway.json"))
    given = parser.parse_args()
    pin(OTHER_CORE)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    report: dict[str, Any] = {"at": datetime.now(UTC).isoformat(), "machine": _machine()}
    with tempfile.TemporaryDirectory() as folder:
        base = peers.free_base()
        with upstream(Path(folder), base + 8, base + 9) as kind:
            bench = Bench(Path(folder), base + 8, base + 9, given.seconds, given.memory_requests)
            report["upstream"] = kind
            steps: dict[str, Callable[[], dict[str, Any]]] = {
                "peers": bench.measure_peers,
                "latency": bench.measure_latency,
                "streams": bench.measure_streams,
                "parts": bench.measure_parts,
                "open": lambda: measure_open_streams(bench, given.open_streams),
                "memory": bench.measure_memory,
            }
            for name in given.only.split(","):
                report.update(steps[name]())
    report["wrong"] = bench.wrong
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps({name: value for name, value in report.items() if not isinstance(value, dict)}, indent=2))
    return 1 if report["wrong"] else 0


def _machine() -> dict[str, Any]:
    python = f"{platform.python_version()}, {platform.python_build()[1]}, {platform.python_compiler()}"
    return {"cores": os.cpu_count(), "python": python, "compiled": compiled.is_here(), "load": os.getloadavg()[0]}


if __name__ == "__main__":
    sys.exit(main())

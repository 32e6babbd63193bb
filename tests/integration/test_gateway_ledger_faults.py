"""Gateways and the ledger as real processes, killed under load: nothing unmetered, nothing over the limit or lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from allowance_world import PROMPT_TOKENS, World, body_of, bound_of, exchange, free_base

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

USED = 50
COST = PROMPT_TOKENS + USED
BODY = {"tokens": USED, "max_tokens": USED}
LIMIT = 16_000


class Tokens:
    """Counts tokens where prices count money."""

    def most(self, prompt: int, output: int) -> int:
        return prompt + output


BOUND = bound_of(body_of(USED, max_tokens=USED), Tokens())


@contextlib.asynccontextmanager
async def running(folder: Path, gateways: int) -> AsyncIterator[World]:
    world = World(folder / "home", free_base(), delay_s=0.005)
    try:
        await world.start(gateways)
        yield world
    finally:
        world.stop()


async def snapshot_of(world: World, number: int) -> int:
    _, body = await world.http(world.base + 10 + number, "GET", "/readyz", None, "")
    return int(json.loads(body)["snapshot"]["number"])


async def allow(world: World, limit: int, gateways: int) -> str:
    """Sets the allowance, and waits until all gateways know of it."""
    before = [await snapshot_of(world, number) for number in range(1, gateways + 1)]
    fields = {"scope": "project", "subject": "default/default", "unit": "tokens", "window": "day"}
    made = await world.api("PUT", "/allowances", {**fields, "limit": str(limit)})

    async def known() -> bool:
        after = [await snapshot_of(world, number) for number in range(1, gateways + 1)]
        return all(new > old for new, old in zip(after, before, strict=True))

    await world.until(known)
    return str(made["id"])


async def drain(world: World, number: int, statuses: list[int]) -> None:
    """Asks a gateway until it refuses or is gone."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.base + 10 + number)
        while not statuses or statuses[-1] == 200 or len(statuses) < 3:
            body = body_of(USED, max_tokens=USED)
            status, _ = await exchange(reader, writer, "POST", "/v1/chat/completions", body, world.key)
            statuses.append(status)
            if status != 200:
                break
        writer.close()


async def settled(world: World, allowance: str, at_least: int) -> dict[str, Any]:
    """The window, once all that was finished is delivered."""
    found: dict[str, Any] = {}

    async def there() -> bool:
        found.update(await world.spent(allowance))
        return int(found["settled"]) >= at_least

    await world.until(there)
    return found


def test_kill_9_under_load_gains_and_loses_no_allowance(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 2) as world:
            allowance = await allow(world, LIMIT, 2)
            seen: list[list[int]] = [[] for _ in range(8)]
            clients = [asyncio.create_task(drain(world, 1 + place % 2, seen[place])) for place in range(8)]

            async def some() -> bool:
                return sum(map(len, seen)) >= 80

            await world.until(some)
            world.kill("gw-1")
            world.start_gateway(1)
            await asyncio.gather(*clients)  # those of the other one end with a refusal
            await world.until(lambda: world._ready(1))
            rest: list[int] = []

            async def until_the_end() -> bool:
                """What the dead process held is free again once its records are delivered; then all of it is spent."""
                for number in (1, 2):
                    await drain(world, number, statuses := [])
                    rest.extend(statuses)
                found = await world.spent(allowance)
                return LIMIT - int(found["settled"]) < BOUND

            await world.until(until_the_end)
            finished = COST * (sum(one.count(200) for one in seen) + rest.count(200))
            found = await settled(world, allowance, finished)
            assert finished <= int(found["settled"]) <= LIMIT
            assert world.served * COST >= int(found["settled"])  # the engine worked for whatever was charged

    asyncio.run(test())


def test_without_the_ledger_a_gateway_spends_what_it_holds_and_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 1) as world:
            allowance = await allow(world, LIMIT, 1)
            assert (await world.chat(1, USED, max_tokens=USED))[0] == 200
            world.kill("control-plane")
            answers: list[int] = []
            while True:
                status, body = await world.chat(1, USED, max_tokens=USED)
                if status != 200:
                    break
                answers.append(status)
                assert len(answers) * COST <= LIMIT
            assert (status, b"ledger_unavailable" in body) == (503, True), body
            world.start_control_plane()

            async def again() -> bool:
                return (await world.chat(1, USED, max_tokens=USED))[0] == 200

            await world.until(again)
            found = await settled(world, allowance, COST * (len(answers) + 2))
            assert int(found["settled"]) <= LIMIT

    asyncio.run(test())

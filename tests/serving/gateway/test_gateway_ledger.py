"""The gateway's side of the ledger, with what the ledger says made up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import Rig, answer_usual, chat, grant, limited, run, running_gateway, until

from finmaas_serving.gateway.ledger import Ledger
from finmaas_serving.gateway.slices import Slice


@asynccontextmanager
async def near_the_end(
    folder: Path, idle: int, answer: tuple[int, bytes]
) -> AsyncIterator[tuple[Rig, Ledger, Slice, list[dict[str, Any]]]]:
    """A gateway near the end of an allowance, and what it asks of a ledger that always gives this answer."""
    asked: list[dict[str, Any]] = []

    async def post(path: str, body: bytes, wait_s: float = 0) -> tuple[int, bytes]:
        asked.append(json.loads(body))
        return answer

    async with running_gateway(folder, answer_usual, document=limited("tokens", "day", 100_000)) as (rig, _):
        ledger = Ledger(rig.gateway, "gw", post)
        slice_ = grant(rig, idle, None)
        slice_.tight = True
        yield rig, ledger, slice_, asked


@pytest.mark.parametrize("calls", [1, 3])
def test_who_waits_gets_what_others_gave_back_though_nothing_more_is_wanted(tmp_path: Path, calls: int) -> None:
    """Near the end, idle that came back before the ledger heard of it covered those that waited: it was asked for
    nothing, again and again, and nobody was served."""

    async def test() -> None:
        async with near_the_end(tmp_path, 100_000, (200, b'{"now":0,"grants":[]}')) as (rig, ledger, slice_, asked):
            waiting = [asyncio.ensure_future(rig.call({**chat(), "max_tokens": 10})) for _ in range(calls)]
            await until(lambda: len(slice_.waiters) == calls)
            async with asyncio.timeout(5):
                await ledger.ask()
                answers = await asyncio.gather(*waiting)
            assert [answer.status for answer in answers] == [200] * calls
            await until(lambda: slice_.reserved == 0)
            assert asked[0]["wants"] == []

    run(test())


def test_what_is_kept_for_those_that_wait_is_told_as_what_may_come_back(tmp_path: Path) -> None:
    """Else the ledger tells others for certain that there is no more, and they refuse when it has come back."""

    async def test() -> None:
        async with near_the_end(tmp_path, 5, (503, b"")) as (rig, ledger, slice_, asked):
            async with asyncio.timeout(5):
                call = asyncio.ensure_future(rig.call({**chat(), "max_tokens": 10}))
                await until(lambda: bool(slice_.waiters))
                await ledger.ask()
                assert (await call).status == 503
            assert [(told["reserved"], told["returned"]) for told in asked[0]["told"]] == [(5, 0)]

    run(test())

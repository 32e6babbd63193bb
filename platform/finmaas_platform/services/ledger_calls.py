"""Calls of gateways to the ledger: one look at a time, and between two looks the wait for what others give back.

No transaction is open while a call waits. What happens in this process wakes it at once; with another control plane on
the same database it looks again after a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.deps import Deps
from finmaas_platform.services import ledger

PATIENCE_S = 5.0
"""How long others may take to give back; they usually need a few milliseconds."""
LOOK_AGAIN_S = 0.025
T = TypeVar("T")


async def run_call(
    deps: Deps, name: str, epoch: int, told: Sequence[ledger.Told], wants: Sequence[ledger.Want]
) -> list[dict[str, Any]]:
    """What the ledger grants, once it is sure of it."""
    hub, loop = deps.ledger_hub, asyncio.get_running_loop()
    deadline, asking = loop.time() + PATIENCE_S, ledger.Asking()
    grants: list[dict[str, Any]] = []
    left = list(wants)
    # One window a transaction, so that two calls never wait for each other's; a lone slice goes in one.
    if len(left) > 1 or len(told) > 1:
        look = _look(name, epoch, told, (), asking, deps, last=False)
        if (await in_transaction(deps, look)).stirred:
            hub.stir()
        for want in left:
            grants += await run_call(deps, name, epoch, (), [want])
        return grants
    while True:
        seen, last = hub.version, loop.time() >= deadline
        look = _look(name, epoch, told, left, asking, deps, last=last)
        step = await in_transaction(deps, look)
        grants += step.grants
        done = {(grant["allowance_id"]) for grant in step.grants}
        left = [want for want in left if want.allowance_id not in done]
        told = ()
        if step.stirred:
            hub.stir()
            seen = hub.version
        if not step.waits:
            return grants
        await hub.wait(seen, min(LOOK_AGAIN_S, deadline - loop.time()))


async def wait_for_recalls(deps: Deps, name: str, epoch: int, wait_s: float) -> list[dict[str, int]]:
    """The recalls of a gateway, as soon as there are any."""
    hub, loop = deps.ledger_hub, asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    pause_s = 1.0 if deps.settings.sqlalchemy_url.startswith("sqlite") else LOOK_AGAIN_S
    while True:
        seen = hub.version
        found = await run_in_threadpool(_read, deps, lambda s: ledger.find_recalls(s, name, epoch))
        if found or loop.time() >= deadline:
            return found
        await hub.wait(seen, min(pause_s, deadline - loop.time()))


def _look(
    name: str,
    epoch: int,
    told: Sequence[ledger.Told],
    wants: Sequence[ledger.Want],
    asking: ledger.Asking,
    deps: Deps,
    *,
    last: bool,
) -> Callable[[Session], ledger.Step]:
    now = deps.clock.now()
    return lambda session: ledger.take_step(session, name, epoch, told, wants, asking, now, last=last)


async def in_transaction(deps: Deps, work: Callable[[Session], T]) -> T:
    """Does it in a transaction, off the event loop."""
    return await run_in_threadpool(_commit, deps, work)


def _commit(deps: Deps, look: Callable[[Session], T]) -> T:
    with unit_of_work(deps.sessions) as session:
        return look(session)


def _read(deps: Deps, look: Callable[[Session], T]) -> T:
    with read_unit(deps.sessions) as session:
        return look(session)

"""The loops beside the requests: what comes from the control plane and from Ray, and what goes to the control plane.

Each goes on for ever, waits longer after each failure, and leaves what it last knew in place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import httpx
import msgspec

from finmaas_core.errors import Corrupt, Unavailable
from finmaas_core.home import read_secret
from finmaas_core.telemetry import get_logger
from finmaas_serving.gateway.context import Gateway
from finmaas_serving.gateway.control_line import Post
from finmaas_serving.gateway.ledger import Ledger
from finmaas_serving.gateway.people import fetch_provider
from finmaas_serving.gateway.spool import Spool
from finmaas_serving.replicas import parse_replicas

SNAPSHOT_WAIT_S = 20
REPLICAS_EVERY_S = 1.0
SWEEP_EVERY_S = 1.0
SYNC_EVERY_S = 0.05
DELIVER_EVERY_S = 0.5
REPORT_EVERY_S = 2.0
BATCH = 500
PIECE = 125  # of a batch that are read at a time: more would hold up requests
ARCHIVE_BATCH_BYTES = 4 * 1024 * 1024
REFUSED = frozenset((400, 409, 413, 422))
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
log = get_logger()


class _Accepted(msgspec.Struct):
    accepted_through: int


def make_client(base_url: str, token: str = "") -> httpx.AsyncClient:
    """A client for the platform's own parts: no proxy from the environment stands between them."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(base_url=base_url, headers=headers, timeout=SNAPSHOT_WAIT_S + 10, trust_env=False)


async def keep_going(name: str, step: Callable[[], Awaitable[None]]) -> None:
    """Runs a step for ever; after a failure it says so once, and waits longer each time until the step works again."""
    pause = 0.0
    while True:
        try:
            await step()
        except (httpx.HTTPError, Corrupt, Unavailable, OSError, msgspec.DecodeError, ValueError) as error:
            if not pause:
                log.warning("feed.away", feed=name, error=f"{type(error).__name__}: {error}")
            pause = min(pause * 2 or FIRST_PAUSE_S, LONGEST_PAUSE_S)
            await asyncio.sleep(pause)
            continue
        if pause:
            log.info("feed.back", feed=name)
        pause = 0.0


async def fetch_snapshot(gateway: Gateway, api: httpx.AsyncClient) -> None:
    """One long poll: takes a newer snapshot, or hears that there is none."""
    holder = gateway.snapshots
    # A copy from disk is confirmed without waiting; later the control plane holds the request until there is news.
    wait_s = SNAPSHOT_WAIT_S if holder.source == "control-plane" else 0
    params = {"after": holder.current.number, "wait_s": wait_s}
    answer = await api.get("/api/v1/gateway/snapshot", params=params)
    if answer.status_code == httpx.codes.NOT_MODIFIED:
        holder.confirm()
        return
    answer.raise_for_status()
    if not holder.take(answer.content):
        raise Corrupt("the control plane offers an older snapshot than the one in use; it is refused")
    gateway.follow_snapshot()
    log.info("snapshot.taken", number=holder.current.number, keys=len(holder.current.keys))


async def fetch_replicas(gateway: Gateway, dashboard: httpx.AsyncClient, token_file: Path) -> None:
    """Asks Ray Serve which replicas take requests."""
    answer = await dashboard.get("/api/serve/applications/", headers=_ray_headers(token_file))
    answer.raise_for_status()
    found = parse_replicas(answer.json())
    gateway.replicas.replace(found)
    gateway.replicas_heard_at = time.time()
    if gateway.replica_file is not None:
        gateway.replica_file.save_if_changed(msgspec.json.encode(found))
    await asyncio.sleep(REPLICAS_EVERY_S)


def load_replicas(gateway: Gateway) -> None:
    """Takes the addresses that Ray told the last time, so that a restart does not wait for Ray. Raises Corrupt."""
    held = None if gateway.replica_file is None else gateway.replica_file.load()
    if held is not None:
        raw, gateway.replicas_heard_at = held
        gateway.replicas.replace(msgspec.json.decode(raw, type=dict[str, list[tuple[str, int]]]))


async def deliver_usage(spool: Spool, gateway_id: str, post: Post, limit: int = BATCH) -> bool:
    """Delivers one batch by `post`; False when there was nothing to deliver. Unavailable when it was not taken.

    A batch that the control plane refuses is halved until the record at fault is found; that one is set aside.
    """
    batch = await _gather(spool, limit)
    if not batch:
        return False
    records = b",".join(payload for _, payload in batch)
    name = msgspec.json.encode(f"{gateway_id}.{spool.spool_id}")
    body = b'{"gateway_id":%b,"records":[%b]}' % (name, records)
    status, answer = await post("/api/v1/gateway/usage", body)
    if status in REFUSED:
        if len(batch) > 1:
            return await deliver_usage(spool, gateway_id, post, len(batch) // 2)
        spool.set_aside(*batch[0], answer.decode(errors="replace")[:500])
        return True
    if status >= httpx.codes.BAD_REQUEST:
        raise Unavailable(f"the control plane answered {status} to usage records")
    through = msgspec.json.decode(answer, type=_Accepted).accepted_through
    if through <= spool.acknowledged:
        raise Unavailable("the control plane took none of the usage records")
    spool.acknowledge(through)
    return True


async def _gather(spool: Spool, limit: int) -> list[tuple[int, bytes]]:
    """The next records, a few at a time, so that no request waits for all of them to be read."""
    batch: list[tuple[int, bytes]] = []
    after = spool.acknowledged
    while len(batch) < limit and (piece := spool.read(after, min(PIECE, limit - len(batch)))):
        batch += piece
        after = piece[-1][0]
        await asyncio.sleep(0)
    return batch


async def deliver_archive(gateway: Gateway, post: Post) -> None:
    """Delivers what was kept for auditors; repeats are dropped by their name. Unavailable when it was not taken."""
    archive = gateway.archive
    found, end = archive.read(ARCHIVE_BATCH_BYTES) if archive is not None and archive.waiting_bytes else ([], 0)
    if archive is None or not found:
        await asyncio.sleep(DELIVER_EVERY_S)
        return
    body = b'{"records":[%b]}' % b",".join(found)
    status, _ = await post("/api/v1/gateway/archive", body)
    if status >= httpx.codes.BAD_REQUEST:
        raise Unavailable(f"the control plane answered {status} to what is kept for auditors")
    archive.acknowledge(end)


async def sync_archive(gateway: Gateway) -> None:
    """Its group fsync, off the loop's thread."""
    await asyncio.sleep(SYNC_EVERY_S)
    if gateway.archive is not None and gateway.archive.dirty:
        await gateway.loop.run_in_executor(None, gateway.archive.sync)


async def send_report(gateway: Gateway, gateway_id: str, api: httpx.AsyncClient) -> None:
    """Tells the control plane how this gateway fares; nothing depends on its arrival."""
    body = b'{"gateway_id":%b,"report":%b}' % (msgspec.json.encode(gateway_id), msgspec.json.encode(gateway.report()))
    answer = await api.post("/api/v1/gateway/reports", content=body, headers={"content-type": "application/json"})
    answer.raise_for_status()
    await asyncio.sleep(REPORT_EVERY_S)


async def sync_spool(spool: Spool, loop: asyncio.AbstractEventLoop) -> None:
    """One group fsync, off the loop's thread."""
    await asyncio.sleep(SYNC_EVERY_S)
    if not spool.dirty:
        return
    group = spool.start_sync()
    try:
        await loop.run_in_executor(None, group.run)
    except OSError as error:
        spool.finish_sync(group, failed=True)
        log.error("spool.broken", error=str(error))
        return
    spool.finish_sync(group)


async def sweep(gateway: Gateway) -> None:
    """Looks after connections that take too long."""
    await asyncio.sleep(SWEEP_EVERY_S)
    now = gateway.loop.time()
    for connection in list(gateway.connections):
        connection.sweep(now)
    for shadow in list(gateway.shadows):
        shadow.overdue(now)
    gateway.lanes.sweep(now, lambda app: bool(gateway.replicas.of(app)))


def _ray_headers(token_file: Path) -> dict[str, str]:
    """Ray's token; read each time, because the cluster may make it after the gateway has started."""
    return {"authorization": f"Bearer {read_secret(token_file)}"} if token_file.exists() else {}


def start_feeds(
    gateway: Gateway, gateway_id: str, api: httpx.AsyncClient, post: Post, dashboard: httpx.AsyncClient, ray_token: Path
) -> list[asyncio.Task[None]]:
    """Starts all loops as tasks. `api` and `post` both reach the control plane."""

    async def deliver() -> None:
        if not await deliver_usage(gateway.spool, gateway_id, post):
            await asyncio.sleep(DELIVER_EVERY_S)

    steps: dict[str, Callable[[], Awaitable[None]]] = {
        "control_plane": partial(fetch_snapshot, gateway, api),
        "ray": partial(fetch_replicas, gateway, dashboard, ray_token),
        "usage": deliver,
        "archive_sync": partial(sync_archive, gateway),
        "archive": partial(deliver_archive, gateway, post),
        "report": partial(send_report, gateway, gateway_id, api),
        "identity": partial(fetch_provider, gateway, api),
        "spool": partial(sync_spool, gateway.spool, gateway.loop),
        "sweep": partial(sweep, gateway),
    }
    ledger = Ledger(gateway, f"{gateway_id}.{gateway.spool.spool_id}", post)
    steps |= {"ledger": ledger.open, "ledger_calls": ledger.ask, "recalls": ledger.answer_recalls}
    return [asyncio.create_task(keep_going(name, step), name=name) for name, step in steps.items()]

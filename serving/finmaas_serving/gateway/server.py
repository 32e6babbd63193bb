"""Puts the gateway together, serves until told to stop, then lets running requests finish."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from typing import TYPE_CHECKING

import msgspec

from finmaas_core.errors import Corrupt, EnvironmentFault
from finmaas_core.home import Home, read_secret
from finmaas_core.settings import Settings
from finmaas_core.telemetry import get_logger
from finmaas_serving.gateway.archive import Archive
from finmaas_serving.gateway.context import Gateway, Limits
from finmaas_serving.gateway.control_line import ControlLine, Post
from finmaas_serving.gateway.feeds import deliver_usage, load_replicas, make_client, start_feeds
from finmaas_serving.gateway.people import People
from finmaas_serving.gateway.protocol import ClientConnection
from finmaas_serving.gateway.snapshot import SnapshotFile, SnapshotHolder
from finmaas_serving.gateway.spool import Spool
from finmaas_serving.gateway.tally import derive_metrics_token
from finmaas_serving.gateway.tls import Certificate, open_certificate
from finmaas_serving.gateway.upstream import ReplicaBook

if TYPE_CHECKING:
    from finmaas_serving.gateway.tracing import Tracing

SECRETS_WAIT_S = 60.0
POLL_S = 0.1
BACKLOG = 4096
FORM_BYTES = 32 * 1024  # what a form adds to the file in it
log = get_logger()


async def serve(settings: Settings, stop: asyncio.Event | None = None, limits: Limits | None = None) -> None:
    """Runs a gateway until SIGTERM or SIGINT (or `stop`), then drains and returns."""
    loop = asyncio.get_running_loop()
    stop = stop or asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await wait_for_secrets(settings.paths, stop)
    if stop.is_set():
        return
    gateway = open_gateway(settings, loop, limits)
    gateway.archive = Archive(settings.paths.gateway / settings.gateway_id)
    gateway.tracing = open_tracing(settings)
    tls = open_certificate(settings.gateway_tls_cert, settings.gateway_tls_key)
    shared = settings.gateway_processes > 1
    listener = await listen(gateway, settings.host, settings.port("gateway"), tls=tls, shared=shared)
    api = make_client(settings.api_url, read_secret(settings.paths.gateway_token))
    dashboard = make_client(settings.dashboard_url)
    gateway.control_plane = api
    line = ControlLine(api)
    feeds = start_feeds(gateway, settings.gateway_id, api, line.post, dashboard, settings.paths.ray_token)
    if tls is not None:
        feeds.append(asyncio.create_task(tls.keep_fresh(), name="tls"))
    log.info("gateway.started", url=settings.gateway_url, snapshot=gateway.snapshots.current.number)
    try:
        await stop.wait()
        await drain(gateway, listener)
    finally:
        for task in feeds:
            task.cancel()
        await asyncio.gather(*feeds, return_exceptions=True)
        await last_delivery(gateway, settings.gateway_id, line.post)
        line.close()
        await api.aclose()
        await dashboard.aclose()
        gateway.replicas.close()
        gateway.spool.close()
        gateway.archive.close()
        if gateway.tracing is not None:
            gateway.tracing.close()
        log.info("gateway.stopped", usage_waiting=gateway.spool.waiting)


def open_gateway(settings: Settings, loop: asyncio.AbstractEventLoop, limits: Limits | None = None) -> Gateway:
    """The parts of a gateway, with the snapshot from disk where there is one."""
    paths = settings.paths
    folder = paths.gateway / settings.gateway_id
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    holder = SnapshotHolder(SnapshotFile(folder / "snapshot", read_secret(paths.gateway_token)))
    try:
        holder.load_from_disk()
    except Corrupt as error:
        log.error("snapshot.refused", error=error.message)
    gateway = Gateway(
        pepper=read_secret(paths.pepper).encode(),
        snapshots=holder,
        replicas=ReplicaBook(),
        spool=Spool(folder / "spool"),
        loop=loop,
        limits=limits or Limits(body_bytes=settings.max_request_bytes, file_bytes=settings.max_file_bytes + FORM_BYTES),
        name=settings.gateway_id,
        metrics_token=derive_metrics_token(read_secret(paths.gateway_token)),
        replica_file=SnapshotFile(folder / "replicas", read_secret(paths.gateway_token)),
        awake_s=settings.gateway_busy_poll_us / 1_000_000,
        people=People(SnapshotFile(folder / "identity", read_secret(paths.gateway_token))),
    )
    try:
        load_replicas(gateway)
    except (Corrupt, msgspec.DecodeError) as error:
        log.error("replicas.refused", error=str(error))
    try:
        gateway.people.load_from_disk()
    except Corrupt as error:
        log.error("identity.refused", error=error.message)
    return gateway


def open_tracing(settings: Settings) -> Tracing | None:
    """Traces where an OTLP address is set; the library is loaded only then."""
    if not settings.otlp_url:
        return None
    from finmaas_serving.gateway.tracing import Tracing

    return Tracing(settings.otlp_url, settings.gateway_id, settings.trace_share)


async def listen(
    gateway: Gateway, host: str, port: int, *, tls: Certificate | None = None, shared: bool = False
) -> asyncio.Server:
    """Opens the port; EnvironmentFault when it is taken. `shared`: with other processes, the kernel deals out."""
    try:
        return await gateway.loop.create_server(
            lambda: ClientConnection(gateway),
            host,
            port,
            backlog=BACKLOG,
            family=socket.AF_UNSPEC,
            reuse_port=shared or None,
            ssl=tls.context if tls is not None else None,
            ssl_handshake_timeout=gateway.limits.head_s if tls is not None else None,
        )
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise EnvironmentFault(
            f"port {port} on {host} is taken; stop what uses it, or set another FINMAAS_PORT_BASE"
        ) from error


async def drain(gateway: Gateway, listener: asyncio.Server) -> None:
    """Takes no new connections, lets running requests finish, cuts what is left after `drain_s`."""
    gateway.draining = True
    listener.close()
    for connection in list(gateway.connections):
        connection.drain()
    log.info("gateway.draining", running=gateway.running)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(gateway.limits.drain_s):
            if gateway.connections:
                await gateway.drained.wait()
    for connection in list(gateway.connections):
        connection.cut()
    await asyncio.sleep(0)


async def last_delivery(gateway: Gateway, gateway_id: str, post: Post) -> None:
    """Delivers what is left, if the control plane answers; else the next start does."""
    group = gateway.spool.start_sync()
    group.run()
    gateway.spool.finish_sync(group)
    with contextlib.suppress(Exception):
        async with asyncio.timeout(2):
            while await deliver_usage(gateway.spool, gateway_id, post):
                pass


async def wait_for_secrets(home: Home, stop: asyncio.Event) -> None:
    """The control plane makes them at its first start; EnvironmentFault when they do not appear."""
    waited = 0.0
    while not (home.pepper.exists() and home.gateway_token.exists()):
        if waited >= SECRETS_WAIT_S:
            raise EnvironmentFault(f"{home.secrets} holds no pepper and gateway token; start the control plane first")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), POLL_S)
        if stop.is_set():
            return
        waited += POLL_S

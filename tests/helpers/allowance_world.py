"""A small world for allowances: the real control plane, real gateway processes, and an upstream whose answers use as
many tokens as the request says in its text. Used by tests and by the benchmark.

    python allowance_world.py control-plane HOME BASE
    python allowance_world.py gateway HOME BASE NUMBER
"""

# ruff: noqa: ASYNC110 - conditions of other processes have no event to wait for

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODEL = "default/default/bench"
APP = "ep_bench"
CONTEXT = 4096
PROMPT_TOKENS = 20


def main() -> None:
    """One process of the world."""
    role, home, base = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if role == "control-plane":
        _run_control_plane(home, base)
    else:
        _run_gateway(home, base, int(sys.argv[4]))


def _run_control_plane(home: Path, base: int) -> None:
    from finmaas_core.settings import Settings
    from finmaas_platform.cluster.memory import MemoryCluster
    from finmaas_platform.control_plane import build_deps, run

    url = os.environ.get("FINMAAS_DATABASE_URL", "")
    settings = Settings(home=home, port_base=base, database_url=url)
    run(settings, build_deps(settings, MemoryCluster()))


def _run_gateway(home: Path, base: int, number: int) -> None:
    import uvloop

    from finmaas_core.memory import spare_collections
    from finmaas_core.settings import Settings
    from finmaas_core.telemetry import configure_logging
    from finmaas_serving import compiled

    compiled.install()
    from finmaas_serving.gateway.server import serve

    class Placed(Settings):
        """The gateway's own port, beside those of the others."""

        def port(self, name: str) -> int:
            return base + 10 + number if name == "gateway" else base + {"api": 1, "ray_dashboard": 2}[name]

    configure_logging("gateway")
    spare_collections()
    uvloop.run(serve(Placed(home=home, port_base=base, gateway_id=f"gw-{number}")))


@dataclass
class World:
    """Starts the parts, and ends those that it started."""

    home: Path
    base: int
    delay_s: float = 0.02
    database_url: str = ""
    settings: dict[str, str] = field(default_factory=dict)  # FINMAAS_… of all parts
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    servers: list[asyncio.Server] = field(default_factory=list)
    token: str = ""
    key: str = ""
    served: int = 0

    async def start(self, gateways: int) -> None:
        self.servers = [
            await asyncio.start_server(self._upstream, "127.0.0.1", self.base + 3, backlog=1024),
            await asyncio.start_server(self._dashboard, "127.0.0.1", self.base + 2),
        ]
        self.start_control_plane()
        await self.until(self._answers)
        self.token = (self.home / "secrets" / "admin.token").read_text().strip()
        _add_endpoint(self.home, self.database_url)
        made = await self.api("POST", "/api-keys", {"project": "default/default", "name": "bench"})
        self.key = made["key"]
        for number in range(1, gateways + 1):
            self.start_gateway(number)
        for number in range(1, gateways + 1):
            await self.until(lambda n=number: self._ready(n))  # type: ignore[misc]

    def start_control_plane(self) -> None:
        self._spawn("control-plane", "control-plane")

    def start_gateway(self, number: int) -> None:
        self._spawn(f"gw-{number}", "gateway", str(number))

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)
        for server in self.servers:
            server.close()

    async def api(self, method: str, path: str, body: Any = None) -> Any:
        """A call of the REST API as the admin."""
        status, answer = await self.http(self.base + 1, method, f"/api/v1{path}", body, self.token)
        assert status < 300, (status, answer)
        return json.loads(answer) if answer else None

    async def http(self, port: int, method: str, path: str, body: Any, token: str) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await exchange(reader, writer, method, path, body, token)
        finally:
            writer.close()

    async def chat(self, number: int, tokens: int, **more: Any) -> tuple[int, bytes]:
        """One request through a gateway, on a connection of its own."""
        return await self.http(
            self.base + 10 + number, "POST", "/v1/chat/completions", body_of(tokens, **more), self.key
        )

    async def until(self, condition: Any, timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not await condition():
                await asyncio.sleep(0.05)

    async def spent(self, allowance_id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.api("GET", f"/allowances/{allowance_id}"))["spent"]
        return found

    def _spawn(self, name: str, *arguments: str) -> None:
        command = [sys.executable, __file__, arguments[0], str(self.home), str(self.base), *arguments[1:]]
        env = {**os.environ, **self.settings, "FINMAAS_HOME": str(self.home)}
        if self.database_url:
            env["FINMAAS_DATABASE_URL"] = self.database_url
        with (self.home.parent / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    async def _answers(self) -> bool:
        try:
            return (await self.http(self.base + 1, "GET", "/api/v1/healthz", None, ""))[0] < 500
        except OSError:
            return False

    async def _ready(self, number: int) -> bool:
        try:
            status, body = await self.http(self.base + 10 + number, "GET", "/readyz", None, "")
            return status == 200 and json.loads(body)["replicas"]["count"] > 0
        except OSError:
            return False

    async def _dashboard(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        targets = [{"ip": "127.0.0.1", "port": self.base + 3, "name": "SERVE_REPLICA::x"}]
        group = {"app_name": APP, "protocol": "HTTP", "targets": targets}
        await _serve(reader, writer, lambda _: {"applications": {APP: {}}, "target_groups": [group]}, 0)

    async def _upstream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def answer(body: bytes) -> dict[str, Any]:
            self.served += 1
            asked = json.loads(body)
            used = int(asked["messages"][0]["content"])
            usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": used, "total_tokens": PROMPT_TOKENS + used}
            choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
            head = {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL}
            return {**head, "choices": [choice], "usage": usage}

        await _serve(reader, writer, answer, self.delay_s)


def body_of(tokens: int, **more: Any) -> dict[str, Any]:
    """A request whose answer uses so many tokens."""
    return {"model": "bench", "messages": [{"role": "user", "content": str(tokens)}], **more}


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, body: Any, token: str
) -> tuple[int, bytes]:
    """One request on an open connection."""
    raw = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = answer.partition("content-length: ")[2].partition("\r\n")[0]
    return int(answer.split()[1]), await reader.readexactly(int(length or 0))


def free_base(width: int = 20) -> int:
    """The first of some neighbouring ports that are free."""
    for base in range(34_000 + os.getpid() % 500 * 20, 60_000, width):
        try:
            for port in range(base, base + width):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Any, delay_s: float) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
            body = json.dumps(answer(await reader.readexactly(length))).encode()
            if delay_s:
                await asyncio.sleep(delay_s * random.random() * 2)
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def _add_endpoint(home: Path, database_url: str) -> None:
    """An endpoint that is ready, without a cluster that would make it."""
    from datetime import UTC, datetime

    from sqlalchemy import select

    from finmaas_platform.db.base import make_engine, make_session_factory, unit_of_work
    from finmaas_platform.db.endpoints import EndpointRow
    from finmaas_platform.db.projects import ProjectRow
    from finmaas_platform.db.schema import metadata
    from finmaas_platform.services.snapshots import bump_snapshot

    assert metadata.tables
    engine = make_engine(database_url or f"sqlite:///{home / 'db' / 'finmaas.db'}")
    with unit_of_work(make_session_factory(engine)) as session:
        project = session.scalars(select(ProjectRow)).first()
        assert project is not None
        session.add(
            EndpointRow(
                id=APP, tenant_id=project.tenant_id, project_id=project.id, name="bench", model_version_id="mdv_1",
                model_ref="default/default/m@1", replicas=1, engine={"max_model_len": CONTEXT}, state="ready",
                reason="", ready_replicas=1, created_at=datetime.now(UTC), created_by="bench", version=1,
            )
        )  # fmt: skip
        bump_snapshot(session)
    engine.dispose()


@dataclass
class Sent:
    """One request of the load: what it could cost at most, what it did cost, and when."""

    began: float
    bound: int
    ended: float = 0.0
    status: int = 0
    cost: int = 0


def check_refusals(sent: list[Sent], limit: int) -> int:
    """Refusals that were false for certain: even if every request that was under way then still held its whole bound,
    the refused one would have fitted, at every moment between its question and its answer."""
    false = 0
    taken = [one for one in sent if one.status == 200]
    for refused in (one for one in sent if one.status == 429):
        most = 0
        for one in taken:
            if one.began <= refused.ended:
                most += one.cost if one.ended < refused.began else one.bound
        false += most + refused.bound <= limit
    return false


async def load(world: World, gateways: int, clients: int, price: Any, seed: int, deadline_s: float) -> list[Sent]:
    """Clients that ask until they were refused a few times each."""
    sent: list[Sent] = []
    until = time.monotonic() + deadline_s

    async def client(number: int) -> None:
        rng = random.Random(seed * 1000 + number)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.base + 11 + number % gateways)
        refused = 0
        while refused < 3 and time.monotonic() < until:
            most = rng.randint(10, 400)
            used = rng.randint(1, most)
            body = body_of(used, max_tokens=most)
            one = Sent(time.monotonic(), bound_of(body, price))
            sent.append(one)
            one.status, _ = await exchange(reader, writer, "POST", "/v1/chat/completions", body, world.key)
            one.ended, one.cost = time.monotonic(), price.cost(PROMPT_TOKENS, 0, used, 0)
            refused += one.status != 200
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return sent


def bound_of(body: dict[str, Any], price: Any) -> int:
    """The most that a request can cost."""
    from finmaas_serving.gateway.body import read_body
    from finmaas_serving.gateway.bounds import bound_call

    raw = json.dumps(body, separators=(",", ":")).encode()
    return int(price.most(*bound_call("/v1/chat/completions", read_body(raw), CONTEXT)))


if __name__ == "__main__":
    main()

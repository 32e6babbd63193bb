"""The gateway as a process of its own: stock client, neighbours away, SIGTERM, kill -9."""

# ruff: noqa: ASYNC110 - conditions of another process or of plain objects have no event to wait for

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from gateway_parts import (
    KEY,
    PEPPER,
    STREAM_HEAD,
    FakeReplica,
    Script,
    answer_usual,
    chat,
    chunked,
    events,
    key_hash,
    post,
    read_answer,
    read_head,
    run,
    snapshot_document,
    until,
)

from finmaas_serving.gateway.spool import SEGMENT_BYTES, Spool


@dataclass
class Platform:
    """Stand-ins for the control plane and Ray's dashboard, and the gateway process that lives beside them."""

    home: Path
    base: int
    replicas: list[FakeReplica]
    document: dict[str, Any] = field(default_factory=snapshot_document)
    delivered: dict[int, dict[str, Any]] = field(default_factory=dict)
    by_gateway: dict[str, set[str]] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    servers: list[asyncio.Server] = field(default_factory=list)
    gateways: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def start_neighbours(self) -> None:
        for offset in (1, 2):
            self.servers.append(await asyncio.start_server(self._answer, "127.0.0.1", self.base + offset))

    def stop_neighbours(self) -> None:
        for server in self.servers:
            server.close()
        self.servers.clear()

    async def start_gateway(self, **more: str) -> asyncio.subprocess.Process:
        env = {**os.environ, "FINMAAS_HOME": str(self.home), "FINMAAS_PORT_BASE": str(self.base), **more}
        command = (sys.executable, "-m", "finmaas_serving.gateway")
        process = await asyncio.create_subprocess_exec(*command, env=env, stderr=(self.home / "log").open("ab"))
        self.gateways.append(process)
        return process

    async def get(self, path: str) -> Any:
        return await self.send(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode())

    async def send(self, request: bytes) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.base)
        writer.write(request)
        try:
            return await read_answer(reader)
        finally:
            writer.close()

    async def ready(self, replicas: int = 1) -> dict[str, Any]:
        """The report of /readyz, once it is ready and knows the replicas."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                answer = await self.get("/readyz")
                if answer.status == 200 and answer.json["replicas"]["count"] >= replicas:
                    report: dict[str, Any] = answer.json
                    return report
            await asyncio.sleep(0.02)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                status, value = await self._reply(head.split()[1].decode(), head, await reader.readexactly(length))
                body = json.dumps(value).encode() if status == 200 else b""
                length_line = b"" if status == 304 else b"content-length: %d\r\n" % len(body)
                writer.write(b"HTTP/1.1 %d X\r\n%b\r\n%b" % (status, length_line, body))
        writer.close()

    async def _reply(self, url: str, head: bytes, body: bytes) -> tuple[int, Any]:
        if url.startswith("/api/serve/"):
            targets = [{"ip": "127.0.0.1", "port": r.port, "name": "SERVE_REPLICA::x"} for r in self.replicas]
            group = {"app_name": "ep_chat", "protocol": "HTTP", "targets": targets}
            return 200, {"applications": {"ep_chat": {}}, "target_groups": [group]}
        assert b"bearer fmg_token" in head.lower()
        if url.startswith("/api/v1/gateway/usage"):
            sent = json.loads(body)
            gateway_id = sent["gateway_id"].rpartition(".")[0]
            assert gateway_id in ("gw-1", "gw-1-2")
            if gateway_id == "gw-1":
                self.delivered.update({record["seq"]: record for record in sent["records"]})
            self.by_gateway.setdefault(gateway_id, set()).update(record["request_id"] for record in sent["records"])
            return 200, {"accepted_through": sent["records"][-1]["seq"]}
        if "after=" not in url:  # the ledger and what else this platform has not
            return 503, {}
        after = int(url.partition("after=")[2].partition("&")[0])
        if after >= self.document["number"]:
            self.news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.news.wait(), 0 if "wait_s=0" in url else 20)
        return (200, self.document) if after < self.document["number"] else (304, None)


@contextlib.asynccontextmanager
async def platform(folder: Path, *scripts: Script) -> AsyncIterator[Platform]:
    home = folder / "home"
    (home / "secrets").mkdir(parents=True)
    for name, text in (("pepper", PEPPER), ("gateway.token", "fmg_token")):
        (home / "secrets" / name).write_text(text)
    replicas = [FakeReplica(script) for script in scripts]
    servers = [await asyncio.start_server(replica.serve, "127.0.0.1", 0) for replica in replicas]
    for replica, server in zip(replicas, servers, strict=True):
        replica.port = server.sockets[0].getsockname()[1]
    parts = Platform(home, free_base(), replicas)
    await parts.start_neighbours()
    try:
        yield parts
    finally:
        for process in parts.gateways:
            if process.returncode is None:
                process.kill()
                await process.wait()
        parts.stop_neighbours()
        for server in servers:
            server.close()


def free_base() -> int:
    for base in range(31_000 + os.getpid() % 1000 * 10, 60_000, 10):
        try:
            for offset in (0, 1, 2):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


class TestStockClient:
    def test_openai(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with platform(tmp_path, answer_usual) as parts:
                await parts.start_gateway()
                await parts.ready()
                url = f"http://127.0.0.1:{parts.base}/v1"
                messages: Any = [{"role": "user", "content": "hi"}]
                async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
                    assert [m.id async for m in client.models.list()] == ["acme/fraud/shared", "chat", "cold"]
                    assert (await client.models.retrieve("acme/fraud/shared")).id == "acme/fraud/shared"
                    whole = await client.chat.completions.create(model="chat", messages=messages)
                    assert (whole.model, whole.choices[0].message.content) == ("chat", "Hello 你好")
                    stream = await client.chat.completions.create(
                        model="chat", messages=messages, stream=True, stream_options={"include_usage": True}
                    )
                    chunks = [chunk async for chunk in stream]
                    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello 你好"
                    assert chunks[-1].usage is not None
                    assert chunks[-1].usage.completion_tokens == 3
                    with pytest.raises(openai.NotFoundError) as missing:
                        await client.chat.completions.create(model="nope", messages=messages)
                    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
                    assert missing.value.request_id is not None
                    with pytest.raises(openai.InternalServerError):
                        await client.chat.completions.create(model="cold", messages=messages)
                async with openai.AsyncOpenAI(base_url=url, api_key="fmk_wrong", max_retries=0) as client:
                    with pytest.raises(openai.AuthenticationError) as wrong:
                        await client.models.list()
                    assert wrong.value.code == "invalid_api_key"
                while len(parts.delivered) < 2:
                    await asyncio.sleep(0.02)
                assert [parts.delivered[n]["stream"] for n in (1, 2)] == [False, True]

        run(test())


class TestIndependence:
    def test_serves_from_disk_while_everything_is_away_and_says_so(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with platform(tmp_path, answer_usual) as parts:
                first = await parts.start_gateway()
                assert (await parts.ready())["snapshot"]["source"] == "control-plane"
                [copy] = parts.home.rglob("snapshot")
                assert copy.stat().st_mode & 0o777 == 0o600
                parts.stop_neighbours()
                assert (await parts.send(post(chat()))).status == 200  # with the replicas last known
                first.kill()
                await first.wait()
                await parts.start_gateway()
                report = await parts.ready()
                assert report["snapshot"]["source"] == "disk"
                assert report["snapshot"]["age_s"] >= 0
                assert (await parts.get("/v1/models")).status == 200
                assert report["replicas"]["age_s"] >= 0
                assert (await parts.send(post(chat()))).status == 200  # those that Ray told the process before
                await parts.start_neighbours()
                await parts.ready()
                assert (await parts.send(post(chat()))).status == 200
                while 3 not in parts.delivered:
                    await asyncio.sleep(0.02)

        run(test())

    def test_an_hour_alone_it_serves_all_but_who_bounds_that(self, tmp_path: Path) -> None:
        other = {"hash": key_hash("fmk_bound"), "key_id": "key_bound", "project_id": "prj_risk", "project": "acme/risk"}

        async def test() -> None:
            async with platform(tmp_path, answer_usual) as parts:
                parts.document = snapshot_document(tenants=[{"tenant_id": "ten_strict", "max_staleness_s": 1800}])
                parts.document["keys"].append({**other, "tenant_id": "ten_strict"})
                first = await parts.start_gateway()
                await parts.ready()
                assert (await parts.send(post(chat(), key="fmk_bound"))).status == 200
                parts.stop_neighbours()
                first.kill()
                await first.wait()
                [copy] = parts.home.rglob("snapshot")
                an_hour_ago = time.time() - 3600
                os.utime(copy, (an_hour_ago, an_hour_ago))  # when the control plane was last heard of
                await parts.start_gateway()
                assert (await parts.ready())["snapshot"]["age_s"] >= 3600
                assert (await parts.send(post(chat()))).status == 200
                refused = await parts.send(post(chat(), key="fmk_bound"))
                assert (refused.status, refused.error["code"]) == (503, "gateway_cut_off")

        run(test())

    def test_a_forged_copy_is_not_used(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with platform(tmp_path, answer_usual) as parts:
                first = await parts.start_gateway()
                await parts.ready()
                first.kill()
                await first.wait()
                parts.stop_neighbours()
                [copy] = parts.home.rglob("snapshot")
                copy.write_bytes(copy.read_bytes().replace(b'"number": 1', b'"number": 9'))
                await parts.start_gateway()
                while True:
                    with contextlib.suppress(OSError):
                        answer = await parts.get("/readyz")
                        break
                    await asyncio.sleep(0.02)
                assert answer.status == 503
                assert (await parts.get("/v1/models")).status == 401

        run(test())

    def test_revoked_key_is_refused_as_soon_as_the_news_is_out(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with platform(tmp_path, answer_usual) as parts:
                await parts.start_gateway()
                await parts.ready()
                assert (await parts.get("/v1/models")).status == 200
                parts.document = snapshot_document(2, keys=[])
                parts.news.set()
                async with asyncio.timeout(2):
                    while (await parts.get("/v1/models")).status != 401:
                        await asyncio.sleep(0.01)

        run(test())


class TestReload:
    def test_a_new_snapshot_drops_no_stream_and_ends_a_key_on_kept_connections(self, tmp_path: Path) -> None:
        go = asyncio.Event()

        async def waits(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            first, *rest = events(["Hel", "lo"])
            writer.write(STREAM_HEAD + chunked(first))
            await go.wait()
            writer.write(b"".join(chunked(event) for event in rest) + b"0\r\n\r\n")

        async def test() -> None:
            async with platform(tmp_path, waits) as parts:
                await parts.start_gateway()
                await parts.ready()
                reader, writer = await asyncio.open_connection("127.0.0.1", parts.base)
                writer.write(post(chat(stream=True)))
                await reader.readuntil(b"Hel")
                parts.document = snapshot_document(2, keys=[])
                parts.news.set()
                async with asyncio.timeout(2):
                    while (await parts.get("/v1/models")).status != 401:
                        await asyncio.sleep(0.01)
                go.set()
                await reader.readuntil(b"data: [DONE]\n\n\r\n0\r\n\r\n")
                writer.write(post(chat(stream=True)))  # the same head again, on the connection that was let in before
                assert (await read_answer(reader)).status == 401
                writer.close()

        run(test())


class TestEndOfTheProcess:
    def test_sigterm_lets_a_stream_finish(self, tmp_path: Path) -> None:
        go = asyncio.Event()

        async def waits(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            first, *rest = events(["Hel", "lo"])
            writer.write(STREAM_HEAD + chunked(first))
            await go.wait()
            writer.write(b"".join(chunked(event) for event in rest) + b"0\r\n\r\n")

        async def test() -> None:
            async with platform(tmp_path, waits) as parts:
                gateway = await parts.start_gateway()
                await parts.ready()
                reader, writer = await asyncio.open_connection("127.0.0.1", parts.base)
                writer.write(post(chat(stream=True)))
                await reader.readuntil(b"Hel")
                gateway.send_signal(signal.SIGTERM)
                while True:  # the port closes first
                    try:
                        await parts.get("/readyz")
                    except (OSError, asyncio.IncompleteReadError):
                        break
                go.set()
                assert (await reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
                assert await gateway.wait() == 0
                assert parts.delivered[1]["finish"] == "complete"
                writer.close()

        run(test())

    def test_kill_9_under_load_leaves_no_finished_request_unmetered(self, tmp_path: Path) -> None:
        finished: list[str] = []

        async def client(parts: Platform, stream: bool) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", parts.base)
                while True:
                    writer.write(post(chat(stream=stream)))
                    if stream:
                        _, headers = await read_head(reader)
                        await reader.readuntil(b"[DONE]")
                        finished.append(headers["x-request-id"])
                        await reader.readuntil(b"\r\n0\r\n\r\n")
                    else:
                        answer = await read_answer(reader)
                        finished.append(answer.headers["x-request-id"])

        async def test() -> None:
            async with platform(tmp_path, answer_usual, answer_usual) as parts:
                gateway = await parts.start_gateway()
                await parts.ready(2)
                clients = [asyncio.create_task(client(parts, n % 2 == 0)) for n in range(16)]
                await until(lambda: len(finished) >= 300)
                gateway.kill()
                await asyncio.gather(*clients)
                await gateway.wait()
                delivered = set(parts.delivered)
                spool = Spool(parts.home / "gateway" / "gw-1" / "spool")
                held = {seq: json.loads(raw)["request_id"] for seq, raw in spool.read(0, 100_000)}
                spool.close()
                recorded = set(held.values()) | {record["request_id"] for record in parts.delivered.values()}
                assert set(finished) <= recorded
                await parts.start_gateway()  # and the next one delivers them
                await until(lambda: set(held) <= set(parts.delivered))
                assert delivered <= set(parts.delivered)

        run(test())

    def test_two_processes_share_a_port_and_one_may_die(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with platform(tmp_path, answer_usual) as parts:
                both = [
                    await parts.start_gateway(FINMAAS_GATEWAY_PROCESSES="2", FINMAAS_GATEWAY_ID=name)
                    for name in ("gw-1", "gw-1-2")
                ]
                asked: set[str] = set()
                while len(parts.by_gateway) < 2:  # the kernel deals connections out to both
                    await parts.ready()
                    for _ in range(8):
                        answer = await parts.send(post(chat()))
                        if answer.status == 200:
                            asked.add(answer.headers["x-request-id"])
                    await asyncio.sleep(0.05)
                both[0].kill()
                await both[0].wait()
                for _ in range(8):
                    answer = await parts.send(post(chat()))
                    assert answer.status == 200
                    asked.add(answer.headers["x-request-id"])
                await parts.start_gateway(FINMAAS_GATEWAY_PROCESSES="2", FINMAAS_GATEWAY_ID="gw-1")
                await until(lambda: asked <= set().union(*parts.by_gateway.values()))
                assert not parts.by_gateway["gw-1"] & parts.by_gateway["gw-1-2"]

        run(test())

    def test_a_disk_that_is_full_refuses_and_loses_no_record(self, tmp_path: Path) -> None:
        """The kernel refuses the next segment of the spool, as a full disk would."""
        finished: list[str] = []
        refused: list[dict[str, Any]] = []

        async def client(parts: Platform) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", parts.base)
            while not refused:
                writer.write(post(chat()))
                try:
                    answer = await read_answer(reader)
                except (asyncio.IncompleteReadError, ConnectionError):  # cut: the last byte of a segment met the limit
                    reader, writer = await asyncio.open_connection("127.0.0.1", parts.base)
                    continue
                if answer.status == 200:
                    finished.append(answer.headers["x-request-id"])
                else:
                    refused.append({"status": answer.status, **answer.error})
            writer.close()

        async def test() -> None:
            async with platform(tmp_path, answer_usual) as parts:
                gateway = await parts.start_gateway()
                await parts.ready()
                parts.stop_neighbours()  # nothing is delivered, so nothing is freed
                resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (SEGMENT_BYTES - 1, resource.RLIM_INFINITY))
                await asyncio.gather(*(client(parts) for _ in range(8)))
                assert {(one["status"], one["code"]) for one in refused} == {(503, "gateway_full")}
                assert (await parts.get("/v1/models")).status == 200  # it lives
                resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
                await parts.start_neighbours()
                while (answer := await parts.send(post(chat()))).status != 200:  # room is tried for anew
                    await asyncio.sleep(0.02)
                finished.append(answer.headers["x-request-id"])
                delivered = parts.by_gateway.setdefault("gw-1", set())
                await until(lambda: set(finished) <= delivered)

        run(test())

    def test_a_taken_port_is_named(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with platform(tmp_path) as parts:
                with socket.socket() as taken:
                    taken.bind(("127.0.0.1", parts.base))
                    taken.listen()
                    gateway = await parts.start_gateway()
                    assert await gateway.wait() == 1
                assert f"port {parts.base}" in (parts.home / "log").read_text()

        run(test())

"""Files and batches with OpenAI's client: a real control plane and gateway, an engine of a few lines, kill -9."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from client_engine import Engine
from integration_helpers import find_port_block, wait_until
from sqlalchemy import select

from finmaas_core.home import read_secret
from finmaas_core.settings import Settings
from finmaas_platform.db.base import make_engine, make_session_factory, unit_of_work
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.sdk import Client
from finmaas_platform.services.snapshots import bump_snapshot
from finmaas_serving.gateway.snapshot import SnapshotFile

pytestmark = pytest.mark.timeout(120)
CONTROL_PLANE, GATEWAY = "finmaas_platform.control_plane", "finmaas_serving.gateway"
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
BODIES: dict[str, Callable[[str], dict[str, Any]]] = {
    "/v1/chat/completions": lambda text: {"messages": [{"role": "user", "content": text}]},
    "/v1/completions": lambda text: {"prompt": text},
    "/v1/embeddings": lambda text: {"input": text},
    "/v1/responses": lambda text: {"input": text},
}


@dataclass
class Installation:
    """A control plane and a gateway, and an endpoint whose replica is the test's."""

    settings: Settings
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, module: str) -> None:
        env = {
            **os.environ, "FINMAAS_HOME": str(self.settings.home), "FINMAAS_PORT_BASE": str(self.settings.port_base),
            "FINMAAS_BATCH_CONCURRENCY": "2",
        }  # fmt: skip
        with (self.settings.home / f"{module}.log").open("ab") as log:
            self.processes[module] = subprocess.Popen([sys.executable, "-m", module], env=env, stdout=log, stderr=log)

    def kill(self, module: str) -> None:
        self.processes[module].send_signal(signal.SIGKILL)
        self.processes[module].wait(10)

    def admin(self) -> Client:
        return Client(self.settings.api_url, read_secret(self.settings.paths.admin_token))

    def add_endpoint(self, replica_port: int) -> None:
        """An endpoint that nobody had to deploy, and where its replica is, as a gateway last heard it."""
        sessions = make_session_factory(make_engine(self.settings.sqlalchemy_url))
        with unit_of_work(sessions) as session:
            project = session.scalars(select(ProjectRow)).one()
            row = EndpointRow(
                id="ep_chat", tenant_id=project.tenant_id, project_id=project.id, name="chat", state="ready",
                model_version_id="mdv_1", model_ref="default/default/m@1", replicas=1, engine={}, reason="",
                created_at=project.created_at, created_by="x", stopped_at=None,
            )  # fmt: skip
            session.add(row)
            bump_snapshot(session)
        folder = self.settings.paths.gateway / "gw-1"
        folder.mkdir(parents=True, exist_ok=True)
        told = json.dumps({"ep_chat": [["127.0.0.1", replica_port]]}).encode()
        SnapshotFile(folder / "replicas", read_secret(self.settings.paths.gateway_token)).save(told)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[Installation]:
    settings = Settings(home=tmp_path_factory.mktemp("batches") / "home", port_base=find_port_block())
    settings.home.mkdir()
    made = Installation(settings)
    try:
        made.start(CONTROL_PLANE)
        wait_until(lambda: _answers(made), 30, "the control plane")
        made.add_endpoint(engine.port)
        made.start(GATEWAY)
        yield made
    finally:
        for process in made.processes.values():
            process.kill()
            process.wait(10)


def _answers(made: Installation) -> bool:
    try:
        return bool(list(made.admin().projects.list()))
    except Exception:  # noqa: BLE001 - whatever it is, it does not answer yet
        return False


@pytest.fixture(scope="module")
def client(installation: Installation) -> openai.OpenAI:
    key = installation.admin().keys.create("default/default", "batches").key
    made = openai.OpenAI(base_url=f"{installation.settings.gateway_url}/v1", api_key=key, max_retries=0)
    wait_until(lambda: _knows(made), 30, "the gateway to know the key")
    return made


def _knows(client: openai.OpenAI) -> bool:
    try:
        return "chat" in {model.id for model in client.models.list()}
    except openai.OpenAIError:
        return False


def lines(endpoint: str, count: int) -> bytes:
    told = [
        {
            "custom_id": f"c{i}",
            "method": "POST",
            "url": endpoint,
            "body": {"model": "chat", **BODIES[endpoint](f"t{i}")},
        }
        for i in range(count)
    ]
    return "\n".join(map(json.dumps, told)).encode()


def settled(client: openai.OpenAI, batch_id: str) -> Any:
    wait_until(
        lambda: client.batches.retrieve(batch_id).status in ("completed", "failed", "cancelled"), 60, "the batch to end"
    )
    return client.batches.retrieve(batch_id)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_batch_of_each_endpoint(client: openai.OpenAI, endpoint: str) -> None:
    file = client.files.create(file=("in.jsonl", lines(endpoint, 5)), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,
        completion_window="24h",
        metadata={"case": "x"},  # type: ignore[arg-type]
    )
    done = settled(client, batch.id)
    assert (done.status, done.request_counts.completed, done.metadata) == ("completed", 5, {"case": "x"})
    told = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in told] == [f"c{i}" for i in range(5)]
    assert {line["response"]["body"]["model"] for line in told} == {"chat"}
    assert batch.id in {one.id for one in client.batches.list()}
    assert client.files.retrieve(file.id).bytes == len(lines(endpoint, 5))
    assert client.files.delete(file.id).deleted


def test_refusals_reach_the_client_in_its_own_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("x", b"x"), purpose="assistants")
    assert refused.value.param == "purpose"
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve("file_none")
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(input_file_id="x", endpoint="/v1/other", completion_window="24h")  # type: ignore[arg-type]
    assert refused.value.param == "endpoint"
    file = client.files.create(file=("in.jsonl", b'{"custom_id": 5}\n'), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/responses", completion_window="24h")
    failed = settled(client, batch.id)
    assert (failed.status, failed.errors.data[0].line) == ("failed", 1)


def test_a_large_upload_passes_through_little_memory_and_a_larger_one_does_not_pass(
    installation: Installation, client: openai.OpenAI
) -> None:
    big = bytes(range(256)) * (96 * 1024 * 4)  # 96 MiB, announced
    client.files.create(file=("small", big[:1000]), purpose="batch")  # what is loaded at the first one
    with _bounded_growth(installation, CONTROL_PLANE, 48), _bounded_growth(installation, GATEWAY, 24):
        file = client.files.create(file=("big", big), purpose="batch")
    assert file.bytes == len(big)
    assert client.files.content(file.id).content == big
    with _bounded_growth(installation, GATEWAY, 24), pytest.raises(openai.APIStatusError) as refused:
        client.files.create(file=("huge", big + big[: 5 * 1024 * 1024]), purpose="batch")
    assert refused.value.status_code == 413


@contextmanager
def _bounded_growth(installation: Installation, module: str, mib: int) -> Iterator[None]:
    """Fails when the resident memory of a process grew by more, at its peak."""
    folder = Path(f"/proc/{installation.processes[module].pid}")
    (folder / "clear_refs").write_text("5")  # the peak is measured from here
    before = _peak_mib(folder)
    yield
    assert _peak_mib(folder) - before < mib


def _peak_mib(folder: Path) -> float:
    [line] = [line for line in (folder / "status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize("ends", ["client", "gateway"])
def test_an_upload_that_ends_half_way_leaves_nothing(
    installation: Installation, client: openai.OpenAI, ends: str
) -> None:
    before = _left(installation, client)
    with _half_way(installation, client):
        if ends == "gateway":
            installation.kill(GATEWAY)
    wait_until(lambda: not _forms(installation), 30, "the form to be forgotten")
    if ends == "gateway":
        installation.start(GATEWAY)
        wait_until(lambda: _knows(client), 30, "the gateway")
    assert _left(installation, client) == before
    assert client.files.create(file=("next", b"x"), purpose="batch").bytes == 1


@contextmanager
def _half_way(installation: Installation, client: openai.OpenAI) -> Iterator[socket.socket]:
    """A connection on which half a file has gone as far as the control plane's disk."""
    with socket.create_connection(("127.0.0.1", installation.settings.port("gateway")), timeout=30) as connection:
        connection.sendall(_half_an_upload(client.api_key))
        wait_until(lambda: bool(_forms(installation)), 30, "the form to reach the disk")
        yield connection


def _half_an_upload(key: str) -> bytes:
    """A form whose file has come in part, larger than what is held in memory."""
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n' + b"x" * 4_000_000
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: multipart/form-data; boundary=b\r\ncontent-length: {len(part) + 1000}\r\n\r\n"
    )
    return head.encode() + part


def _forms(installation: Installation) -> set[Path]:
    """The forms that the control plane holds: files on disk without a name."""
    found = set()
    for entry in Path(f"/proc/{installation.processes[CONTROL_PLANE].pid}/fd").iterdir():
        with suppress(OSError):
            found.add(entry.readlink())
    return {path for path in found if path.name.endswith(" (deleted)") and path.is_relative_to(tempfile.gettempdir())}


def _left(installation: Installation, client: openai.OpenAI) -> tuple[set[str], set[Path]]:
    """The names of files, and all blobs and scratch files of the store."""
    blobs = {path for path in installation.settings.paths.blobs.rglob("*") if path.is_file()}
    return {file.id for file in client.files.list()}, blobs


def test_kill_9_in_the_middle_loses_nothing_and_charges_nothing_twice(
    installation: Installation, client: openai.OpenAI, engine: Engine
) -> None:
    count = 40
    used = _prompt_tokens(installation)
    engine.hold()
    files = {file.id for file in client.files.list()}
    file = client.files.create(file=("in.jsonl", lines("/v1/chat/completions", count)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    for _ in range(3):
        answered = engine.answered
        engine.let(5)  # a few answers, then the engine holds the next ones
        wait_until(lambda before=answered: engine.answered >= before + 5, 30, "answers")
        with _half_way(installation, client) as connection:
            installation.kill(CONTROL_PLANE)
            told = connection.recv(65536)
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 5\r\n" in told
        installation.start(CONTROL_PLANE)
        wait_until(lambda: _answers(installation), 30, "the control plane")
    engine.free()
    done = settled(client, batch.id)
    assert (done.status, done.request_counts.completed) == ("completed", count)
    lines_told = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in lines_told] == [f"c{i}" for i in range(count)]
    assert {one.id for one in client.files.list()} - files == {file.id, done.output_file_id}
    wait_until(lambda: _prompt_tokens(installation) - used >= 7 * count, 20, "usage to be delivered")
    assert _prompt_tokens(installation) - used == 7 * count


def _prompt_tokens(installation: Installation) -> int:
    return sum(total.prompt_tokens for total in installation.admin().usage.summary())

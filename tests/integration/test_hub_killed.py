"""A control plane that is killed while a Hub client uploads: the draft, the address and the commit hold."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from integration_helpers import find_port_block, wait_until
from model_files import FILES

from finmaas_core.home import read_secret
from finmaas_core.settings import Settings
from finmaas_platform.sdk import Client

pytestmark = pytest.mark.integration
ID = "default/default.m"
LARGE = os.urandom(8 << 20)
Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", port_base=find_port_block())


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts the control plane of the home, and returns once it answers."""
    started: list[subprocess.Popen[bytes]] = []
    env = {**os.environ, "FINMAAS_HOME": str(settings.home), "FINMAAS_PORT_BASE": str(settings.port_base)}

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            command = [sys.executable, "-m", "finmaas_platform.control_plane"]
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        started.append(process)
        wait_until(lambda: answers(settings), 60, "the control plane to answer")
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(30)


def answers(settings: Settings) -> bool:
    try:
        return httpx.get(f"{settings.api_url}/api/v1/health", trust_env=False, timeout=2).status_code < 500
    except httpx.TransportError:
        return False


def send_half(href: str) -> socket.socket:
    """Begins an upload and stops in the middle of it."""
    parts = urlsplit(href)
    connection = socket.create_connection((str(parts.hostname), int(parts.port or 80)))
    head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(LARGE)}\r\n\r\n"
    connection.sendall(head.encode() + LARGE[: len(LARGE) // 2])
    return connection


def test_a_draft_survives_and_goes_on(settings: Settings, start: Start) -> None:
    process = start()
    token = read_secret(settings.paths.admin_token)
    hub = HfApi(endpoint=settings.api_url, token=token)
    hub.create_repo(ID)
    first = hub.create_commit(ID, [CommitOperationAdd("config.json", b"{}")], commit_message="first").oid

    digest = hashlib.sha256(LARGE).hexdigest()
    headers = {"Authorization": f"Bearer {token}"}
    batch: dict[str, Any] = {"operation": "upload", "objects": [{"oid": digest, "size": len(LARGE)}]}
    url = f"{settings.api_url}/{ID}.git/info/lfs/objects/batch"
    href = httpx.post(url, json=batch, headers=headers, trust_env=False).json()["objects"][0]["actions"]["upload"][
        "href"
    ]
    scratch = settings.paths.blobs / "tmp"
    with send_half(href):
        wait_until(lambda: any(path.stat().st_size for path in scratch.iterdir()), 20, "half a file to arrive")
        process.kill()
        process.wait(30)

    start()
    assert list(scratch.iterdir()) == []
    assert hub.model_info(ID).sha == first
    assert httpx.put(href, content=LARGE, trust_env=False, timeout=60).status_code == 200
    assert "actions" not in httpx.post(url, json=batch, headers=headers, trust_env=False).json()["objects"][0]
    rest = [CommitOperationAdd(name, content) for name, content in FILES.items() if name != "config.json"]
    hub.create_commit(ID, rest, commit_message="rest", parent_commit=first)
    with Client(settings.api_url, token) as client:
        version = client.drafts.release_model("m")
        assert (version.ref, len(version.files)) == ("default/default/m@1", len(FILES))

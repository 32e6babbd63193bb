"""A gateway process before an engine of a few lines, for the real clients to be run against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serving" / "gateway"))

from client_engine import Engine
from client_runs import run_script
from gateway_parts import KEY, PEPPER, snapshot_document
from integration_helpers import find_port_block, wait_until

from finmaas_core.home import Home, write_secret
from finmaas_serving.gateway.snapshot import SnapshotFile

Client = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A replica that answers every shape."""
    made = Engine()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def gateway_url(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[str]:
    """A gateway that starts from its disk: its control plane and Ray are away."""
    home = Home(tmp_path_factory.mktemp("clients") / "home")
    home.make()
    write_secret(home.pepper, PEPPER)
    write_secret(home.gateway_token, "fmg_token")
    folder = home.gateway / "gw-1"
    folder.mkdir(parents=True)
    SnapshotFile(folder / "snapshot", "fmg_token").save(json.dumps(snapshot_document()).encode())
    addresses = json.dumps({"ep_chat": [["127.0.0.1", engine.port]]})
    SnapshotFile(folder / "replicas", "fmg_token").save(addresses.encode())
    base = find_port_block()
    env = {**os.environ, "FINMAAS_HOME": str(home.root), "FINMAAS_PORT_BASE": str(base)}
    with (home.root / "log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "finmaas_serving.gateway"], env=env, stderr=log)
    try:
        wait_until(lambda: _is_ready(base), 30, "the gateway to be ready")
        yield f"http://127.0.0.1:{base}"
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="session")
def run_client(gateway_url: str) -> Client:
    """Runs the script of one client and returns what it saw."""
    return lambda script: run_script(script, gateway_url, KEY, "chat")

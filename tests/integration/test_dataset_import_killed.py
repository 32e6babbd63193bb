"""The control plane dies by `kill -9` at each stage of an import; repeated, the import gives exactly one version."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from integration_helpers import find_port_block, wait_until

from finmaas_core.home import read_secret
from finmaas_core.settings import Settings, load_settings

pytestmark = pytest.mark.integration

ROWS = 150_000
URL = "/api/v1/datasets/default/default/many/versions"


class ControlPlane:
    """A control plane of its own, without supervisor, gateway or Ray."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port_base = find_port_block(first=24000)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> Settings:
        return load_settings(self.home).model_copy(update={"port_base": self.port_base})

    def start(self) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith("FINMAAS_")}
        env |= {"FINMAAS_HOME": str(self.home), "FINMAAS_PORT_BASE": str(self.port_base)}
        argv = [sys.executable, "-m", "finmaas_platform.control_plane"]
        with (self.home.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, env=env, stdout=log, stderr=log)
        wait_until(self._answers, 120, "the control plane answers")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def step_until(self, condition: Callable[[], bool]) -> None:
        """Lets the process run a few milliseconds at a time until the condition holds; it is stopped then."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        process.suspend()
        for _ in range(20_000):
            if condition():
                return
            process.resume()
            time.sleep(0.003)
            process.suspend()
        pytest.fail("the stage did not begin")

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        headers = {"Authorization": f"Bearer {read_secret(self.settings.paths.admin_token)}"}
        with httpx.Client(base_url=self.settings.api_url, headers=headers, timeout=300, trust_env=False) as client:
            yield client

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.home.parent / "log").read_text()[-2000:]
        try:
            return httpx.get(f"{self.settings.api_url}/api/v1/health", trust_env=False).is_success
        except httpx.TransportError:
            return False


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    home = tmp_path / "home"
    home.mkdir()
    control_plane = ControlPlane(home)
    control_plane.start()
    yield control_plane
    control_plane.kill()


def make_chunks() -> Iterator[bytes]:
    """A file of ROWS rows, some kilobytes at a time."""
    yield b"text,label\n"
    for start in range(0, ROWS, 500):
        yield "".join(f"how do I do the thing number {n}?,l{n % 7}\n" for n in range(start, start + 500)).encode()


def send(control_plane: ControlPlane) -> httpx.Response | None:
    """The answer to an import, or None when the control plane went away before it gave one."""
    with control_plane.client() as client:
        try:
            return client.post(URL, params={"filename": "many.csv"}, content=make_chunks())
        except httpx.TransportError:
            return None


# What lies in the home folder while the stage goes on.
STAGES = {
    "receiving": "imports/*/body",
    "converting": "imports/*/000001.arrow",
    "writing": "imports/*/train.parquet",
    "storing": "blobs/??/??/*",
}


class TestImportKilled:
    @pytest.mark.parametrize("stage", STAGES)
    def test_leaves_nothing_and_then_one_version(self, control_plane: ControlPlane, stage: str) -> None:
        home = control_plane.home
        answers: list[httpx.Response | None] = []
        sender = threading.Thread(target=lambda: answers.append(send(control_plane)))
        sender.start()
        if stage == "storing":  # shorter than a look: from the stage before on, it goes step by step
            wait_until(lambda: any(home.glob(STAGES["writing"])) or answers, 120, "writing begins")
            control_plane.step_until(lambda: any(home.glob(STAGES[stage])) or bool(answers))
        else:
            wait_until(lambda: any(home.glob(STAGES[stage])) or answers, 120, f"{stage} begins")
        control_plane.kill()
        sender.join()
        assert answers == [None], "the import was over before it could be disturbed"

        control_plane.start()
        assert [*(home / "imports").iterdir()] == []
        assert [*(home / "blobs" / "tmp").iterdir()] == []
        with control_plane.client() as client:
            assert client.get("/api/v1/datasets").json()["items"] == []
        first, again = send(control_plane), send(control_plane)
        assert first is not None
        assert again is not None
        assert (first.status_code, again.status_code) == (201, 200), first.text
        assert first.json() == again.json()
        assert (first.json()["version"], first.json()["rows"]) == (1, ROWS)
        assert len([*home.glob("blobs/??/??/*")]) == 4  # three splits and the index of rows

"""What several integration tests share: a running installation, its processes, and waiting on conditions."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from finmaas_core.settings import Settings
from finmaas_platform.embedded.processes import find_processes
from finmaas_platform.sdk import Client

BLOCK = 100


def find_port_block(first: int = 21000, last: int = 30000) -> int:
    """The first port of a block in which nothing listens now; each of several workers has blocks of its own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = (last - first) // BLOCK // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) * BLOCK
    for base in range(first + worker * share, first + (worker + 1) * share, BLOCK):
        if all(_is_free(base + offset) for offset in range(BLOCK)):
            return base
    raise AssertionError("no free block of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Returns once the condition holds; fails the test, saying what was waited for, after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.1)  # other processes are watched: there is nothing to wait on


@dataclass(frozen=True)
class Installation:
    """A running platform and how to reach it."""

    settings: Settings

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def env(self) -> dict[str, str]:
        """The environment in which the CLI and the demo find this installation."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("FINMAAS_")}
        return {**kept, "FINMAAS_HOME": str(self.home)}

    def client(self) -> Client:
        return Client(home=self.home)

    def processes(self, part: str) -> list[psutil.Process]:
        return find_processes(self.home, part)

    def main_pid(self, part: str) -> int:
        """The pid of the process that the supervisor started for a part; 0 while it is between two."""
        from finmaas_platform.embedded.supervisor import read_parts

        record = read_parts(self.settings.paths.run / "parts.json").get(part)
        return record.pid if record else 0

    def kill(self, part: str) -> None:
        """Kills the process of a part (not what it started) and returns once the supervisor has begun another."""
        before = self.main_pid(part)
        psutil.Process(before).kill()
        wait_until(lambda: self.main_pid(part) not in (0, before), 30, f"a new {part}")

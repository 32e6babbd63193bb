"""Keeps the parts of an embedded installation alive. `python -m finmaas_platform.embedded.supervisor`.

It may die at any moment: the parts go on without it, and the next one adopts them from `run/parts.json`.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from finmaas_core.errors import Conflict
from finmaas_core.settings import Settings, load_settings
from finmaas_core.telemetry import configure_logging, get_logger
from finmaas_platform.embedded.processes import (
    Part,
    end_processes,
    find_processes,
    list_parts,
    prune_ray_sessions,
    start_part,
)

CHECK_INTERVAL_S = 0.5
STEADY_AFTER_S = 60.0
MAX_BACKOFF_S = 30.0

log = get_logger()


@dataclass
class Watched:
    """What is known of one part; written to disk so that a new supervisor can adopt it."""

    pid: int
    created: float
    started_at: float
    restarts: int = 0
    quick_deaths: int = 0
    retry_at: float = 0.0


def find_living(watched: Watched | None) -> psutil.Process | None:
    """The process a record speaks of, unless it is gone or its pid now belongs to another."""
    if watched is None or watched.pid == 0:
        return None
    try:
        process = psutil.Process(watched.pid)
        same = abs(process.create_time() - watched.created) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def plan_restart(watched: Watched, now: float) -> Watched:
    """The record after a death at `now`: at once after a steady life, else with doubling pauses up to 30 s."""
    steady = now - watched.started_at >= STEADY_AFTER_S
    quick_deaths = 0 if steady else watched.quick_deaths + 1
    pause_s = 0.0 if quick_deaths <= 1 else min(MAX_BACKOFF_S, 2.0 ** (quick_deaths - 2))
    return Watched(0, 0.0, watched.started_at, watched.restarts + 1, quick_deaths, now + pause_s)


class Supervisor:
    """Starts, watches, restarts and stops the parts of one home."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.parts = list_parts(settings)
        self.state_file = settings.paths.run / "parts.json"
        self.watched: dict[str, Watched] = read_parts(self.state_file)
        self.stopping = threading.Event()

    def run(self) -> None:
        """Watches until told to stop (SIGTERM or SIGINT), then stops every part."""
        with hold_lock(self.settings.paths.run / "supervisor.lock"):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stopping.set())
            log.info("supervisor.started", home=str(self.settings.home), pid=os.getpid())
            while not self.stopping.is_set():
                for part in self.parts:
                    self.tend(part)
                _reap_children()
                self.stopping.wait(CHECK_INTERVAL_S)
            self.stop_all()

    def tend(self, part: Part) -> None:
        """Leaves a living part alone; restarts a dead one when its pause is over."""
        watched = self.watched.get(part.name)
        if find_living(watched) is not None:
            return
        now = time.time()
        if watched is not None and watched.pid:
            watched = self.watched[part.name] = plan_restart(watched, now)
            log.warning("part.died", part=part.name, restarts=watched.restarts, retry_in_s=watched.retry_at - now)
            self.write()
        if watched is not None and watched.retry_at > now:
            return
        self.start(part, watched)

    def start(self, part: Part, before: Watched | None) -> None:
        """Starts a part after ending whatever an earlier run of it left behind (it would hold the ports)."""
        end_processes(find_processes(self.settings.home, part.name), grace_s=5)
        if part.name == "ray":
            prune_ray_sessions(self.settings)
        popen = start_part(part, self.settings)
        created = psutil.Process(popen.pid).create_time()
        self.watched[part.name] = Watched(
            popen.pid,
            created,
            time.time(),
            before.restarts if before else 0,
            before.quick_deaths if before else 0,
        )
        self.write()
        log.info("part.started", part=part.name, pid=popen.pid)

    def stop_all(self) -> None:
        """Stops the parts in order; what a part leaves behind is ended by its marks."""
        for part in self.parts:
            process = find_living(self.watched.get(part.name))
            if process is not None:
                end_processes([process], part.stop_grace_s)
            end_processes(find_processes(self.settings.home, part.name), grace_s=5)
            log.info("part.stopped", part=part.name)
        self.state_file.unlink(missing_ok=True)

    def write(self) -> None:
        """Writes what is known, whole or not at all."""
        scratch = self.state_file.with_suffix(".tmp")
        scratch.write_text(json.dumps({name: asdict(record) for name, record in self.watched.items()}))
        scratch.replace(self.state_file)


def read_parts(path: Path) -> dict[str, Watched]:
    """The records of an earlier supervisor; none when there is no file or it cannot be read."""
    try:
        raw = json.loads(path.read_text())
        return {name: Watched(**record) for name, record in raw.items()}
    except (OSError, ValueError, TypeError):
        return {}


class hold_lock:  # noqa: N801 - reads as a function: `with hold_lock(path)`
    """An exclusive lock on a file, held for the life of this process. Conflict when another holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        self.file = self.path.open("a+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"another supervisor holds {self.path}; `finmaas down` ends it") from error
        self.file.truncate(0)
        self.file.write(str(os.getpid()))
        self.file.flush()

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _reap_children() -> None:
    """Collects ended children, so that none stays a zombie."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def main() -> None:
    """Entry point; the home comes from FINMAAS_HOME."""
    configure_logging("supervisor")
    Supervisor(load_settings()).run()


if __name__ == "__main__":
    main()

"""The processes of the embedded profile, and how to recognise them again.

Every process we start carries two environment variables, which its descendants inherit: FINMAAS_INSTANCE (the
home folder it belongs to) and FINMAAS_PART. They are how `down` ends all of ours and nothing else. Ray's daemons and
workers write a title over their environment, so a second mark stands beside it: the current folder, `run/<part>` of
the home, in which nobody else has a reason to be.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from finmaas_core.settings import Settings
from finmaas_platform.cluster.ray_head import ray_head_command

INSTANCE_VARIABLE = "FINMAAS_INSTANCE"
PART_VARIABLE = "FINMAAS_PART"
MAX_LOG_BYTES = 64 * 1024 * 1024
KEPT_RAY_SESSIONS = 2


@dataclass(frozen=True)
class Part:
    """One process to keep alive; `health_url` answers 2xx once it is up."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    health_url: str = ""
    port: int = 0
    stop_grace_s: float = 10.0
    ca_file: Path | None = None  # what its certificate is checked by, where it speaks TLS


def list_parts(settings: Settings) -> tuple[Part, ...]:
    """What the embedded profile runs, in the order in which it is stopped."""
    ray_argv, ray_env = ray_head_command(settings)
    return (
        *(_gateway(settings, number) for number in range(1, settings.gateway_processes + 1)),
        Part(
            name="control-plane",
            argv=(sys.executable, "-m", "finmaas_platform.control_plane"),
            health_url=f"{settings.api_url}/api/v1/health",
            port=settings.port("api"),
        ),
        Part(
            name="ray",
            argv=tuple(ray_argv),
            env=ray_env,
            health_url=f"{settings.dashboard_url}/nodes?view=summary",
            port=settings.port("ray_dashboard"),
            stop_grace_s=20.0,
        ),
    )


def _gateway(settings: Settings, number: int) -> Part:
    """One of the processes that share the gateway's port. The first keeps the plain name, and so its spool."""
    tail = f"-{number}" if number > 1 else ""
    return Part(
        name=f"gateway{tail}",
        argv=(sys.executable, "-m", "finmaas_serving.gateway"),
        env={"FINMAAS_GATEWAY_ID": f"{settings.gateway_id}{tail}"},
        health_url=f"{settings.gateway_url}/healthz",
        port=settings.port("gateway"),
        ca_file=settings.gateway_tls_cert,
    )


def start_part(part: Part, settings: Settings) -> subprocess.Popen[bytes]:
    """Starts a part in a session of its own, its output appended to `logs/<part>.log`."""
    log_path = settings.paths.logs / f"{part.name}.log"
    rotate_log(log_path)
    env = {**os.environ, **part.env, "FINMAAS_HOME": str(settings.home), **marks(settings.home, part.name)}
    env.setdefault("PYTHONUNBUFFERED", "1")
    # Where a machine forbids it, each process compiles every library anew: the control plane takes 2.2 s, not 0.9.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    folder = settings.paths.run / part.name
    folder.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        return subprocess.Popen(
            part.argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )


def prune_ray_sessions(settings: Settings) -> None:
    """Removes Ray's session folders but the newest few, whose logs may still be wanted. Only while Ray is down."""
    sessions = sorted(settings.paths.ray_temp.glob("session_2*"))
    for folder in sessions[:-KEPT_RAY_SESSIONS]:
        shutil.rmtree(folder, ignore_errors=True)


def marks(home: Path, part: str) -> dict[str, str]:
    """The environment by which a process is known as ours."""
    return {INSTANCE_VARIABLE: str(home), PART_VARIABLE: part}


def rotate_log(path: Path) -> None:
    """Keeps one older file once a log is large."""
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))


def find_processes(home: Path, part: str | None = None) -> list[psutil.Process]:
    """Every living process of this home (of one part, if given), this one left out."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            owner = _find_part(process, home)
        except (psutil.Error, OSError):
            continue  # gone already, or another user's
        if owner is not None and part in (None, owner):
            found.append(process)
    return found


def _find_part(process: psutil.Process, home: Path) -> str | None:
    """The part of this home that a process belongs to; None for all others."""
    env = process.environ()
    if env.get(INSTANCE_VARIABLE) == str(home) and PART_VARIABLE in env:
        return env[PART_VARIABLE]
    folder = Path(process.cwd())
    return folder.name if folder.parent == (home / "run").resolve() else None


def end_processes(processes: Iterable[psutil.Process], grace_s: float) -> int:
    """Asks processes to end, waits, then kills what is left; returns how many had to be killed."""
    asked = list(processes)
    for process in asked:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(asked, timeout=grace_s)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=10)
    return len(alive)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return

"""Starting, stopping and looking at an embedded installation, for the CLI, the demo and the tests."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from finmaas_core.errors import EnvironmentFault, Unavailable
from finmaas_core.home import find_home, read_secret
from finmaas_core.settings import DEFAULT_PORT_BASE, Settings, load_settings
from finmaas_platform.embedded import doctor
from finmaas_platform.embedded.ports import check_ports
from finmaas_platform.embedded.processes import (
    Part,
    end_processes,
    find_processes,
    list_parts,
    marks,
    rotate_log,
)
from finmaas_platform.embedded.supervisor import find_living, read_parts
from finmaas_platform.services.bootstrap import ensure_secrets

START_TIMEOUT_S = 240.0
OnEvent = Callable[[str], None]


@dataclass(frozen=True)
class PartStatus:
    """One process as a user sees it; `state` is running, starting or stopped."""

    name: str
    state: str
    pid: int | None
    port: int
    uptime_s: float | None
    restarts: int
    detail: str = ""


@dataclass(frozen=True)
class Status:
    """An installation as a whole."""

    home: Path
    profile: str
    supervisor_pid: int | None
    api_url: str
    gateway_url: str
    dashboard_url: str
    parts: tuple[PartStatus, ...]

    @property
    def is_up(self) -> bool:
        return all(part.state == "running" for part in self.parts)


def ensure_up(
    home: str | Path | None = None, port_base: int | None = None, on_event: OnEvent = lambda _: None
) -> Status:
    """Starts what does not run yet and returns once everything answers.

    Raises EnvironmentFault for what this machine lacks (a port, the compiler, memory, disk), Unavailable when a
    part does not come up in time; both say where to look.
    """
    settings = prepare_home(home, port_base)
    if find_supervisor(settings.paths.run) is None:
        doctor.require_startable(settings)
        if not find_processes(settings.home):
            check_ports(settings)
        on_event("starting the supervisor")
        start_supervisor(settings)
    wait_ready(settings, on_event)
    return read_status(settings)


def prepare_home(home: str | Path | None, port_base: int | None) -> Settings:
    """Makes the home folder, its secrets and its configuration on first use."""
    found = find_home(home)
    found.make()
    settings = load_settings(found.root)
    if port_base is not None and port_base != settings.port_base and find_supervisor(found.run) is not None:
        raise EnvironmentFault(
            f"{found.root} already runs on port base {settings.port_base}; `finmaas down` first to move it"
        )
    if not found.config.exists() or (port_base is not None and port_base != settings.port_base):
        wanted = port_base or settings.port_base or DEFAULT_PORT_BASE
        found.config.write_text(f"# Written by `finmaas up`; see docs/reference/settings.md.\nport_base = {wanted}\n")
        settings = load_settings(found.root)
    ensure_secrets(found)
    return settings


def start_supervisor(settings: Settings) -> None:
    """Starts the supervisor, detached from this terminal."""
    log_path = settings.paths.logs / "supervisor.log"
    rotate_log(log_path)
    with log_path.open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "finmaas_platform.embedded.supervisor"],
            env={**os.environ, "FINMAAS_HOME": str(settings.home), **marks(settings.home, "supervisor")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=settings.home,
            start_new_session=True,
        )


def find_supervisor(run_folder: Path) -> psutil.Process | None:
    """The living supervisor of a home, if there is one."""
    home = run_folder.parent
    found = find_processes(home, "supervisor")
    return found[0] if found else None


def wait_ready(settings: Settings, on_event: OnEvent, timeout_s: float = START_TIMEOUT_S) -> None:
    """Returns once every part answers; Unavailable names the one that does not and shows the end of its log."""
    deadline = time.monotonic() + timeout_s
    waiting = {part.name: part for part in list_parts(settings)}
    while waiting:
        for part in list(waiting.values()):
            if answers(part, settings):
                on_event(f"{part.name} answers on port {part.port}")
                del waiting[part.name]
        records = read_parts(settings.paths.run / "parts.json")
        for name in waiting:
            if name in records and records[name].quick_deaths >= 2:
                raise Unavailable(explain_failure(settings, name, "ends as soon as it starts"))
        if waiting and time.monotonic() > deadline:
            name = next(iter(waiting))
            raise Unavailable(explain_failure(settings, name, f"did not answer within {timeout_s:.0f} s"))
        time.sleep(0.1)  # polling other processes: there is nothing to wait on


def answers(part: Part, settings: Settings) -> bool:
    """Whether a part does its work: its health address gives a 2xx and, for Ray, a node has joined."""
    headers = {}
    if part.name == "ray" and settings.paths.ray_token.exists():
        headers["Authorization"] = f"Bearer {read_secret(settings.paths.ray_token)}"
    try:
        reply = httpx.get(part.health_url, headers=headers, timeout=2.0, trust_env=False, verify=_trust(part))
    except (httpx.HTTPError, OSError):
        return False
    return reply.is_success and (part.name != "ray" or has_live_node(reply.json()))


def _trust(part: Part) -> ssl.SSLContext | bool:
    """A part that speaks TLS here is asked by its address, which its certificate need not name."""
    if part.ca_file is None:
        return True
    context = ssl.create_default_context(cafile=str(part.ca_file))
    context.check_hostname = False
    return context


def has_live_node(document: dict[str, Any]) -> bool:
    """Whether Ray's `/nodes?view=summary` lists a node that is alive; the dashboard answers before there is one."""
    nodes = document.get("data", {}).get("summary", [])
    return any(node.get("raylet", {}).get("state") == "ALIVE" for node in nodes)


def explain_failure(settings: Settings, part: str, what: str) -> str:
    """One message with the end of the part's log and the next step."""
    log_path = settings.paths.logs / f"{part}.log"
    lines = log_path.read_text(errors="replace").splitlines()[-8:] if log_path.exists() else []
    tail = "\n".join(f"  {line[:200]}" for line in lines)
    return (
        f"{part} {what}; `finmaas logs {part}` shows all, `finmaas doctor` checks this machine. Its last lines:\n{tail}"
    )


def take_down(home: str | Path | None = None, on_event: OnEvent = lambda _: None) -> int:
    """Ends every process of a home and nothing else; returns how many there were."""
    root = find_home(home).root
    running = find_processes(root)
    supervisor = find_processes(root, "supervisor")
    if supervisor:
        on_event("asking the supervisor to stop its parts")
        end_processes(supervisor, grace_s=60)
    left = find_processes(root)
    if left:
        on_event(f"ending {len(left)} process(es) left behind")
        end_processes(left, grace_s=10)
    (root / "run" / "parts.json").unlink(missing_ok=True)
    return len(running)


def read_status(settings: Settings) -> Status:
    """What runs now, asked of the processes themselves."""
    supervisor = find_supervisor(settings.paths.run)
    records = read_parts(settings.paths.run / "parts.json")
    parts = []
    for part in list_parts(settings):
        record = records.get(part.name)
        process = find_living(record)
        state = "stopped"
        if process is not None:
            state = "running" if answers(part, settings) else "starting"
        parts.append(
            PartStatus(
                name=part.name,
                state=state,
                pid=process.pid if process else None,
                port=part.port,
                uptime_s=time.time() - process.create_time() if process else None,
                restarts=record.restarts if record else 0,
            )
        )
    return Status(
        home=settings.home,
        profile=settings.profile,
        supervisor_pid=supervisor.pid if supervisor else None,
        api_url=settings.api_url,
        gateway_url=settings.gateway_url,
        dashboard_url=settings.dashboard_url,
        parts=tuple(parts),
    )


def status_json(status: Status) -> str:
    """A status for scripts."""
    return json.dumps(
        {
            "home": str(status.home),
            "profile": status.profile,
            "up": status.is_up,
            "supervisor_pid": status.supervisor_pid,
            "api_url": status.api_url,
            "gateway_url": status.gateway_url,
            "dashboard_url": status.dashboard_url,
            "parts": [vars(part) for part in status.parts],
        },
        indent=2,
    )

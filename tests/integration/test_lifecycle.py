"""The embedded installation as its user meets it: comes up, mends itself, says what is wrong, leaves no trace."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from integration_helpers import Installation, wait_until

from finmaas_core.errors import EnvironmentFault
from finmaas_platform.embedded.lifecycle import ensure_up, read_status, take_down

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def finmaas(*args: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs the CLI as a user would."""
    command = [sys.executable, "-m", "finmaas_platform.cli.main", *args]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


class TestUp:
    def test_everything_answers_and_a_second_up_starts_nothing(self, installation: Installation) -> None:
        before = {part: installation.main_pid(part) for part in ("gateway", "control-plane", "ray")}
        status = ensure_up(installation.home)
        assert status.is_up
        assert {part.name: part.pid for part in status.parts} == before

    def test_everything_listens_on_loopback_alone(self, installation: Installation) -> None:
        pids = {process.pid for part in ("gateway", "control-plane", "ray") for process in installation.processes(part)}
        listening = [
            connection
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.pid in pids
        ]
        assert listening
        assert {connection.laddr.ip for connection in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening

    def test_ray_refuses_callers_without_its_token(self, installation: Installation) -> None:
        reply = httpx.get(f"{installation.settings.dashboard_url}/api/jobs/", trust_env=False)
        assert reply.status_code in (401, 403)

    def test_a_taken_port_is_named_with_its_holder_and_the_way_out(self, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(
                EnvironmentFault, match=rf"port {port} \(gateway\) is taken by .*pid {os.getpid()}.*--port-base"
            ):
                ensure_up(tmp_path / "home", port_base=port)

    def test_status_and_doctor_print_json(self, installation: Installation) -> None:
        status = finmaas("status", "--json", env=installation.env)
        assert json.loads(status.stdout)["up"] is True
        doctor = finmaas("doctor", "--json", env=installation.env)
        findings = {row["check"]: row for row in json.loads(doctor.stdout)}
        assert findings["Ray cluster"]["verdict"] == "ok"
        assert findings["Database"]["verdict"] == "ok"
        assert findings["Ports"]["verdict"] == "ok"


class TestSupervision:
    @pytest.mark.parametrize("part", ["gateway", "control-plane"])
    def test_a_killed_part_comes_back(self, installation: Installation, part: str) -> None:
        installation.kill(part)
        wait_until(lambda: read_status(installation.settings).is_up, 60, "everything answers again")

    def test_the_parts_survive_the_supervisor_and_the_next_one_adopts_them(self, installation: Installation) -> None:
        before = {part: installation.main_pid(part) for part in ("gateway", "control-plane", "ray")}
        for process in installation.processes("supervisor"):
            process.kill()
            process.wait(10)
        assert read_status(installation.settings).is_up
        ensure_up(installation.home)
        wait_until(lambda: installation.processes("supervisor"), 10, "a new supervisor")
        assert {part: installation.main_pid(part) for part in before} == before


class TestDown:
    def test_down_touches_nothing_that_it_did_not_start(self, installation: Installation, tmp_path: Path) -> None:
        foreign = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()", "raylet"],
            stdin=subprocess.PIPE,
            env={**os.environ, "FINMAAS_HOME": str(tmp_path)},
        )
        try:
            assert take_down(tmp_path) == 0
            assert foreign.poll() is None
            assert read_status(installation.settings).is_up
        finally:
            foreign.communicate(b"", timeout=10)

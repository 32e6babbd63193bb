"""How processes are known as ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from finmaas_core.settings import Settings
from finmaas_platform.cli.lifecycle import status_table
from finmaas_platform.embedded.lifecycle import read_status
from finmaas_platform.embedded.processes import end_processes, find_processes, list_parts, marks

RENAMES_ITSELF = """
import setproctitle, sys
setproctitle.setproctitle("ray::DashboardAgent")
print("ready", flush=True)
sys.stdin.read()
"""


class TestFindProcesses:
    def test_sees_one_whose_title_covers_its_environment(self, tmp_path: Path) -> None:
        folder = tmp_path / "run" / "ray"
        folder.mkdir(parents=True)
        with subprocess.Popen(
            [sys.executable, "-c", RENAMES_ITSELF],
            env=marks(tmp_path, "ray"),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            found = find_processes(tmp_path, "ray")
            assert [one.pid for one in found] == [process.pid]
            assert end_processes(found, 5.0) == 0
        assert find_processes(tmp_path) == []

    def test_leaves_others_alone(self, tmp_path: Path) -> None:
        env = marks(tmp_path / "other", "gateway")
        with subprocess.Popen([sys.executable, "-c", "input()"], env=env, stdin=subprocess.PIPE) as process:
            assert find_processes(tmp_path) == []
            process.terminate()


class TestListParts:
    def test_each_gateway_process_has_an_id_of_its_own_and_all_share_a_port(self, tmp_path: Path) -> None:
        parts = [p for p in list_parts(Settings(home=tmp_path, gateway_processes=3)) if p.name.startswith("gateway")]
        assert [part.name for part in parts] == ["gateway", "gateway-2", "gateway-3"]
        assert [part.env["FINMAAS_GATEWAY_ID"] for part in parts] == ["gw-1", "gw-1-2", "gw-1-3"]
        assert len({part.port for part in parts}) == 1

    def test_status_shows_every_one(self, tmp_path: Path) -> None:
        table = status_table(read_status(Settings(home=tmp_path, gateway_processes=2, port_base=26_500)))
        assert list(table.columns[0].cells) == ["gateway", "gateway-2", "control-plane", "ray"]

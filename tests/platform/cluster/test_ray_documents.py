"""What the Ray adapter writes and reads, without a Ray: documents, states, reasons, and the head's command line."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from finmaas_core.errors import Unavailable
from finmaas_core.settings import Settings
from finmaas_platform.cluster.port import ApplicationState, ServeApplication
from finmaas_platform.cluster.ray_cluster import RayCluster, find_reason, parse_applications, plan_serve_document
from finmaas_platform.cluster.ray_head import ray_head_command

FAILURE = """Deploying app 'ep_1' failed with exception:
Traceback (most recent call last):
  File "serve/application_state.py", line 2077, in reconcile_build_app_task
    args, err = ray.get(self._build_app_task_info.obj_ref)
ray.exceptions.RayTaskError(RuntimeError): \x1b[36mray::build_serve_application()\x1b[39m (pid=7, ip=127.0.0.1)
RuntimeError: Traceback (most recent call last):
  File "serving/finmaas_serving/model_pull.py", line 50, in _get_version
    raise NotFound("there is no model version mdv_9")
finmaas_core.errors.NotFound: there is no model version mdv_9; deploy another
"""


class TestPlanServeDocument:
    def test_each_application_has_a_path_of_its_own_and_the_order_is_fixed(self) -> None:
        two = [ServeApplication("ep_2", "m:f", {"a": 2}), ServeApplication("ep_1", "m:f", {"a": 1})]
        document = plan_serve_document(two, {"host": "127.0.0.1", "port": 8104})
        assert document["http_options"] == {"host": "127.0.0.1", "port": 8104}
        assert [(one["name"], one["route_prefix"], one["args"]) for one in document["applications"]] == [
            ("ep_1", "/ep_1", {"a": 1}),
            ("ep_2", "/ep_2", {"a": 2}),
        ]
        assert document == plan_serve_document(two[::-1], {"host": "127.0.0.1", "port": 8104})


class TestParseApplications:
    def test_state_reason_replicas_and_arguments(self) -> None:
        document = {
            "applications": {
                "ep_1": {
                    "status": "RUNNING",
                    "message": "",
                    "deployed_app_config": {"args": {"replicas": 1}},
                    "deployments": {"engine": {"message": ""}},
                },
                "ep_2": {"status": "DEPLOY_FAILED", "message": FAILURE, "deployments": {}},
            },
            "target_groups": [
                {
                    "app_name": "ep_1",
                    "protocol": "HTTP",
                    "targets": [{"ip": "127.0.0.1", "port": 8120, "name": "SERVE_REPLICA::ep_1#engine#x"}],
                }
            ],
        }
        seen = parse_applications(document)
        assert (seen["ep_1"].state, seen["ep_1"].replicas, seen["ep_1"].args) == (
            ApplicationState.RUNNING,
            ("127.0.0.1:8120",),
            {"replicas": 1},
        )
        assert (seen["ep_2"].state, seen["ep_2"].message) == (
            ApplicationState.FAILED,
            "there is no model version mdv_9; deploy another",
        )

    @pytest.mark.parametrize("status", ["NOT_STARTED", "DEPLOYING", "a state of a later Ray"])
    def test_states_on_the_way_are_deploying(self, status: str) -> None:
        seen = parse_applications({"applications": {"ep_1": {"status": status}}})
        assert seen["ep_1"].state is ApplicationState.DEPLOYING


class TestFindReason:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("Deployment 'engine' waits for CPUs.", "Deployment 'engine' waits for CPUs."),
            (FAILURE, "there is no model version mdv_9; deploy another"),
            (
                "Traceback (most recent call last):\n  File x\nRuntimeError: bad config: 1 error\n  Value error",
                "RuntimeError: bad config: 1 error\n  Value error",
            ),
            ("Traceback (most recent call last):\n  File x\nKeyboardInterrupt", "KeyboardInterrupt"),
        ],
    )
    def test_says_what_happened_and_not_where(self, text: str, reason: str) -> None:
        assert find_reason(text) == reason


class TestAbsentRay:
    def test_nobody_listening_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "ray.token").write_text("secret")
        with RayCluster("http://127.0.0.1:9", tmp_path / "ray.token") as cluster, pytest.raises(Unavailable):
            cluster.observe_runs()

    def test_a_missing_token_is_unavailable(self, tmp_path: Path) -> None:
        with RayCluster("http://127.0.0.1:9", tmp_path / "none") as cluster, pytest.raises(Unavailable):
            cluster.observe_applications()


class TestRayHeadCommand:
    def ports(self, argv: list[str], env: dict[str, str]) -> set[int]:
        given = [part.split("=")[1] for part in argv if "-port=" in part or part.startswith("--port=")]
        own = [env["DASHBOARD_METRIC_PORT"], env["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"]]
        return {int(port) for port in given + own}

    def test_two_installations_share_neither_port_nor_folder(self, tmp_path: Path) -> None:
        one = ray_head_command(Settings(home=tmp_path / "a", port_base=23000))
        two = ray_head_command(Settings(home=tmp_path / "b", port_base=23100))
        assert not self.ports(*one) & self.ports(*two)
        assert next(part for part in one[0] if "--temp-dir" in part) not in two[0]

    def test_every_port_lies_in_the_block_below_the_replicas(self, tmp_path: Path) -> None:
        argv, env = ray_head_command(Settings(home=tmp_path, port_base=23000))
        assert all(23000 < port <= 23020 for port in self.ports(argv, env))
        assert int(env["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"]) == 23080

    def test_the_temp_folder_is_the_owners_alone_and_the_token_is_asked_for(self, tmp_path: Path) -> None:
        settings = Settings(home=tmp_path, port_base=23000)
        _, env = ray_head_command(settings)
        assert settings.paths.ray_temp.stat().st_mode & 0o777 == 0o700
        assert (env["RAY_AUTH_MODE"], env["RAY_AUTH_TOKEN_PATH"]) == ("token", str(settings.paths.ray_token))

    def test_the_python_that_jobs_name_is_this_one(self, tmp_path: Path) -> None:
        _, env = ray_head_command(Settings(home=tmp_path, port_base=23000))
        found = shutil.which("python", path=env["PATH"])
        assert found is not None
        assert Path(found).parent == Path(sys.executable).parent

    def test_no_secret_is_in_the_command_or_the_environment(self, tmp_path: Path) -> None:
        settings = Settings(home=tmp_path, port_base=23000)
        settings.paths.make()
        settings.paths.cluster_token.write_text("fmn_secret")
        settings.paths.ray_token.write_text("ray_secret")
        argv, env = ray_head_command(settings)
        everything: list[Any] = [*argv, *env.values()]
        assert not any("secret" in str(part) and str(tmp_path) not in str(part) for part in everything)

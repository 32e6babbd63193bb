"""How the embedded profile starts its own Ray head: one command line and one environment. Starts nothing itself.

Everything of it is private to this home folder: ports, temp folder, token. Workers and their ports come from the
kernel, so that two installations never meet.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finmaas_core.settings import PORT_OFFSETS, REPLICA_PORTS, Settings

# Offsets from `port_base` of what Ray opens besides the ports of PORT_OFFSETS; below the replicas' range.
_RAY_OFFSETS = {
    "object_manager": 6,
    "node_manager": 7,
    "agent_http": 8,
    "agent_grpc": 9,
    "runtime_env_agent": 10,
    "metrics": 11,
    "dashboard_metrics": 12,
}
_FIRST_REPLICA_OFFSET = 20
_OBJECT_STORE_BYTES = 256 * 1024 * 1024  # rows and losses travel by file and HTTP; Ray's own objects are small
_PACKAGES = ("finmaas_core", "finmaas_registry", "finmaas_training", "finmaas_serving")


def ray_head_command(settings: Settings) -> tuple[list[str], dict[str, str]]:
    """The argument list and the additional environment of the embedded Ray head (`ray start --head --block`).

    Makes the temp folder, readable by its owner alone, because Ray itself would make it readable by all. The token file
    (`settings.paths.ray_token`) must exist before the command runs.
    """
    temp = settings.paths.ray_temp
    temp.mkdir(mode=0o700, parents=True, exist_ok=True)
    temp.chmod(0o700)
    return _arguments(settings, temp), _environment(settings)


def without_client_server(ray_params: Any, head: bool) -> None:
    """Ray calls this before it starts (RAY_START_HOOK): no `ray://` server, which nobody here uses, opens a port."""
    ray_params.ray_client_server_port = None


def _arguments(settings: Settings, temp: Path) -> list[str]:
    port = _ports(settings)
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        f"--node-ip-address={settings.host}",
        f"--port={port['ray_gcs']}",
        f"--dashboard-host={settings.host}",
        f"--dashboard-port={port['ray_dashboard']}",
        f"--object-manager-port={port['object_manager']}",
        f"--node-manager-port={port['node_manager']}",
        f"--dashboard-agent-listen-port={port['agent_http']}",
        f"--dashboard-agent-grpc-port={port['agent_grpc']}",
        f"--runtime-env-agent-port={port['runtime_env_agent']}",
        f"--metrics-export-port={port['metrics']}",
        f"--temp-dir={temp}",
        f"--num-cpus={settings.ray_slots}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
        "--disable-usage-stats",
        "--no-monitor",  # it would scale a cluster of many nodes; this is one
    ]


def _ports(settings: Settings) -> dict[str, int]:
    return {name: settings.port_base + offset for name, offset in {**PORT_OFFSETS, **_RAY_OFFSETS}.items()}


def _environment(settings: Settings) -> dict[str, str]:
    first = settings.port_base + _FIRST_REPLICA_OFFSET
    paths = settings.paths
    env = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(paths.ray_token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # On a busy machine node and agents take longer to register than Ray allows; a head that gives up starts over.
        "RAY_raylet_start_wait_time_s": "180",
        "RAY_agent_register_timeout_ms": "120000",
        # Ray replaces 127.0.0.1 by the machine's own address and then listens on every interface, except where it
        # thinks that clusters are not supported: this one flag, named after those systems, keeps it on loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_START_HOOK": f"{__name__}.without_client_server",
        "DASHBOARD_METRIC_PORT": str(_ports(settings)["dashboard_metrics"]),
        # Replicas listen on ports of their own, which the gateway reads from Serve's REST document. Without HAProxy
        # that document names them; with it, it names only the proxies.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + REPLICA_PORTS),
        # The gateway reads the addresses once a second, and a stale one meets another route prefix: 404, never
        # another endpoint's answer.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
        "RAY_SERVE_PORT_QUARANTINE_S": "10",
        "FINMAAS_CLUSTER_TOKEN_FILE": str(paths.cluster_token),
        "FINMAAS_API_URL": settings.api_url,
        "FINMAAS_CACHE_DIR": str(paths.cache),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": _python_path(),
        # Jobs name `python`: it must be this installation's, also where nobody has activated its environment.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
    if settings.trust_root is not None:
        env["FINMAAS_TRUST_ROOT"] = str(settings.trust_root.resolve())
    env["FINMAAS_REQUIRE_SIGNATURE"] = "1" if settings.requires_signature else "0"
    return env | ({} if _has_gpu() else _CPU_ENVIRONMENT)


# Defaults for a machine without a GPU; what the user has set wins.
_CPU_ENVIRONMENT = {
    "DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "cpu"),
    # GiB; without it the CPU engine wants 92 % of a memory node and refuses to start.
    "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
}


def _has_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def _python_path() -> str:
    """The folders in which Ray's workers find our packages, whether installed or in a source tree."""
    specs = [find_spec(name) for name in _PACKAGES]
    roots = [str(Path(spec.origin).parent.parent) for spec in specs if spec and spec.origin]
    given = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(dict.fromkeys([*roots, *filter(None, given.split(os.pathsep))]))

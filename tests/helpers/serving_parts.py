"""Parts that let a Ray of our own serve a model without the rest of the platform: a head and a control plane."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from integration_helpers import wait_until

from finmaas_core.errors import Unavailable
from finmaas_core.home import read_secret, write_secret
from finmaas_core.settings import Settings
from finmaas_platform.cluster.ray_cluster import RayCluster
from finmaas_platform.cluster.ray_head import ray_head_command
from finmaas_platform.embedded.processes import end_processes, find_processes, marks
from finmaas_registry.manifest import FileEntry, make_manifest

HEAD_TIMEOUT_S = 180.0


@contextmanager
def ray_of_our_own(settings: Settings, python_path: Path) -> Iterator[RayCluster]:
    """A Ray head as the embedded profile starts it, and the adapter that speaks to it. Nothing of it is left after."""
    paths = settings.paths
    paths.make()
    write_secret(paths.ray_token, secrets.token_hex(32))
    write_secret(paths.cluster_token, f"fmn_{secrets.token_hex(16)}")
    argv, env = ray_head_command(settings)
    env["PYTHONPATH"] = os.pathsep.join([str(python_path), env["PYTHONPATH"]])
    folder = paths.run / "ray"
    folder.mkdir(exist_ok=True)
    with (paths.logs / "ray.log").open("ab") as log:
        head = subprocess.Popen(
            argv, env={**os.environ, **env, **marks(settings.home, "ray")}, stdout=log, stderr=log, cwd=folder
        )
    try:
        with RayCluster(settings.dashboard_url, paths.ray_token, http_port=settings.port("serve_http")) as cluster:
            wait_until(lambda: _answers(cluster), HEAD_TIMEOUT_S, "Ray to answer")
            yield cluster
    finally:
        end_processes([*find_processes(settings.home)], grace_s=20)
        head.wait(timeout=30)


def _answers(cluster: RayCluster) -> bool:
    try:
        cluster.observe_runs()
        cluster.observe_applications()
    except Unavailable:
        return False
    return True


@contextmanager
def control_plane_of_one_model(settings: Settings, folder: Path, version_id: str) -> Iterator[None]:
    """Answers what nodes ask of the control plane, for one model version whose files lie in a folder."""
    blobs = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in folder.iterdir() if path.is_file()}
    manifest = make_manifest(FileEntry(path.name, digest, path.stat().st_size) for digest, path in blobs.items())
    about = {"id": version_id, "ref": f"default/default/{version_id}@1", "kind": "full", "digest": manifest.digest}
    files = [file.as_json() for file in manifest.files]
    version = json.dumps({**about, "files": files, "signature": None}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = self._find()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _find(self) -> tuple[int, bytes]:
            if self.headers.get("Authorization") != f"Bearer {read_secret(settings.paths.cluster_token)}":
                return 401, b"{}"
            if self.path == f"/api/v1/node/model-versions/{version_id}":
                return 200, version
            path = blobs.get(self.path.removeprefix("/api/v1/blobs/"))
            return (404, b"{}") if path is None else (200, path.read_bytes())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
            pass

    server = ThreadingHTTPServer((settings.host, settings.port("api")), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()

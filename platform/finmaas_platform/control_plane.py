"""The control plane as a process: `python -m finmaas_platform.control_plane`.

It may be killed at any moment: everything it knows is in the database, and the next start goes on from there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from finmaas_core.clock import Clock, SystemClock
from finmaas_core.errors import FinmaasError
from finmaas_core.memory import keep_buffers, spare_collections
from finmaas_core.settings import Settings, load_settings
from finmaas_core.telemetry import configure_logging, get_logger
from finmaas_platform.app import create_app
from finmaas_platform.cluster.port import Cluster
from finmaas_platform.cluster.ray_cluster import RayCluster
from finmaas_platform.db.base import make_engine, make_session_factory
from finmaas_platform.deps import Deps, PlatformSecrets
from finmaas_platform.oidc import make_verifier
from finmaas_platform.reconcile.loop import start_reconcilers
from finmaas_platform.services.bootstrap import bootstrap
from finmaas_platform.services.dataset_imports import import_scratch
from finmaas_platform.services.kept_blobs import KeptBlobs
from finmaas_platform.stores import make_codecs, make_store

KEEP_ALIVE_S = 75
SHUTDOWN_S = 5


def build_deps(settings: Settings, cluster: Cluster | None = None, clock: Clock | None = None) -> Deps:
    """The wiring of one process over a database that is ready: secrets, schema and first admin are ensured here."""
    clock = clock or SystemClock()
    home = settings.paths
    home.make()
    engine = make_engine(settings.sqlalchemy_url)
    sessions = make_session_factory(engine)
    bootstrap(home, engine, sessions, clock)
    cluster = cluster or RayCluster(
        settings.dashboard_url, home.ray_token, http_host=settings.host, http_port=settings.port("serve_http")
    )
    store = KeptBlobs(make_store(settings, make_codecs(settings, sessions, clock)), sessions, clock)
    deps = Deps(settings, sessions, clock, store, cluster, PlatformSecrets.read(home), make_verifier(settings))
    _sweep_imports(import_scratch(deps))
    return deps


def _sweep_imports(scratch: Path) -> None:
    """Removes what imports left that were killed; the library for it loads slowly, so only if there is anything."""
    if scratch.is_dir() and any(scratch.iterdir()):
        from finmaas_registry.dataset_import import sweep_scratch

        sweep_scratch(scratch)


def main() -> int:
    """Serves until told to stop; 1 when the installation cannot be used, with the reason on stderr."""
    configure_logging("control-plane")
    keep_buffers()
    try:
        settings = load_settings()
        deps = build_deps(settings)
    except FinmaasError as error:
        get_logger().error("control_plane.refused", code=error.code, error=error.message)
        print(f"finmaas: {error.message}", file=sys.stderr)
        return 1
    run(settings, deps)
    return 0


def run(settings: Settings, deps: Deps) -> None:
    """Serves until told to stop, the reconcilers beside it."""
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, deps),
            host=settings.host,
            port=settings.port("api"),
            loop="uvloop",
            http="httptools",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
    )
    spare_collections()
    stop_reconcilers = start_reconcilers(deps)
    try:
        server.run()
    finally:
        stop_reconcilers()


if __name__ == "__main__":
    sys.exit(main())

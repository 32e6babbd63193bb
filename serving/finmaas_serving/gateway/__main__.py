"""`python -m finmaas_serving.gateway`: one gateway process, settings from FINMAAS_HOME and FINMAAS_*."""

from __future__ import annotations

import logging
import resource
import sys

import uvloop

from finmaas_core.errors import FinmaasError
from finmaas_core.memory import spare_collections
from finmaas_core.settings import load_settings
from finmaas_core.telemetry import configure_logging, get_logger
from finmaas_serving import compiled


def main() -> int:
    """Runs until told to stop; 1 when it cannot start."""
    configure_logging("gateway")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a stream takes two files, and shells often allow 1,024
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every poll
    is_compiled = compiled.install()
    from finmaas_serving.gateway.server import serve  # now, for the sake of the line above

    get_logger().info("gateway.code", compiled=is_compiled)
    spare_collections()
    try:
        uvloop.run(serve(load_settings()))
    except FinmaasError as error:
        get_logger().error("gateway.failed", code=error.code, error=error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Logs of a job's processes: events as everywhere, without what libraries say at every request or call."""

from __future__ import annotations

import logging
import warnings

from finmaas_core.telemetry import configure_logging


def configure_job_logging(process: str) -> None:
    """As `configure_logging`; the user reads this log, so only what concerns the job stays in it."""
    configure_logging(process)
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 deprecates, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")

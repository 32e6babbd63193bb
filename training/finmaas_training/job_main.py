"""The entrypoint of every job on the cluster: `python -m finmaas_training.job_main`, one process per attempt.

It reads which attempt it is from the environment, gets that attempt's token and inputs, and hands over to the driver
of the job's kind. What goes wrong is told to the control plane in words for the user.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from finmaas_core.errors import EnvironmentFault, FinmaasError, InvalidInput, StaleAttempt
from finmaas_core.home import read_secret
from finmaas_core.telemetry import get_logger
from finmaas_training.control import Credentials, JobClient, fetch_job_token
from finmaas_training.logs import configure_job_logging

_STOPPED = 3  # exit status of a job that was cancelled or replaced


def main() -> int:
    """Runs the attempt; the exit status is 0 only when the result has been handed in."""
    started_at = time.time()
    configure_job_logging("job")
    log = get_logger()
    credentials = _get_credentials()
    client = JobClient(credentials)
    try:
        return _run(client, credentials, started_at)
    except StaleAttempt as error:
        log.warning("job.replaced", reason=str(error))
        return _STOPPED
    except Exception as error:
        # The user reads this; the traceback goes to the log.
        log.exception("job.failed")
        _tell_failure(client, error)
        return 1
    finally:
        client.close()


def _run(client: JobClient, credentials: Credentials, started_at: float) -> int:
    from finmaas_training import driver  # imports Ray: later than what may fail without it

    inputs = client.get_inputs()
    job = driver.Job(credentials, inputs, _cache_folder(), started_at)
    outcome = driver.run_training(job) if inputs.kind == "training" else driver.run_evaluation_job(job)
    if outcome["outcome"] == "refused":
        raise InvalidInput(str(outcome["reason"]))
    get_logger().info("job.ended", **outcome)
    return 0 if outcome["outcome"] == "done" else _STOPPED


def _get_credentials() -> Credentials:
    node_token = read_secret(Path(_env("FINMAAS_CLUSTER_TOKEN_FILE")))
    return fetch_job_token(_env("FINMAAS_API_URL"), _env("FINMAAS_JOB_ID"), int(_env("FINMAAS_ATTEMPT")), node_token)


def _cache_folder() -> Path:
    return Path(_env("FINMAAS_CACHE_DIR"))


def _env(name: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise EnvironmentFault(f"{name} is not set; Ray nodes get it from `finmaas up` or their image") from None


def _tell_failure(client: JobClient, error: Exception) -> None:
    try:
        client.post_failure(str(error) or type(error).__name__, final=isinstance(error, InvalidInput))
    except FinmaasError as problem:
        get_logger().warning("job.failure_untold", reason=str(problem))


if __name__ == "__main__":
    sys.exit(main())

"""One worker of a training job, as Ray Train starts it: inputs in, loop, weights out.

All workers go through the same steps together. What touches the control plane is done by rank 0 alone, except the
blobs of a worker's own part of a checkpoint and the inputs, which the first worker of each node fetches.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finmaas_core.errors import InvalidInput
from finmaas_registry.manifest import make_manifest
from finmaas_registry.materialise import materialise
from finmaas_registry.remote import RemoteBlobs
from finmaas_training.control import PATIENCE_S, Artefact, Credentials, JobClient, JobInputs
from finmaas_training.logs import configure_job_logging
from finmaas_training.reporting import Reporter
from finmaas_training.spec import TrainingSpec


@dataclass(frozen=True)
class TrainingTask:
    """What the driver hands to every worker. `started_at` is the driver's start in epoch seconds."""

    spec: TrainingSpec
    inputs: JobInputs
    credentials: Credentials
    cache: Path
    on_gpu: bool
    started_at: float


@dataclass(frozen=True)
class Place:
    """Which worker this is; `node_workers` share its machine."""

    rank: int
    node_rank: int
    node_workers: int

    @property
    def leads_node(self) -> bool:
        return self.node_rank == 0


def artefact_folder(cache: Path, artefact: Artefact) -> Path:
    """Where a version lies on a node; shared by every job that wants the same files."""
    return cache / "versions" / make_manifest(artefact.files).digest


def train_worker(task: TrainingTask, place: Place) -> dict[str, Any]:
    """Runs this worker's part; returns its account.

    `outcome` is "done", or with a `reason` "stopped" (cancelled, replaced) or "refused" (inputs that cannot work).
    """
    configure_job_logging(f"worker-{place.rank}")
    client = JobClient(task.credentials)
    reporter = Reporter(client) if place.rank == 0 else None
    with RemoteBlobs(task.credentials.api_url, task.credentials.token, patience_s=PATIENCE_S) as blobs:
        fetching = _start_fetching(task, blobs, place)
        if reporter:
            reporter.show("loading", 0, 0)
        # The imports take seconds; the inputs arrive meanwhile.
        run = _import_training(task, place)
        fetching()
        try:
            return run(client, blobs, reporter)
        except InvalidInput as error:
            # Every worker finds the same fault in the same inputs: another try would fare no better.
            return {"outcome": "refused", "reason": str(error)}
        finally:
            if reporter:
                reporter.close()
            client.close()


def _start_fetching(task: TrainingTask, blobs: RemoteBlobs, place: Place) -> Callable[[], None]:
    """Begins to bring the inputs to this node; the returned function waits for them and raises what went wrong."""
    if not place.leads_node:
        return lambda: None
    _remove_older_scratch(task)
    failures: list[BaseException] = []

    def fetch() -> None:
        try:
            for artefact in (task.inputs.dataset, task.inputs.base):
                if artefact is not None:
                    materialise(artefact.files, blobs.fetch, artefact_folder(task.cache, artefact))
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread
            failures.append(error)

    thread = threading.Thread(target=fetch, name="finmaas-inputs", daemon=True)
    thread.start()

    def wait() -> None:
        thread.join()
        if failures:
            raise failures[0]

    return wait


def _import_training(
    task: TrainingTask, place: Place
) -> Callable[[JobClient, RemoteBlobs, Reporter | None], dict[str, Any]]:
    """Imports torch, DeepSpeed and the model code, and sets this process up for its share of the cores."""
    import torch

    from finmaas_training.engine import import_deepspeed

    if task.on_gpu:
        torch.cuda.set_device(place.node_rank)  # Ray shows the workers of a node all their GPUs
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // place.node_workers))
    import_deepspeed(task.on_gpu)
    from finmaas_training.run import TrainingRun

    return lambda client, blobs, reporter: TrainingRun(task, place, client, blobs, reporter).execute()


def scratch_folder(task: TrainingTask) -> Path:
    """Files of this attempt alone; removed at its end."""
    credentials = task.credentials
    return task.cache / "jobs" / f"{credentials.job_id}-{credentials.attempt}"


def remove_scratch(task: TrainingTask) -> None:
    """Removes what this attempt left on this node."""
    shutil.rmtree(scratch_folder(task), ignore_errors=True)


def _remove_older_scratch(task: TrainingTask) -> None:
    """Removes what earlier attempts of this job, stopped from outside, left on this node."""
    own = scratch_folder(task)
    for folder in own.parent.glob(f"{task.credentials.job_id}-*"):
        if folder != own:
            shutil.rmtree(folder, ignore_errors=True)


def seconds_since_start(task: TrainingTask) -> float:
    """Seconds since the driver began."""
    return round(time.time() - task.started_at, 2)

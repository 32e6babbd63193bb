"""Starts a job's workers on the Ray cluster that the job was submitted to, and waits for them. Imports Ray."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from finmaas_core.errors import EnvironmentFault, FinmaasError, InvalidInput
from finmaas_registry.materialise import materialise
from finmaas_registry.remote import RemoteBlobs
from finmaas_training.control import PATIENCE_S, Artefact, Credentials, JobClient, JobInputs
from finmaas_training.logs import configure_job_logging
from finmaas_training.reporting import Reporter
from finmaas_training.spec import EvaluationSpec, TrainingSpec
from finmaas_training.validate import ClusterFacts, choose_device, validate_placement
from finmaas_training.worker import Place, TrainingTask, artefact_folder, remove_scratch, train_worker

# Ray Train's own switches, read when a run starts. What is switched off here costs a process or a second of start-up
# each, or writes every line of the log twice.
_RAY_TRAIN = {
    "HEALTH_CHECK_INTERVAL_S": "0.5",
    "METRICS_ENABLED": "0",
    "ENABLE_PREEMPTION_WATCHER": "0",
    "ENABLE_PRINT_PATCH": "0",
    # Two busy cores take longer than Ray's own minute to start the workers.
    "WORKER_GROUP_START_TIMEOUT_S": "300",
}


@dataclass(frozen=True)
class Job:
    """One attempt of one job, as its driver sees it."""

    credentials: Credentials
    inputs: JobInputs
    cache: Path
    started_at: float

    @property
    def name(self) -> str:
        return f"{self.credentials.job_id}-{self.credentials.attempt}"


class _Stopped(Exception):
    """The job was cancelled or replaced."""


def run_training(job: Job) -> dict[str, Any]:
    """Trains on the cluster; a worker that dies is started again from the last checkpoint. See `train_worker`."""
    spec = TrainingSpec.model_validate(job.inputs.spec)
    facts = _connect()
    validate_placement(spec, facts)
    on_gpu = choose_device(spec, facts) == "gpu"
    task = TrainingTask(spec, job.inputs, job.credentials, job.cache, on_gpu, job.started_at)
    trainer = TorchTrainer(
        _bind(task),
        scaling_config=ScalingConfig(
            num_workers=spec.workers, use_gpu=on_gpu, resources_per_worker={"CPU": 1, **({"GPU": 1} if on_gpu else {})}
        ),
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        run_config=RunConfig(
            name=job.name,
            storage_path=str(job.cache / "ray-train"),
            failure_config=FailureConfig(max_failures=spec.worker_restarts),
        ),
    )
    try:
        outcome: dict[str, Any] = trainer.fit().return_value
    except ray.train.TrainingFailedError as error:
        raise FinmaasError(f"training failed: {_last_line(error)}") from error
    finally:
        remove_scratch(task)
        shutil.rmtree(job.cache / "ray-train" / job.name, ignore_errors=True)
    return outcome


def run_evaluation_job(job: Job) -> dict[str, Any]:
    """Evaluates in one task of the cluster, on a GPU where the spec wants one and the cluster has it."""
    spec = EvaluationSpec.model_validate(job.inputs.spec)
    facts = _connect()
    gpus = 1 if spec.device == "gpu" or (spec.device == "auto" and facts.gpus >= 1) else 0
    if gpus > facts.gpus:
        raise EnvironmentFault("the evaluation asks for a GPU and the cluster has none; set device to cpu or auto")
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_evaluate)
    try:
        outcome: dict[str, Any] = ray.get(task.remote(job, spec))
    except ray.exceptions.RayTaskError as error:
        raise FinmaasError(f"evaluation failed: {error.cause}") from error
    return outcome


def _connect() -> ClusterFacts:
    """Joins the cluster whose address Ray gave this job (never one that happens to run nearby)."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        raise EnvironmentFault("RAY_ADDRESS is not set; a job is to be submitted to a Ray cluster, not run by hand")
    for name, value in _RAY_TRAIN.items():
        os.environ.setdefault(f"RAY_TRAIN_{name}", value)
    # Ray Train's helper actors look for "the" cluster of this machine unless told, and meet the neighbour's too.
    ray.init(address=address, log_to_driver=True, runtime_env={"env_vars": {"RAY_ADDRESS": address}})
    resources = ray.cluster_resources()
    return ClusterFacts(cpus=int(resources.get("CPU", 0)), gpus=int(resources.get("GPU", 0)))


def _bind(task: TrainingTask) -> Callable[[], dict[str, Any]]:
    """The training function with its task inside: Ray shows a `train_loop_config` to whoever may list its runs."""

    def train() -> dict[str, Any]:
        context = ray.train.get_context()
        place = Place(context.get_world_rank(), context.get_local_rank(), context.get_local_world_size())
        return train_worker(task, place)

    return train


def _evaluate(job: Job, spec: EvaluationSpec) -> dict[str, Any]:
    from finmaas_training.evaluation.run import run_evaluation

    configure_job_logging("evaluation")
    client = JobClient(job.credentials)
    reporter = Reporter(client)
    inputs = job.inputs
    assert inputs.subject is not None

    def on_progress(done: int, total: int, stage: str) -> None:
        reporter.show(stage, done, total)
        if reporter.stop_reason:
            raise _Stopped(reporter.stop_reason)

    try:
        with RemoteBlobs(job.credentials.api_url, job.credentials.token, patience_s=PATIENCE_S) as blobs:
            dataset = _lay_out(job, inputs.dataset, blobs)
            subject = _lay_out(job, inputs.subject, blobs)
            base = _lay_out(job, inputs.base, blobs) if inputs.base else None
        result = run_evaluation(spec, dataset, subject, base, on_progress)
        reporter.close()
        client.post_result({"scores": result.scores, "details": result.details})
    except _Stopped as stop:
        return {"outcome": "stopped", "reason": str(stop)}
    except InvalidInput as error:
        return {"outcome": "refused", "reason": str(error)}
    finally:
        reporter.close()
        client.close()
    return {"outcome": "done"}


def _lay_out(job: Job, artefact: Artefact, blobs: RemoteBlobs) -> Path:
    return materialise(artefact.files, blobs.fetch, artefact_folder(job.cache, artefact))


def _last_line(error: BaseException) -> str:
    """What a user wants to read of Ray's long errors: the last line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__

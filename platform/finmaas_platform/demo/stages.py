"""The demo's stages. Each looks first whether its work is done already, and then does only what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finmaas_core.errors import Conflict, EnvironmentFault, InvalidInput, NotFound
from finmaas_platform.cli.gateway import find_key, make_key
from finmaas_platform.cli.progress import describe_metrics
from finmaas_platform.cli.terminal import format_bytes, format_number
from finmaas_platform.demo.measure import GatewayFigures, measure_gateway
from finmaas_platform.demo.plan import PROJECT, Plan
from finmaas_platform.sdk.objects import FINISHED_ENDPOINT_STATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finmaas_platform.demo.board import Stage
    from finmaas_platform.sdk.client import Client
    from finmaas_platform.sdk.objects import DatasetVersion, Endpoint, Job, MetricPoint, ModelVersion

NEEDED = ("torch", "transformers", "deepspeed", "ray", "vllm", "openai")
SEED = 7


@dataclass(frozen=True)
class Outcome:
    """A job that has succeeded, and whether it had before this run."""

    job: Job
    points: list[MetricPoint]
    was_there: bool


def check_setup(stage: Stage, plan: Plan) -> None:
    """Fails early, with what to do, where a package or the user's file is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise EnvironmentFault(f"not installed here: {', '.join(missing)}; `make setup` installs everything")
    if plan.data is not None and not plan.data.is_file():
        raise InvalidInput(f"DATA={plan.data} is not a file; give a .csv, .jsonl, .xlsx or .parquet")
    if plan.base is not None and not (plan.base / "config.json").is_file():
        raise InvalidInput(f"BASE={plan.base} holds no config.json; give the folder of a Hugging Face model")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    stage.finish(f"{os.cpu_count()} cores, {format_bytes(memory)} of memory, all packages there")


def start_platform(stage: Stage, plan: Plan) -> None:
    """Starts what does not run yet."""
    from finmaas_platform.embedded.lifecycle import ensure_up

    status = ensure_up(plan.home, None, stage.tell)
    ports = ", ".join(f"{part.name} {part.port}" for part in status.parts)
    stage.finish(f"{ports}; data in {_short(status.home)}")


def make_data(stage: Stage, plan: Plan) -> Path:
    """The user's file, or the demo's own rows, made once."""
    if plan.data is not None:
        stage.finish(f"{plan.data.name}, {format_bytes(plan.data.stat().st_size)}")
        return plan.data
    from finmaas_platform.demo.intents import generate_rows, write_csv

    path = plan.out / "intents.csv"
    rows = generate_rows(seed=SEED)
    scratch = path.with_suffix(".part")
    write_csv(rows, scratch)
    scratch.replace(path)
    intents = len({row.label for row in rows})
    stage.finish(f"{len(rows):,} customer messages, {intents} intents, English and Chinese, written for this demo")
    return path


def import_data(stage: Stage, plan: Plan, client: Client, path: Path) -> DatasetVersion:
    """Imports the file; the same content is the version that is there."""
    version = client.datasets.import_file(
        path,
        plan.name,
        PROJECT,
        text=plan.text,
        label=plan.label,
        group=plan.group,
        on_progress=lambda done, total: stage.tell(f"{format_bytes(done)} of {format_bytes(total)}"),
    )
    splits = ", ".join(f"{count:,} {name}" for name, count in version.splits.items())
    stage.finish(f"{version.ref}: {version.rows:,} rows ({splits})")
    return version


def provide_base(stage: Stage, plan: Plan, client: Client, dataset: DatasetVersion) -> ModelVersion:
    """Imports BASE, or builds the stand-in from the training rows; a version that is there is used again."""
    if plan.base is not None:
        version = _import_folder(stage, client, plan.base, plan.base_name, None)
        stage.finish(f"{version.ref}: {format_bytes(version.size_bytes)} from {_short(plan.base)}")
        return version
    note = f"stand-in built from the training rows of {dataset.ref} ({dataset.digest[:16]})"
    version = _find_stand_in(client, plan, note) or _build_stand_in(stage, client, plan, dataset, note)
    stage.finish(f"{version.ref}: {format_bytes(version.size_bytes)}, a stand-in built from scratch")
    return version


def _find_stand_in(client: Client, plan: Plan, note: str) -> ModelVersion | None:
    try:
        versions = client.models.versions(plan.base_name, PROJECT)
        return next((version for version in versions if version.description == note), None)
    except NotFound:
        return None


def _build_stand_in(stage: Stage, client: Client, plan: Plan, dataset: DatasetVersion, note: str) -> ModelVersion:
    folder = plan.out / f"base-{dataset.digest[:16]}"
    if not (folder / "config.json").exists():
        stage.tell("fetching the training rows")
        rows = plan.out / f"dataset-{dataset.digest[:16]}"
        client.datasets.download(dataset.ref, rows, PROJECT)
        stage.tell("building tokenizer and weights")
        # Of the training rows alone: the base must not have seen a word of the held-back ones.
        _run_builder(rows / "data" / "train.parquet", folder)
    return _import_folder(stage, client, folder, plan.base_name, note)


def _run_builder(texts: Path, folder: Path) -> None:
    """In a process of its own: torch stays out of this one."""
    scratch = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    command = [
        sys.executable,
        "-m",
        "finmaas_training.base_model",
        "--texts",
        str(texts),
        "--columns",
        "text,label",
        "--out",
        str(scratch),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-6:])
        raise EnvironmentFault(f"building the base model failed; `finmaas doctor` checks this machine.\n{tail}")
    scratch.replace(folder)


def _import_folder(stage: Stage, client: Client, folder: Path, name: str, note: str | None) -> ModelVersion:
    def show(what: str, done: int, total: int) -> None:
        stage.tell(f"{'reading' if what == 'hash' else 'storing'} {format_bytes(done)} of {format_bytes(total)}")

    return client.models.import_folder(folder, name, PROJECT, description=note, on_progress=show)


def run_job(stage: Stage, client: Client, kind: str, spec: dict[str, Any]) -> Outcome:
    """Runs a job to its end; one with the same spec that has succeeded, or still runs, is used instead."""
    found = _find_same_job(client, kind, spec)
    was_there = found is not None and found.is_finished
    job = found or client.jobs.submit(kind, spec, PROJECT)
    points: list[MetricPoint] = []

    def show(job: Job, new: Sequence[MetricPoint]) -> None:
        points.extend(new)
        progress = job.progress
        if job.state == "running" and progress.step is not None and progress.total_steps:
            detail = describe_metrics(job.metrics) or progress.stage or ""
            stage.update(progress.step, progress.total_steps, detail)
        else:
            stage.tell(f"{job.state}: {job.reason}" if job.reason else job.state)

    job = client.jobs.wait(job.id, show)
    if job.state != "succeeded":
        raise Conflict(f"the {kind} job {job.id} is {job.state}: {job.reason}; `finmaas job logs {job.id}` shows more")
    return Outcome(job, points, was_there)


def _find_same_job(client: Client, kind: str, spec: dict[str, Any]) -> Job | None:
    """The job of the same whole spec, defaults included, that has succeeded or may still."""
    wanted = client.jobs.validate(kind, spec, PROJECT).get("spec")
    for job in client.jobs.list(PROJECT):
        if job.kind == kind and job.spec == wanted and (job.state == "succeeded" or not job.is_finished):
            return job
    return None


def train(stage: Stage, plan: Plan, client: Client, base: ModelVersion, dataset: DatasetVersion) -> Outcome:
    """Fine-tunes the base on the dataset."""
    spec = plan.training_spec(base.ref, dataset)
    outcome = run_job(stage, client, "training", spec)
    metrics = read_training_metrics(outcome.job)
    loss = metrics.get("loss")
    parts = [f"{spec['epochs']} epoch{'' if spec['epochs'] == 1 else 's'}"]
    parts += [f"loss {loss:.3f}"] if isinstance(loss, int | float) else []
    parts += [f"{format_number(metrics['tokens_per_s'])} tokens/s"] if "tokens_per_s" in metrics else []
    stage.finish(", ".join(parts) + (" (done before)" if outcome.was_there else ""))
    return outcome


def read_training_metrics(job: Job) -> dict[str, Any]:
    """The figures of the whole run where the job reported them, else the latest values."""
    return {**job.metrics, **((job.result or {}).get("metrics") or {})}


def find_result(client: Client, training: Job) -> ModelVersion:
    """The model version that a training job registered."""
    return client.models.version((training.result or {})["model_version"], PROJECT)


def evaluate(
    stage: Stage, plan: Plan, client: Client, model: ModelVersion, base: ModelVersion, dataset: DatasetVersion
) -> Outcome:
    """Scores the tuned model on the held-back rows, with base, majority and TF-IDF beside it."""
    outcome = run_job(stage, client, "evaluation", plan.evaluation_spec(model.ref, base.ref, dataset.ref))
    scores = (outcome.job.result or {}).get("scores", {})
    stage.finish(
        f"exact match {scores.get('exact_match', 0):.3f} on {dataset.splits.get('test', 0):,} held-back rows"
        + (" (done before)" if outcome.was_there else "")
    )
    return outcome


def deploy(stage: Stage, plan: Plan, client: Client, model: ModelVersion) -> Endpoint:
    """Serves the model version; an endpoint that serves it already is used as it is."""
    endpoint = _find_endpoint(client, plan.name)
    if endpoint is not None and endpoint.state == "failed":
        client.endpoints.delete(plan.name, PROJECT)
        endpoint = None
    if endpoint is None:
        client.endpoints.deploy(plan.name, model.ref, PROJECT)
    elif endpoint.model_version.id != model.id:
        client.endpoints.update(plan.name, PROJECT, model=model.ref)
    ready = client.endpoints.wait_ready(
        plan.name, PROJECT, lambda seen: stage.tell(f"{seen.state}: {seen.reason}" if seen.reason else seen.state)
    )
    stage.finish(f"{ready.name} serves {ready.model_version.ref}")
    return ready


def _find_endpoint(client: Client, name: str) -> Endpoint | None:
    try:
        endpoint = client.endpoints.get(name, PROJECT)
    except NotFound:
        return None
    return None if endpoint.state in FINISHED_ENDPOINT_STATES - {"failed"} else endpoint


def ask_gateway(stage: Stage, client: Client, endpoint: Endpoint, dataset: DatasetVersion) -> GatewayFigures:
    """Asks held-back rows through the gateway; a kept key that was revoked is replaced once."""
    rows = client.datasets.rows(dataset.ref, PROJECT, split="test", limit=100)
    asked = [(str(row["text"]), str(row["label"])) for row in rows]
    if not asked:
        raise InvalidInput(f"{dataset.ref} holds no test rows to ask; import more rows")

    def show(done: int, total: int) -> None:
        stage.update(done, total, "one client" if done <= 21 else "8 clients")

    key = find_key(PROJECT)
    if key is not None and not _is_known(client, key):
        key = None
    figures = measure_gateway(client.gateway_url, key or make_key(client, PROJECT), endpoint.name, asked, show)
    stage.finish(
        f"first token after {figures.ttft_ms_p50:.0f} ms (p50), {figures.tokens_per_s:,.0f} tokens/s "
        f"with {figures.clients} clients"
    )
    return figures


def _is_known(client: Client, key: str) -> bool:
    """Whether the gateway takes the key."""
    import httpx

    headers = {"Authorization": f"Bearer {key}"}
    try:
        answer = httpx.get(f"{client.gateway_url}/v1/models", headers=headers, timeout=10, trust_env=False)
    except httpx.HTTPError:
        return True  # the gateway itself is the trouble; the measurement says so
    return answer.status_code != httpx.codes.UNAUTHORIZED


def _short(path: Path) -> str:
    """A path as one would write it here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)

"""A training run inside one worker, from inputs on disk to weights in the registry. Imports torch and DeepSpeed."""

from __future__ import annotations

import math
from typing import Any

import torch.distributed as dist

from finmaas_core.errors import InvalidSpec
from finmaas_core.telemetry import get_logger
from finmaas_registry.remote import RemoteBlobs
from finmaas_training.blobs import upload_folder
from finmaas_training.checkpoints import Checkpoints
from finmaas_training.control import JobClient
from finmaas_training.data import Example, encode_examples, rows_to_messages
from finmaas_training.engine import gather_weights, make_engine, sharded_init
from finmaas_training.loop import Loop, Outcome, TrainingData
from finmaas_training.materials import collect_materials
from finmaas_training.model import load_model, load_tokenizer, longest_input, pad_id_of, save_model
from finmaas_training.reporting import Reporter
from finmaas_training.rows import read_usable
from finmaas_training.worker import Place, TrainingTask, artefact_folder, scratch_folder, seconds_since_start

_UPLOAD_PATIENCE_S = 600.0  # for a checkpoint still under way at the end


class TrainingRun:
    """One worker's run; it is the loop's `Hooks`. `reporter` is there on rank 0 only."""

    def __init__(
        self, task: TrainingTask, place: Place, client: JobClient, blobs: RemoteBlobs, reporter: Reporter | None
    ) -> None:
        assert task.inputs.base is not None
        self._task, self._spec, self._place = task, task.spec, place
        self._client, self._blobs, self._reporter = client, blobs, reporter
        self._base = artefact_folder(task.cache, task.inputs.base)
        self._dataset = artefact_folder(task.cache, task.inputs.dataset)
        self._scratch = scratch_folder(task)
        flush = reporter.flush if reporter else lambda: None
        self._checkpoints = Checkpoints(client, blobs, self._scratch, before_register=flush)
        self._log = get_logger()

    def execute(self) -> dict[str, Any]:
        """Trains to the end or a stop; see `train_worker` for what it returns."""
        dist.barrier()  # the first worker of each node has the inputs
        imported_s = seconds_since_start(self._task)
        tokenizer = load_tokenizer(self._base)
        data = self._encode(tokenizer)
        engine = self._make_engine()
        start = self._checkpoints.restore_together(engine, self._blobs.fetch, self._place.leads_node)
        loop = Loop(engine, self._spec, data, self)
        startup_s = seconds_since_start(self._task)
        self._say("training.started", imported_s=imported_s, startup_s=startup_s, step=start, of=loop.total_steps)
        self.progress("training", start, loop.total_steps)
        outcome = loop.run(start)
        if outcome.stopped:
            reason = self._reporter.stop_reason if self._reporter else ""
            self._say("training.stopped", step=outcome.steps, reason=reason)
            return {"outcome": "stopped", "reason": reason}
        self._hand_in(engine, tokenizer, outcome, startup_s)
        return {"outcome": "done"}

    # --- hooks of the loop ---

    def point(self, step: int, values: dict[str, float]) -> None:
        if self._reporter:
            self._reporter.add(step, values)
        self._say("training.point", step=step, **{name: _short(value) for name, value in values.items()})

    def progress(self, stage: str, step: int, total_steps: int) -> None:
        if self._reporter:
            self._reporter.show(stage, step, total_steps)

    def stop_wanted(self) -> bool:
        return bool(self._reporter and self._reporter.stop_reason)

    def checkpoint(self, engine: Any, step: int) -> None:
        self._checkpoints.save_together(engine, step)

    # --- parts of execute ---

    def _encode(self, tokenizer: Any) -> TrainingData:
        limit = longest_input(self._base)
        if limit is not None and self._spec.max_length > limit:
            raise InvalidSpec(f"max_length is {self._spec.max_length}, the base takes {limit} tokens; lower max_length")
        train = self._encode_split(tokenizer, "train", None)
        if not train:
            raise InvalidSpec(f"{self._task.inputs.dataset.ref} has no rows to train on; import it with other shares")
        validation = self._encode_split(tokenizer, "validation", self._spec.validation_rows)
        full = sum(len(example.tokens) == self._spec.max_length for example in train)
        self._say("data.encoded", train=len(train), validation=len(validation), at_max_length=full)
        marks = frozenset(tokenizer.get_added_vocab().values())
        return TrainingData(train, validation, pad_id_of(tokenizer), marks)

    def _encode_split(self, tokenizer: Any, split: str, rows: int | None) -> list[Example]:
        path = self._dataset / "data" / f"{split}.parquet"
        if rows == 0 or not path.exists():
            return []
        shape = str(self._task.inputs.dataset.about["shape"])
        table, left_out = read_usable(path)
        if left_out:
            self._say("data.left_out", split=split, rows=left_out, why="expired, or without consent to training")
        table = table.slice(0, rows)
        chats = [rows_to_messages(shape, row) for row in table.to_pylist()]
        return encode_examples(tokenizer, chats, self._spec.max_length)

    def _make_engine(self) -> Any:
        keep = sharded_init(self._spec, self._task.on_gpu)
        model = load_model(self._base, self._spec.precision)
        engine = make_engine(model, self._spec, self._task.on_gpu)
        del keep  # it has to live until the model is loaded
        return engine

    def _hand_in(self, engine: Any, tokenizer: Any, outcome: Outcome, startup_s: float) -> None:
        """Gathers the weights on rank 0, uploads them and posts the result. Repeating it gives the same version."""
        self.progress("saving", outcome.steps, outcome.steps)
        weights = gather_weights(engine, self._spec)
        if self._place.rank != 0:
            self._checkpoints.close(_UPLOAD_PATIENCE_S)
            return
        folder = self._scratch / "model"
        save_model(engine.module.model, tokenizer, weights, folder)
        files = upload_folder(self._blobs.put, folder)
        metrics = {**_result_metrics(outcome), "startup_s": startup_s, "workers": self._spec.workers}
        assert self._reporter is not None
        self._reporter.flush()  # the last points arrive before the job is over
        materials = collect_materials(self._task.inputs, self._spec.workers, self._task.on_gpu)
        self._client.post_result(
            {"files": [file.as_json() for file in files], "metrics": metrics, "materials": materials}
        )
        self._say("training.done", **metrics)

    def _say(self, event: str, **fields: Any) -> None:
        if self._place.rank == 0:
            self._log.info(event, **fields)


def _result_metrics(outcome: Outcome) -> dict[str, float]:
    values = {
        "loss": outcome.loss,
        "validation_loss": outcome.validation_loss,
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "tokens_per_s": outcome.tokens_per_s,
        "train_s": outcome.seconds,
    }
    return {name: _short(value) for name, value in values.items() if math.isfinite(value)}


def _short(value: float) -> float:
    """Five significant digits, for people."""
    return float(f"{value:.5g}") if isinstance(value, float) else value

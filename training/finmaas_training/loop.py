"""The training loop, the same on every worker: batches in a fixed order, steps, metric points, checkpoints.

Every decision depends only on the spec and the step, so a run resumed at any step goes on as if undisturbed. It does
not know of Ray or the control plane: what happens beside the steps goes through `Hooks`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist

from finmaas_training.data import Batch, Example, collate, count_batches, hide_tokens, plan_epoch, share_of
from finmaas_training.deepspeed_config import learning_rate_at, micro_batch_size
from finmaas_training.engine import set_learning_rate
from finmaas_training.spec import TrainingSpec


class Hooks(Protocol):
    """What the loop tells the outside. Only rank 0's `point` and `progress` are called; the others on every rank."""

    def point(self, step: int, values: dict[str, float]) -> None:
        """New metric values after a step."""

    def progress(self, stage: str, step: int, total_steps: int) -> None:
        """How far the run is."""

    def stop_wanted(self) -> bool:
        """Whether this worker knows of a reason to stop; one worker's yes stops all."""
        ...

    def checkpoint(self, engine: Any, step: int) -> None:
        """Saves the state after `step` steps."""


@dataclass(frozen=True)
class TrainingData:
    """Encoded rows of the training and the validation split."""

    train: Sequence[Example]
    validation: Sequence[Example]
    pad_id: int
    marks: frozenset[int] = frozenset()  # tokens that mark turns: token dropout never hides them


@dataclass
class Outcome:
    """How a run ended, with what it measured."""

    steps: int
    stopped: bool = False
    loss: float = math.nan
    validation_loss: float = math.nan
    tokens: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        """Real tokens (no padding) over all workers, by wall time inside the steps."""
        return self.tokens / self.seconds if self.seconds else 0.0


def count_steps(spec: TrainingSpec, rows: int) -> int:
    """Optimizer steps of the whole run."""
    by_epochs = count_batches(rows, spec.batch_size) * spec.epochs
    return min(by_epochs, spec.max_steps) if spec.max_steps else by_epochs


class Loop:
    """One worker's part of a training run."""

    def __init__(self, engine: Any, spec: TrainingSpec, data: TrainingData, hooks: Hooks) -> None:
        self._engine = engine
        self._spec = spec
        self._data = data
        self._hooks = hooks
        self._rank, self._workers = dist.get_rank(), dist.get_world_size()
        self._device = engine.device
        self._lengths = [len(example.tokens) for example in data.train]
        self.total_steps = count_steps(spec, len(data.train))
        self._steps_per_epoch = count_batches(len(data.train), spec.batch_size)

    def run(self, start_step: int = 0) -> Outcome:
        """Trains from `start_step` to the end, or until somebody wants to stop."""
        outcome = Outcome(steps=start_step)
        window = _Window(self._device)
        for step, batch in self._batches(start_step):
            self._train_step(step, batch, window)
            outcome.steps = step + 1
            if outcome.steps % self._spec.log_every_steps == 0 or outcome.steps == self.total_steps:
                outcome.stopped = self._log(outcome, window)
                if outcome.stopped:
                    break
                window = _Window(self._device)
            self._between_steps(outcome, window)
        return outcome

    def validate(self) -> float:
        """Mean loss per answer token over the validation rows; NaN without any. All ranks call it together."""
        rows = sorted(self._data.validation, key=lambda example: len(example.tokens))
        if not rows:
            return math.nan
        self._engine.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for start in range(0, len(rows), self._spec.batch_size):
                own = rows[start : start + self._spec.batch_size][self._rank :: self._workers]
                # A worker without rows still goes through the model: under ZeRO-3 all have to.
                loss = self._loss(collate(own or rows[:1], self._data.pad_id))
                if own:
                    answers = sum(example.answer_tokens for example in own)
                    sums += torch.tensor([loss.item(), answers], dtype=torch.float64)
        self._engine.train()
        dist.all_reduce(sums := sums.to(self._device))
        return float(sums[0] / sums[1])

    def _batches(self, start_step: int) -> Iterator[tuple[int, list[int]]]:
        plan: list[list[int]] = []
        planned_epoch = -1
        for step in range(start_step, self.total_steps):
            epoch, place = divmod(step, self._steps_per_epoch)
            if epoch != planned_epoch:
                plan = plan_epoch(self._lengths, self._spec.batch_size, self._spec.seed, epoch)
                planned_epoch = epoch
            yield step, plan[place]

    def _train_step(self, step: int, batch: list[int], window: _Window) -> None:
        set_learning_rate(self._engine, learning_rate_at(self._spec, step, self.total_steps))
        # Dropout and the like draw from this, so a resumed run draws the same.
        torch.manual_seed(self._spec.seed + 1_000_003 * step + self._rank)
        rows = [self._data.train[i] for i in batch]
        own = share_of(batch, self._rank, self._workers)
        size = micro_batch_size(self._spec)
        parts = [own[i : i + size] for i in range(0, len(own), size)]
        answers = sum(row.answer_tokens for row in rows)
        # The mean is over the answer tokens of the whole batch, however they fell to workers and parts. DeepSpeed
        # divides by the number of both.
        scale = self._workers * len(parts) / answers
        for part in parts:
            loss = self._loss(collate([self._training_example(step, i) for i in part], self._data.pad_id))
            self._engine.backward(loss * scale)
            self._engine.step()
            window.loss += loss.detach()
        window.steps += 1
        window.answers += answers
        window.tokens += sum(len(row.tokens) for row in rows)

    def _training_example(self, step: int, row: int) -> Example:
        example, share = self._data.train[row], self._spec.token_dropout
        if not share:
            return example
        seed = f"{self._spec.seed}/{step}/{row}"
        return hide_tokens(example, share, self._data.pad_id, self._data.marks, seed)

    def _loss(self, batch: Batch) -> torch.Tensor:
        input_ids = torch.from_numpy(batch.input_ids).to(self._device, non_blocking=True)
        labels = torch.from_numpy(batch.labels).to(self._device, non_blocking=True)
        loss: torch.Tensor = self._engine(input_ids, labels)
        return loss

    def _log(self, outcome: Outcome, window: _Window) -> bool:
        """Sums the window over the workers, tells the hooks, and says whether anybody wants to stop."""
        sums = torch.stack([window.loss, window.loss.new_tensor(float(self._hooks.stop_wanted()))])
        dist.all_reduce(sums)
        loss_sum, stop = sums.tolist()
        seconds = window.elapsed()
        outcome.loss = loss_sum / window.answers
        outcome.losses.append((outcome.steps, outcome.loss))
        outcome.tokens += window.tokens
        outcome.seconds += seconds
        if not math.isfinite(outcome.loss):
            raise FloatingPointError(
                f"the loss became {outcome.loss} at step {outcome.steps}; lower learning_rate or use precision fp32"
            )
        if self._rank == 0:
            rate = learning_rate_at(self._spec, outcome.steps - 1, self.total_steps)
            values = {"loss": outcome.loss, "lr": rate, "tokens_per_s": window.tokens / seconds}
            values["epoch"] = outcome.steps / self._steps_per_epoch
            values["eta_s"] = seconds / window.steps * (self.total_steps - outcome.steps)
            self._hooks.point(outcome.steps, values)
            self._hooks.progress("training", outcome.steps, self.total_steps)
        return bool(stop)

    def _between_steps(self, outcome: Outcome, window: _Window) -> None:
        """Validation at the end of an epoch, checkpoints at their interval; both outside the measured time."""
        ended = outcome.steps == self.total_steps
        epoch_ended = outcome.steps % self._steps_per_epoch == 0
        checkpoint_due = outcome.steps % self._spec.checkpoint_every_steps == 0 and not ended
        with window.paused():
            if (ended or epoch_ended) and self._data.validation:
                outcome.validation_loss = self.validate()
                if self._rank == 0:
                    self._hooks.point(outcome.steps, {"validation_loss": outcome.validation_loss})
            if checkpoint_due:
                self._hooks.checkpoint(self._engine, outcome.steps)


class _Window:
    """Sums since the last metric point; loss stays on the device, so that nothing waits for it before that."""

    def __init__(self, device: Any) -> None:
        self.loss = torch.zeros((), dtype=torch.float32, device=device)
        self.steps = 0
        self.answers = 0
        self.tokens = 0
        self._started = time.perf_counter()

    def elapsed(self) -> float:
        return time.perf_counter() - self._started

    def paused(self) -> _Pause:
        return _Pause(self)

    def shift(self, seconds: float) -> None:
        self._started += seconds


class _Pause:
    def __init__(self, window: _Window) -> None:
        self._window = window

    def __enter__(self) -> None:
        self._at = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._window.shift(time.perf_counter() - self._at)

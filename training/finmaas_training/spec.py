"""What a user asks of a training or an evaluation job. Data only: the control plane imports this without torch.

Whether a spec can work on the machines at hand is decided in `validate.py`, not here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"
_REF_PATTERN = (
    r"^([a-z0-9][a-z0-9._-]{0,63}/[a-z0-9][a-z0-9._-]{0,63}/)?"  # tenant/project/, for another project's object
    r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?(@([1-9][0-9]*|[a-z][a-z0-9._-]{0,63}))?$"
)

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Ref = Annotated[str, StringConstraints(pattern=_REF_PATTERN)]
"""`name@3`, `name` (the newest) or `tenant/project/name@3`."""

Baseline = Literal["majority", "tfidf"]


class TrainingSpec(BaseModel):
    """One fine-tuning run. The defaults fit a small model on two CPU workers; a real base wants a lower rate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["sft"] = "sft"
    base: Ref = Field(description="Model version to start from, e.g. `tiny@1`.")
    dataset: Ref = Field(description="Dataset version to learn from, e.g. `intents@1`.")
    output: Name = Field(description="Model that the result becomes a new version of.")
    workers: int = Field(default=2, ge=1, le=1024, description="Training processes; on GPUs each holds one.")
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="auto: GPUs if the cluster has enough.")
    zero_stage: Literal[2, 3] = Field(default=2, description="DeepSpeed ZeRO stage; 3 shards the weights as well.")
    epochs: int = Field(default=3, ge=1, le=1000, description="Passes over the training split.")
    max_steps: int | None = Field(default=None, ge=1, description="Ends the run after so many steps, epochs or not.")
    batch_size: int = Field(default=64, ge=1, description="Rows per optimizer step, over all workers.")
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Rows per worker and forward pass; fewer need less memory. All at once if absent.",
    )
    learning_rate: float = Field(default=2e-3, gt=0, le=1, description="Peak learning rate.")
    schedule: Literal["cosine", "one_cycle", "constant"] = Field(default="one_cycle")
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps that warm up.")
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    gradient_clip: float = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    token_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of prompt tokens hidden anew at every step, against learning few rows by heart.",
    )
    max_length: int = Field(default=256, ge=16, description="Tokens per row; longer prompts lose their beginning.")
    precision: Literal["bf16", "fp32"] = "bf16"
    seed: int = Field(default=17, ge=0, lt=2**31)
    checkpoint_every_steps: int = Field(default=100, ge=1)
    log_every_steps: int = Field(default=5, ge=1, description="Steps between two metric points.")
    validation_rows: int = Field(default=512, ge=0, description="Rows of the validation split looked at; 0: none.")
    worker_restarts: int = Field(default=3, ge=0, le=100, description="Worker deaths that one attempt survives.")


class EvaluationSpec(BaseModel):
    """One evaluation of a model version on one split, with the things it should beat beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Ref = Field(description="Model version under test.")
    dataset: Ref
    split: Literal["train", "validation", "test"] = "test"
    base: Ref | None = Field(default=None, description="Untuned model version to answer the same rows.")
    baselines: tuple[Baseline, ...] = ("majority", "tfidf")
    max_rows: int | None = Field(default=None, ge=1, description="Looks at the first rows only; all when absent.")
    max_new_tokens: int = Field(default=32, ge=1, le=4096)
    batch_size: int = Field(default=64, ge=1)
    device: Literal["auto", "cpu", "gpu"] = "auto"
    seed: int = Field(default=17, ge=0, lt=2**31)

    @field_validator("baselines")
    @classmethod
    def _no_repeats(cls, value: tuple[Baseline, ...]) -> tuple[Baseline, ...]:
        return tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _base_differs(self) -> EvaluationSpec:
        if self.base is not None and self.base == self.model:
            raise ValueError(f"`base` and `model` are both {self.model}; leave `base` out or name the untuned model")
        return self

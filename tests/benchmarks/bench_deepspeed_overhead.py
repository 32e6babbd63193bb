"""What DeepSpeed costs on CPU: our loop with two ZeRO workers against plain torch on the same model and batches.

    python tests/benchmarks/bench_deepspeed_overhead.py ROWS.csv [--steps 40] [--variant zero2] [--precision bf16]

Variants: `zero2`, `zero3` (two workers, one thread each), `plain` (one process, all threads, bf16 autocast, no
DeepSpeed), `ddp` (two workers, torch's own DistributedDataParallel). Prints one JSON object per variant.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

VARIANTS = ("plain", "ddp", "zero2", "zero3")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--variant", choices=VARIANTS, action="append")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args()
    with TemporaryDirectory(prefix="fmbench") as folder:
        base = Path(folder) / "base"
        _build_base(args, base)
        for variant in args.variant or VARIANTS:
            print(json.dumps({"variant": variant, **_run_variant(variant, args, base)}), flush=True)


def _build_base(args: argparse.Namespace, base: Path) -> None:
    from finmaas_training.base_model import BaseShape, build_base

    with args.rows.open(encoding="utf-8") as file:
        texts = [" ".join(row.values()) for row in csv.DictReader(file)]
    shape = BaseShape(hidden=args.hidden, layers=args.layers, heads=args.hidden // 32, feed_forward=512)
    build_base(texts, base, shape=shape, warm_start=False)


def _run_variant(variant: str, args: argparse.Namespace, base: Path) -> dict[str, Any]:
    workers = 1 if variant == "plain" else 2
    settings = json.dumps(
        {
            "variant": variant,
            "rows": str(args.rows),
            "base": str(base),
            "steps": args.steps,
            "precision": args.precision,
            "batch": args.batch,
        }
    )
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--child", settings],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(workers),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": "29533",
            },
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
        )
        for rank in range(workers)
    ]
    output = processes[0].communicate()[0]
    if any(process.wait() for process in processes):
        raise SystemExit(f"variant {variant} failed")
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return result


class _Silent:
    def point(self, step: int, values: dict[str, float]) -> None: ...

    def progress(self, stage: str, step: int, total_steps: int) -> None: ...

    def stop_wanted(self) -> bool:
        return False

    def checkpoint(self, engine: Any, step: int) -> None: ...


class _PlainEngine:
    """Enough of an engine for the loop: autocast, clipping, AdamW, all in torch."""

    def __init__(self, model: Any, spec: Any, ddp: bool) -> None:
        import torch

        from finmaas_training import engine as ours
        from finmaas_training.model import AnswerLoss

        self.device = torch.device("cpu")
        self.module: Any = AnswerLoss(model)
        self._call = torch.nn.parallel.DistributedDataParallel(self.module) if ddp else self.module
        self._clip = spec.gradient_clip
        self._autocast = spec.precision == "bf16"
        self.optimizer = torch.optim.AdamW(
            ours._parameter_groups(self.module, spec), lr=1e-3, betas=ours.ADAM_BETAS, fused=True
        )

    def __call__(self, *inputs: Any) -> Any:
        import torch

        with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            return self._call(*inputs)

    def backward(self, loss: Any) -> None:
        loss.backward()

    def step(self) -> None:
        import torch

        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def train(self) -> None:
        self.module.train()

    def eval(self) -> None:
        self.module.eval()


def child(settings: dict[str, Any]) -> None:
    started = time.perf_counter()
    import torch
    import torch.distributed as dist

    from finmaas_training.data import encode_examples, rows_to_messages
    from finmaas_training.engine import import_deepspeed, make_engine
    from finmaas_training.loop import Loop, TrainingData
    from finmaas_training.model import load_model, load_tokenizer, pad_id_of
    from finmaas_training.spec import TrainingSpec

    variant, world = settings["variant"], int(os.environ["WORLD_SIZE"])
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, cores // world))
    dist.init_process_group("gloo")
    spec = TrainingSpec(
        base="b", dataset="d", output="o", workers=world, batch_size=settings["batch"], max_steps=settings["steps"],
        epochs=100, zero_stage=3 if variant == "zero3" else 2, precision=settings["precision"], validation_rows=0,
    )  # fmt: skip
    base = Path(settings["base"])
    tokenizer = load_tokenizer(base)
    with Path(settings["rows"]).open(encoding="utf-8") as file:
        rows = [{"text": r["text"], "label": r["category"]} for r in csv.DictReader(file)]
    examples = encode_examples(tokenizer, [rows_to_messages("classification", row) for row in rows], spec.max_length)
    marks = {"until_model_s": time.perf_counter() - started}
    if variant.startswith("zero"):
        import_deepspeed(on_gpu=False)
        engine = make_engine(load_model(base, spec.precision), spec, on_gpu=False)
    else:
        engine = _PlainEngine(load_model(base, "fp32"), spec, ddp=variant == "ddp")
    marks["until_engine_s"] = time.perf_counter() - started
    cpu = time.process_time()
    outcome = Loop(engine, spec, TrainingData(examples, [], pad_id_of(tokenizer)), _Silent()).run()
    assert math.isfinite(outcome.loss)
    if dist.get_rank() == 0:
        report = {"tokens_per_s": round(outcome.tokens_per_s), "loss": round(outcome.loss, 4), **marks}
        # Processor time of all workers: what the step costs even where other programs share the cores.
        report["cpu_ms_per_step"] = round(1000 * world * (time.process_time() - cpu) / outcome.steps, 1)
        report["step_ms"] = round(1000 * outcome.seconds / outcome.steps, 1)
        print(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
    else:
        main()

"""What the demo ends with: `report.json` for machines, one short table for people."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from finmaas_platform.cli.scores import read_scores
from finmaas_platform.cli.terminal import format_number, format_seconds, make_console
from finmaas_platform.cli.watch import loss_curve
from finmaas_platform.demo.stages import read_training_metrics

if TYPE_CHECKING:
    from finmaas_platform.demo.measure import GatewayFigures
    from finmaas_platform.demo.plan import Plan
    from finmaas_platform.demo.stages import Outcome
    from finmaas_platform.sdk.objects import DatasetVersion, Endpoint, ModelVersion

REAL_BASE_HINT = "make demo BASE=/path/to/Qwen3-0.6B"


@dataclass(frozen=True)
class Results:
    """Everything that the stages brought."""

    dataset: DatasetVersion
    base: ModelVersion
    training: Outcome
    model: ModelVersion
    evaluation: Outcome
    endpoint: Endpoint
    figures: GatewayFigures
    gateway_url: str

    @property
    def scores(self) -> dict[str, float]:
        return dict((self.evaluation.job.result or {}).get("scores", {}))


def write_report(
    path: Path, plan: Plan, results: Results, stages: Mapping[str, float], seconds_setup: float, seconds: float
) -> dict[str, Any]:
    """Writes and returns the figures. `seconds_total` counts set-up and demo."""
    training = read_training_metrics(results.training.job)
    report = {
        "seconds_total": round(seconds_setup + seconds, 2),
        "seconds_setup": seconds_setup,
        "seconds_by_stage": dict(stages),
        "dataset": {"ref": results.dataset.ref, "rows": results.dataset.rows, "splits": results.dataset.splits},
        "base": {"ref": results.base.ref, "stand_in": plan.base is None},
        "train": {
            "job": results.training.job.id,
            "reused": results.training.was_there,
            **{name: value for name, value in training.items() if isinstance(value, int | float)},
        },
        "eval": {"job": results.evaluation.job.id, "reused": results.evaluation.was_there, **results.scores},
        "model": results.model.ref,
        "endpoint": results.endpoint.ref,
        "gateway": {
            "url": f"{results.gateway_url}/v1",
            "ttft_ms_p50": results.figures.ttft_ms_p50,
            "ttft_ms_p95": results.figures.ttft_ms_p95,
            "tokens_per_s": results.figures.tokens_per_s,
            "requests_per_s": results.figures.requests_per_s,
            "tokens_per_answer": results.figures.tokens_per_answer,
            "clients": results.figures.clients,
            "requests": results.figures.requests,
            "exact_match": results.figures.agreement,
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def print_report(plan: Plan, results: Results, report: Mapping[str, Any], path: Path) -> None:
    """The curve, the table and what to try next, on stdout."""
    console = make_console()
    curve = loss_curve(results.training.points, width=64, height=8)
    if curve:
        console.print()
        console.print(Text(curve))
    console.print()
    console.print(_make_table(results, report))
    if plan.base is None:
        console.print(
            Text.assemble(
                ("Note ", "bold yellow"),
                f"{results.base.ref} is a stand-in that was built from scratch, because a demo must not need a "
                f"download. With a real one: {REAL_BASE_HINT}",
            )
        )
    lines = Text("\n".join(_commands(results)))
    if console.is_terminal:
        console.print(Panel(lines, title="Try next", title_align="left", border_style="green", expand=False))
    else:
        console.print("Try next:")
        console.print(lines, soft_wrap=True)
    took = format_seconds(float(report["seconds_total"]))
    console.print(f"Done after {took}; the platform goes on running. Figures: {path}", markup=False, soft_wrap=True)


def _make_table(results: Results, report: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    splits = ", ".join(f"{count:,} {name}" for name, count in results.dataset.splits.items())
    table.add_row("Dataset", f"{results.dataset.ref}  {results.dataset.rows:,} rows ({splits})")
    speed = report["train"].get("tokens_per_s")
    table.add_row("Training", f"{format_number(speed)} tokens/s" if speed else "–")
    for contender in read_scores(results.scores):
        words = f"exact match {contender.scores.get('exact_match', 0):.3f}"
        if "macro_f1" in contender.scores:
            words += f"   macro F1 {contender.scores['macro_f1']:.3f}"
        is_ours = contender.name == "this model"
        table.add_row(
            Text("Tuned model" if is_ours else f"  {contender.name}"),
            Text(words, style="bold green" if is_ours else ""),
        )
    table.add_row("Registered", results.model.ref)
    table.add_row("Endpoint", f"{results.endpoint.name} at {results.gateway_url}/v1")
    figures = results.figures
    table.add_row(
        "Through the gateway",
        f"first token {figures.ttft_ms_p50:.0f} ms (p50, 1 client)   "
        f"{figures.tokens_per_s:,.0f} tokens/s, {figures.requests_per_s:,.0f} requests/s ({figures.clients} clients)",
    )
    asked, answered = figures.example
    table.add_row("For example", Text(f"{asked} → {answered}"))
    return table


def _commands(results: Results) -> list[str]:
    """Three commands as they can be typed here."""
    finmaas = find_command()
    question = results.figures.example[0].replace('"', "'")
    return [
        f'{finmaas} chat {results.endpoint.name} "{question}"',
        f"{finmaas} model show {results.model.model}@{results.model.version}",
        f"{finmaas} usage summary",
    ]


def find_command() -> str:
    """`finmaas`, or the way to it where it is not on the PATH."""
    own = Path(sys.executable).parent / "finmaas"
    if shutil.which("finmaas") or not own.exists():
        return "finmaas"
    try:
        return str(own.relative_to(Path.cwd()))
    except ValueError:
        return str(own)

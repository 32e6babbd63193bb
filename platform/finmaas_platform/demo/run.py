"""The demo: the main job end to end on this machine, from rows to answers through the gateway.

    python -m finmaas_platform.demo
    python -m finmaas_platform.demo --data tickets.csv --text message --label intent
    python -m finmaas_platform.demo --base ~/models/Qwen3-0.6B

Run again, it repeats nothing that is done: the same content is the same version, a job of the same spec is used again,
a ready endpoint stays. This process never loads torch.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from finmaas_core.errors import FinmaasError
from finmaas_platform.cli.group import FAILED, INTERRUPTED, print_panel, show_error
from finmaas_platform.cli.terminal import quiet_logs, say
from finmaas_platform.demo import stages
from finmaas_platform.demo.board import Board
from finmaas_platform.demo.plan import Plan
from finmaas_platform.demo.report import Results, print_report, write_report

# Seconds that each stage takes on two cores, until a run on this machine has told better.
STAGES = (
    ("Check the set-up", 1.0),
    ("Start the platform", 20.0),
    ("Make the data", 2.0),
    ("Import the dataset", 3.0),
    ("Provide the base model", 20.0),
    ("Fine-tune", 240.0),
    ("Evaluate", 60.0),
    ("Deploy", 70.0),
    ("Ask the gateway", 10.0),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo and returns the exit code; errors become one panel with the next step."""
    plan = read_plan(arguments)
    quiet_logs()
    try:
        run_demo(plan)
    except FinmaasError as error:
        show_error(error)
        return FAILED
    except KeyboardInterrupt:
        say("Stopped. What runs goes on; `make demo` takes it up where it is, `finmaas down` ends everything.")
        return INTERRUPTED
    except OSError as error:
        print_panel(
            "a file cannot be read or written", str(error), "Check the path and the free space, then run again."
        )
        return FAILED
    return 0


def read_plan(arguments: Sequence[str] | None) -> Plan:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m finmaas_platform.demo", description="The main job, end to end.")
    parser.add_argument("--data", type=Path, help="own rows: a .csv, .jsonl, .xlsx or .parquet file")
    parser.add_argument("--text", default="text", help="column with the text")
    parser.add_argument("--label", default="label", help="column with the label")
    parser.add_argument("--base", type=Path, help="folder of a real base model, e.g. Qwen3-0.6B")
    parser.add_argument("--epochs", type=int, help="passes over the rows")
    parser.add_argument("--home", type=Path, help="data folder of the installation")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="folder for report, data and base")
    given = parser.parse_args(arguments)
    return Plan(
        out=given.out,
        home=given.home,
        data=given.data,
        text=given.text,
        label=given.label,
        base=given.base,
        epochs=given.epochs,
    )


def run_demo(plan: Plan) -> None:
    """All stages, then the report."""
    started = time.monotonic()
    if plan.home is not None:
        os.environ["FINMAAS_HOME"] = str(plan.home.expanduser().resolve())
    plan.out.mkdir(parents=True, exist_ok=True)
    with Board(STAGES, plan.out / "times.json") as board:
        results = run_stages(plan, board)
    path = plan.out / "report.json"
    seconds_setup = float(os.environ.get("FINMAAS_SETUP_SECONDS") or 0)
    report = write_report(path, plan, results, board.seconds, seconds_setup, time.monotonic() - started)
    print_report(plan, results, report, path)


def run_stages(plan: Plan, board: Board) -> Results:
    """Runs the stages one after the other."""
    from finmaas_platform.sdk import Client

    with board.stage("Check the set-up") as stage:
        stages.check_setup(stage, plan)
    with board.stage("Start the platform") as stage:
        stages.start_platform(stage, plan)
    with board.stage("Make the data") as stage:
        path = stages.make_data(stage, plan)
    with Client(home=plan.home) as client:
        with board.stage("Import the dataset") as stage:
            dataset = stages.import_data(stage, plan, client, path)
        with board.stage("Provide the base model") as stage:
            base = stages.provide_base(stage, plan, client, dataset)
        with board.stage("Fine-tune") as stage:
            training = stages.train(stage, plan, client, base, dataset)
        model = stages.find_result(client, training.job)
        with board.stage("Evaluate") as stage:
            evaluation = stages.evaluate(stage, plan, client, model, base, dataset)
        with board.stage("Deploy") as stage:
            endpoint = stages.deploy(stage, plan, client, model)
        with board.stage("Ask the gateway") as stage:
            figures = stages.ask_gateway(stage, client, endpoint, dataset)
        return Results(dataset, base, training, model, evaluation, endpoint, figures, client.gateway_url)

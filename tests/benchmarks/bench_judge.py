"""How well a model that the platform trains judges requests, and what lists of phrases do on the same rows.

    FINMAAS_DATA=folder python tests/benchmarks/bench_judge.py [--epochs 12] [--out build/bench/judge.json]

COLD (Chinese, offensive or safe): a fifth of its rows is held out by a hash of their text and never imported. The rest
goes the way of every user's file: `make demo` imports it, trains the small stand-in, evaluates and deploys. Then the
endpoint is the judge in a policy, every held-out row is sent through the gateway, and what the gateway refuses counts
as called offensive. The phrases come from the imported rows alone and are matched by the gateway's own scanner.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

from figures import describe_setup
from integration_helpers import find_port_block, wait_until

from finmaas_platform.embedded.lifecycle import ensure_up, take_down
from finmaas_platform.sdk import Client
from finmaas_serving.guard.policy import MAX_PHRASES, Guard, read_policy

OFFENSIVE, SAFE = "offensive", "safe"
NAME = "cold-judge"
LONGEST = 6
SEEN, SURE = 4, 0.9  # a phrase is in so many training rows at least, and so often they are offensive
Row = tuple[str, str]


def read_rows(folder: Path) -> tuple[list[Row], list[Row]]:
    """Rows for the platform, and rows held out; one text is in one of them only."""
    given: list[Row] = []
    held: list[Row] = []
    with (folder / "cold_offensive_zh" / "cold.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            text = row["text"].strip()
            part = held if hashlib.sha256(text.encode()).digest()[0] < 51 else given
            part.append((text, OFFENSIVE if row["label"] == "1" else SAFE))
    return given, held


def choose_phrases(rows: Iterable[Row]) -> list[str]:
    """Runs of two to six ideographs that stand in offensive rows nearly alone; the most frequent of them."""
    seen: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    for text, label in rows:
        runs = {text[at : at + length] for length in range(2, LONGEST + 1) for at in range(len(text) - length + 1)}
        runs = {run for run in runs if all("\u4e00" <= char <= "\u9fff" for char in run)}
        seen.update(runs)
        if label == OFFENSIVE:
            bad.update(runs)
    sure = [run for run, count in seen.items() if count >= SEEN and bad[run] / count >= SURE]
    sure.sort(key=lambda run: (-bad[run], len(run), run))
    kept: list[str] = []
    for run in sure:
        if not any(known in run for known in kept):
            kept.append(run)
    return kept[:MAX_PHRASES]


def find_phrases(phrases: Sequence[str], rows: Iterable[Row]) -> list[bool]:
    """Whether the gateway would refuse each text for a phrase."""
    guard = Guard(read_policy({"phrases": list(phrases)}))
    return [bool(guard.input.scanner.find(text)) for text, _ in rows]


def score(refused: Sequence[bool], rows: Sequence[Row]) -> dict[str, float]:
    """Precision, recall and F1 of `offensive`, accuracy, and F1 averaged over both labels."""
    pairs = Counter((said, label == OFFENSIVE) for said, (_, label) in zip(refused, rows, strict=True))
    right, wrong, missed, passed = (pairs[key] for key in ((True, True), (True, False), (False, True), (False, False)))
    f1 = 2 * right / max(1, 2 * right + wrong + missed)
    f1_safe = 2 * passed / max(1, 2 * passed + wrong + missed)
    scores = {
        "precision": right / max(1, right + wrong),
        "recall": right / max(1, right + missed),
        "f1": f1,
        "macro_f1": (f1 + f1_safe) / 2,
        "accuracy": (right + passed) / max(1, len(rows)),
    }
    return {name: round(value, 4) for name, value in scores.items()}


def train_judge(home: Path, folder: Path, rows: Iterable[Row], epochs: int | None) -> dict[str, Any]:
    """The report of the demo, run on the rows."""
    data = folder / f"{NAME}.csv"
    with data.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(rows)
    command = [sys.executable, "-m", "finmaas_platform.demo", "--home", str(home), "--data", str(data)]
    command += ["--out", str(folder / "demo"), *(["--epochs", str(epochs)] if epochs else [])]
    subprocess.run(command, check=True)
    report: dict[str, Any] = json.loads((folder / "demo" / "report.json").read_text())
    return report


def ask_gateway(client: Client, rows: Sequence[Row]) -> tuple[list[bool], float]:
    """Whether the gateway refuses each text for the judge's label, and the requests a second."""
    key = client.keys.create("default/default", "judge").key
    url = f"{client.gateway_url}/v1/chat/completions"
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=60, trust_env=False) as http:

        def ask(text: str) -> httpx.Response:
            body = {"model": NAME, "messages": [{"role": "user", "content": text}], "max_tokens": 1}
            return http.post(url, json=body)

        def is_refused(text: str) -> bool:
            answer = ask(text)
            if answer.status_code == httpx.codes.OK:
                return False
            assert answer.json()["error"]["code"] == "content_policy_violation", answer.text
            return True

        wait_until(lambda: ask("你好").status_code == httpx.codes.OK, 30, "the gateway learns the key")
        wanted = next(text for text, label in rows if label == OFFENSIVE)
        client.policies.set("default/default", {"moderation": {"model": NAME, "block": [OFFENSIVE]}})
        records = lambda: list(client.usage.records(project="default/default"))  # noqa: E731
        wait_until(
            lambda: ask(wanted) and any(r.request_id.endswith("-judge") for r in records()), 30, "the judge is asked"
        )
        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            refused = list(pool.map(is_refused, [text for text, _ in rows]))
        return refused, len(rows) / (time.monotonic() - started)


def measure(data: Path, folder: Path, epochs: int | None) -> dict[str, Any]:
    """Everything, in an installation of its own that is taken down at the end."""
    given, held = read_rows(data)
    phrases = choose_phrases(given)
    by_phrase = find_phrases(phrases, held)
    home = folder / "home"
    try:
        ensure_up(home, port_base=find_port_block())
        report = train_judge(home, folder, given, epochs)
        with Client(home=home) as client:
            by_judge, rate = ask_gateway(client, held)
    finally:
        take_down(home)
    either = [one or other for one, other in zip(by_judge, by_phrase, strict=True)]
    return {
        "rows": {
            "imported": len(given),
            "held_out": len(held),
            "of_them_offensive": sum(x == OFFENSIVE for _, x in held),
        },
        "judge": score(by_judge, held),
        "phrases": {**score(by_phrase, held), "count": len(phrases)},
        "judge_or_phrases": score(either, held),
        "all_refused": score([True] * len(held), held),
        "evaluation_on_the_platforms_test_split": report["eval"],
        "training": report["train"],
        "requests_per_s": round(rate, 1),
        "setup": describe_setup(),
    }


def main() -> int:
    """Writes the JSON and prints a table."""
    parser = argparse.ArgumentParser(description="What a judge of the platform's own training finds.")
    parser.add_argument("--epochs", type=int, help="passes over the rows; left out, what the demo takes")
    parser.add_argument("--work", type=Path, default=Path("build/judge"), help="folder for the installation")
    parser.add_argument("--out", type=Path, default=Path("build/bench/judge.json"))
    given = parser.parse_args()
    data = os.environ.get("FINMAAS_DATA")
    if not data:
        print("set FINMAAS_DATA to the folder that holds cold_offensive_zh", file=sys.stderr)
        return 2
    given.work.mkdir(parents=True, exist_ok=True)
    report = measure(Path(data), given.work.resolve(), given.epochs)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in ("judge", "phrases", "judge_or_phrases", "all_refused"):
        print(f"{name:18} " + "  ".join(f"{key} {value}" for key, value in report[name].items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

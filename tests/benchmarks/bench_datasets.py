"""Importing a million rows into a version with all reports, and listing 10,000 × 20 versions; part of bench_registry.

    import_rows_per_s, import_peak_mb   a JSONL file to a committed version
    near_duplicate_recall               planted pairs of Jaccard 0.8 or more that its report has in one group
    list_p99_ms                         the slowest question about 10,000 datasets and models of 20 versions

Rows are random, of 200 bytes, never seen before, with near-duplicates and personal data planted in known numbers. The
import is the control plane's own: body spooled, converted by other processes, stored with fsync, committed. Memory is
the proportional share (PSS) of all processes together. Lists are asked of a running control plane over HTTP.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
from figures import Figures
from integration_helpers import find_port_block

from finmaas_core.home import read_secret
from finmaas_core.ids import new_id
from finmaas_core.settings import Settings
from finmaas_platform.cluster.memory import MemoryCluster
from finmaas_platform.control_plane import build_deps
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.datasets import DatasetRow, DatasetVersionRow
from finmaas_platform.db.models import ModelRow, ModelVersionRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.principals import Caller, CallerKind, Role
from finmaas_platform.services.dataset_imports import import_file, open_import

ROW_BYTES = 200
PLANTED = 1000
NAMES, VERSIONS = 10_000, 20
REQUESTS = 200
ADMIN = Caller(CallerKind.PRINCIPAL, "bench", "bench", Role.PLATFORM_ADMIN)


def write_rows(path: Path, rows: int) -> tuple[list[tuple[int, int]], int]:
    """A file of rows; the pairs of lines that are near-duplicates by their exact similarity, and rows with a phone."""
    rng = random.Random(os.urandom(8))
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(20_000)]
    han = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
    kept: list[tuple[int, str]] = []
    pairs: list[tuple[int, int]] = []
    phones = 0
    with path.open("w", encoding="utf-8") as out:
        for line in range(1, rows + 1):
            text = "".join(rng.choices(han, k=38)) if line % 4 == 0 else " ".join(rng.choices(words, k=22))[:118]
            if line % max(1, rows // 2 // PLANTED) == 0:
                if line <= rows // 2:
                    kept.append((line, text))
                elif kept:
                    first, original = kept.pop(rng.randrange(len(kept)))
                    text = _change_a_little(original, rng, words, han)
                    if _similarity(original, text) >= 0.8:
                        pairs.append((first, line))
            elif line % 100 == 1:
                text, phones = text[:-16] + " 138" + str(10_000_000 + line)[-8:], phones + 1
            out.write(_row(text, rng))
    return pairs, phones


def measure_import(figures: Figures, rows: int) -> bool:
    """One import from a file to a committed version."""
    with tempfile.TemporaryDirectory(prefix="fm-bench-") as folder:
        found = _import(Path(folder), rows)
    how = f"{rows:,} unseen rows of {ROW_BYTES} bytes, JSONL, all reports, spool to commit with fsync"
    met = [
        figures.add("import_rows_per_s", found.pop("rows_per_s"), how=how, at_least=100_000, **found),
        figures.add("import_peak_mb", found["peak_mb"], how="PSS of all processes together", at_most=1000),
        figures.add("near_duplicate_recall", found["recall"], how="planted pairs, exact Jaccard ≥ 0.8", at_least=0.99),
    ]
    return all(met)


def measure_lists(figures: Figures) -> bool:
    """The 99th percentile of each question, over HTTP; the figure is the slowest one's."""
    with tempfile.TemporaryDirectory(prefix="fm-bench-") as folder:
        asked = _ask_lists(Path(folder))
    how = f"{NAMES:,} datasets and models × {VERSIONS} versions, HTTP, SQLite, {REQUESTS} requests a question"
    return figures.add("list_p99_ms", max(asked.values()), how=how, at_most=50, questions=asked)


def _import(folder: Path, rows: int) -> dict[str, Any]:
    source = folder / "rows.jsonl"
    pairs, phones = write_rows(source, rows)
    deps = build_deps(Settings(home=folder / "home"), MemoryCluster())
    target = open_import(deps, ADMIN, "default/default", "many", "rows.jsonl")
    from finmaas_registry.dataset_import import ImportOptions

    with PeakMemory() as memory:
        start, cpu = time.perf_counter(), _cpu_s()
        version, is_new = import_file(deps, ADMIN, target, _chunks(source), ImportOptions())
        wall_s, cpu_s = time.perf_counter() - start, _cpu_s() - cpu
    assert is_new
    assert version.rows == rows
    report = _read_report(deps, version.id)
    grouped = {line: at for at, group in enumerate(report["near_duplicates"]["listed"]) for line in group["lines"]}
    recalled = sum(one in grouped and grouped[one] == grouped.get(other, -1) for one, other in pairs)
    found = {(one["column"], one["rule"]): one["rows"] for one in report["privacy"]["findings"]}
    return {
        "rows_per_s": round(rows / wall_s),
        "peak_mb": round(memory.peak_bytes / 1e6),
        "recall": round(recalled / len(pairs), 4),
        "wall_s": round(wall_s, 2),
        "cpu_s": round(cpu_s, 2),
        "rows_per_cpu_s": round(rows / cpu_s),
        "planted_pairs": len(pairs),
        "groups": report["near_duplicates"]["groups"],
        "phones_planted": phones,
        "phones_found": found.get(("text", "cn_mobile"), 0),
        "stored_bytes": version.size_bytes,
    }


def _ask_lists(folder: Path) -> dict[str, float]:
    settings = Settings(home=folder / "lists", port_base=find_port_block(first=27100))
    deps = build_deps(settings, MemoryCluster())
    _fill(deps)
    env = {**os.environ, "FINMAAS_HOME": str(settings.home), "FINMAAS_PORT_BASE": str(settings.port_base)}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        [sys.executable, "-m", "finmaas_platform.control_plane"], env=env, stdout=quiet, stderr=quiet
    ) as process:
        try:
            headers = {"Authorization": f"Bearer {read_secret(settings.paths.admin_token)}"}
            url = f"{settings.api_url}/api/v1"
            with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
                _wait(client)
                return {name: _percentile(client, ask) for name, ask in _questions().items()}
        finally:
            process.terminate()


class PeakMemory:
    """Watches how much memory this process and its descendants take together, their shared pages counted once."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._done.wait(0.5):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak_bytes = max(self.peak_bytes, total)


def _row(text: str, rng: random.Random) -> str:
    """One line of ROW_BYTES bytes."""
    row = {"text": text, "label": f"label_{rng.randrange(77)}", "channel": rng.choice(("app", "web", "desk"))}
    line = json.dumps({**row, "customer": ""}, ensure_ascii=False)
    missing = max(9, ROW_BYTES - 1 - len(line.encode()))
    return line[:-2] + "".join(rng.choices("0123456789abcdefghijklmnopqrstuvwxyz", k=missing)) + '"}\n'


def _change_a_little(text: str, rng: random.Random, words: list[str], han: list[str]) -> str:
    parts, sep = (text.split(), " ") if " " in text else (list(text), "")
    parts[rng.choice((0, len(parts) - 1, rng.randrange(len(parts))))] = rng.choice(words if sep else han)
    return sep.join(parts)


def _similarity(one: str, other: str) -> float:
    sets = [set(itertools.pairwise(text.split() if " " in text else text)) for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _read_report(deps: Deps, version_id: str) -> dict[str, Any]:
    from finmaas_platform.db.datasets import DatasetReportRow

    with unit_of_work(deps.sessions) as session:
        row = session.get(DatasetReportRow, version_id)
        assert row is not None
        return row.report


def _fill(deps: Deps) -> None:
    now = deps.clock.now()
    with unit_of_work(deps.sessions) as session:
        project = session.query(ProjectRow).first()
        assert project is not None
        common = {"tenant_id": project.tenant_id, "project_id": project.id, "created_at": now, "created_by": "bench"}
        named = {**common, "latest_version": VERSIONS}
        sets = [{"id": new_id("dataset"), "name": f"set-{n}", **named} for n in range(NAMES)]
        models = [{"id": new_id("model"), "name": f"model-{n}", **named} for n in range(NAMES)]
        session.bulk_insert_mappings(DatasetRow.__mapper__, sets)
        session.bulk_insert_mappings(ModelRow.__mapper__, models)
        files = [{"path": f"data/{n}.parquet", "sha256": "0" * 64, "size": 1} for n in range(3)]
        content = {"files": files, "size_bytes": 3, "digest": "0" * 64, **common}
        stats = {"labels": {f"label {n}": n for n in range(77)}, "rows": 1000}
        for one in sets:
            session.bulk_insert_mappings(DatasetVersionRow.__mapper__, [
                {"id": new_id("dataset_version"), "dataset_id": one["id"], "number": n + 1, "shape": "classification",
                 "rows": 1000, "splits": {"train": 1000}, "schema": [], "stats": stats, "source": "x.csv",
                 "state": "draft", **content}
                for n in range(VERSIONS)
            ])  # fmt: skip
        for one in models:
            session.bulk_insert_mappings(ModelVersionRow.__mapper__, [
                {"id": new_id("model_version"), "model_id": one["id"], "number": n + 1, "kind": "adapter",
                 "description": "", "metrics": {"loss": 0.5}, **content}
                for n in range(VERSIONS)
            ])  # fmt: skip


def _questions() -> dict[str, Callable[[httpx.Client, int], httpx.Response]]:
    asked: dict[str, Callable[[httpx.Client, int], httpx.Response]] = {}
    for noun, name in (("datasets", "set"), ("models", "model")):
        base = f"/{noun}/default/default/{name}"
        asked[f"{noun} list"] = lambda c, n, noun=noun: c.get(f"/{noun}")
        asked[f"{noun} list of a project"] = lambda c, n, noun=noun: c.get(
            f"/{noun}", params={"project": "default/default"}
        )
        asked[f"{noun} show"] = lambda c, n, base=base: c.get(f"{base}-{n * 37 % NAMES}")
        asked[f"{noun} versions"] = lambda c, n, base=base: c.get(f"{base}-{n * 37 % NAMES}/versions")
        asked[f"{noun} version"] = lambda c, n, base=base: c.get(f"{base}-{n * 37 % NAMES}/versions/{1 + n % VERSIONS}")
        asked[f"{noun} unknown name"] = lambda c, n, base=base: c.get(f"{base}{n}")
    asked["models alias move"] = lambda c, n: c.put(
        f"/models/default/default/model-{n * 37 % NAMES}/aliases/canary", json={"version": str(1 + n % VERSIONS)}
    )
    return asked


def _percentile(client: httpx.Client, ask: Callable[[httpx.Client, int], httpx.Response]) -> float:
    times = []
    for number in range(REQUESTS):
        start = time.perf_counter()
        answer = ask(client, number)
        times.append(time.perf_counter() - start)
        assert answer.status_code in (200, 201, 404), answer.text
    return round(statistics.quantiles(times, n=100)[98] * 1000, 1)


def _wait(client: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if client.get("/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError("the control plane did not answer")

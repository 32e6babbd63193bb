"""Named figures of a benchmark, gathered in one JSON document by several programs.

    figures = Figures(Path("build/bench/registry.json"))
    figures.add("push_ratio", 0.93, at_least=0.8, how="2 GB …", runs=[…])

Each call replaces the figure of that name only, so programs that measure different things share the document.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Figures:
    """One document; figures are kept by name, each with the setup it was measured in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        name: str,
        value: float,
        *,
        how: str,
        at_least: float | None = None,
        at_most: float | None = None,
        **details: Any,
    ) -> bool:
        """Writes a figure, prints a line of it, and says whether it is within its bound."""
        is_met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        bound = f"≥ {at_least}" if at_least is not None else f"≤ {at_most}" if at_most is not None else "no bound"
        figure = {"value": value, "bound": bound, "met": is_met, "how": how, **details, "setup": describe_setup()}
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            document = json.loads(self._path.read_text()) if self._path.exists() else {}
            document[name] = figure
            scratch = self._path.with_suffix(".tmp")
            scratch.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            scratch.replace(self._path)
        print(f"{name:20} {value:10.3f}  {bound:10} {'met' if is_met else 'MISSED'}   {how}", flush=True)
        return is_met


def describe_setup() -> dict[str, Any]:
    """Commit, date and machine of a figure."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }

"""What a process that serves tells the collector, tried in a process of its own: it is of the whole process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from finmaas_core.memory import keep_buffers, spare_collections
made = [[] for _ in range(50_000)]
spare_collections()
later = []
later.append(later)
print(gc.get_freeze_count() >= 50_000, gc.get_threshold()[0] > 700, len(gc.get_objects()) < 1_000)
keep_buffers()
"""


def test_what_is_there_is_looked_at_no_more() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]

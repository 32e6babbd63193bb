"""What is told about a whole version once all its blocks are there: near-duplicates, leakage, personal data, tags."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finmaas_registry.import_blocks import BlockFacts
from finmaas_registry.reports.near_duplicates import THRESHOLD, NearDuplicates, find_near_duplicates
from finmaas_registry.reports.privacy import PrivacyFindings, mask_personal
from finmaas_registry.shapes import PARTS, Shape
from finmaas_registry.splits import SPLITS
from finmaas_registry.spool import read_row
from finmaas_registry.tags import Tags

MAX_GROUPS, MAX_GROUP_ROWS, MAX_TOLD = 1000, 20, 10
EXAMPLE_CHARS = 120
METHOD = "pairs of words (Chinese: of characters), 64 permutations in 16 bands, each candidate compared exactly"


@dataclass(frozen=True)
class Places:
    """Where each row is, in the order rows were read: its split and line, its block and its place in there."""

    splits: npt.NDArray[np.uint8]
    lines: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, facts: list[BlockFacts]) -> Places:
        starts = np.cumsum([0, *(len(one.splits) for one in facts)])
        return cls(np.concatenate([f.splits for f in facts]), np.concatenate([f.lines for f in facts]), starts)

    def in_block(self, row: int) -> tuple[int, str, int]:
        """The number of the block, the split, and the row's place in the block's part of that split."""
        block = int(np.searchsorted(self.starts, row, side="right")) - 1
        start = int(self.starts[block])
        return block, SPLITS[self.splits[row]], int((self.splits[start:row] == self.splits[row]).sum())

    def by_file(self) -> npt.NDArray[np.int64]:
        """The rows in the order of the version's files."""
        return np.argsort(self.splits, kind="stable")


def make_report(folder: Path, facts: list[BlockFacts], tags: Tags, shape: Shape) -> dict[str, Any]:
    """The report of a version whose blocks lie in a folder."""
    places = Places.of(facts)
    near = find_near_duplicates([folder / f"{number:06d}.sketch" for number in range(len(facts))])
    groups = near.groups()
    privacy = PrivacyFindings()
    retained: Counter[str] = Counter()
    for one in facts:
        privacy.merge(one.privacy)
        retained.update(one.retained)
    return {
        "near_duplicates": _tell_groups(folder, near, groups, places, shape),
        "leakage": find_leakage(near, places.splits, places.lines),
        "privacy": privacy.as_json(len(places.splits)),
        "consent": _tell_consent(tags, sum(one.without_consent for one in facts)),
        "retention": None if tags.retain_until is None else {"until": dict(sorted(retained.items()))},
        "id": tags.id,
    }


def find_leakage(
    near: NearDuplicates, splits: npt.NDArray[np.uint8], lines: npt.NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """By pair of splits: the rows of the second that have a near-duplicate in the first."""
    size = len(near.labels)
    present = np.zeros((len(SPLITS), size), bool)
    for split in range(len(SPLITS)):
        present[split, near.labels[splits == split]] = True
    found: dict[str, dict[str, Any]] = {}
    for one, other in ((0, 1), (0, 2), (1, 2)):
        rows = np.flatnonzero((splits == other) & present[one, near.labels])
        total = int((splits == other).sum())
        found[f"{SPLITS[one]}_{SPLITS[other]}"] = {
            "rows": len(rows),
            "share": round(len(rows) / total, 6) if total else 0.0,
            "lines": lines[rows[:MAX_GROUP_ROWS]].tolist(),
        }
    return found


def _tell_groups(
    folder: Path, near: NearDuplicates, groups: list[npt.NDArray[np.int64]], places: Places, shape: Shape
) -> dict[str, Any]:
    rows = sum(map(len, groups))
    return {
        "threshold": THRESHOLD,
        "method": METHOD,
        "compared": near.compared,
        "is_complete": near.is_complete,
        "groups": len(groups),
        "rows": rows,
        "extra": rows - len(groups),
        "listed": [
            {
                "rows": len(group),
                "lines": places.lines[group[:MAX_GROUP_ROWS]].tolist(),
                "splits": sorted({SPLITS[split] for split in places.splits[group].tolist()}),
                "texts": [_example(folder, places, row, shape) for row in group[:2].tolist()] if at < MAX_TOLD else [],
            }
            for at, group in enumerate(groups[:MAX_GROUPS])
        ],
    }


def _example(folder: Path, places: Places, row: int, shape: Shape) -> str:
    found = read_row(folder, *places.in_block(row))
    value = found[next(iter(PARTS[shape]))]
    text = value if isinstance(value, str) else " ".join(turn["content"] for turn in value)
    return mask_personal(text[:EXAMPLE_CHARS])


def _tell_consent(tags: Tags, dropped: int) -> dict[str, Any] | None:
    if tags.consent is None:
        return None
    return {"purpose": tags.purpose, "without_consent": tags.without_consent, "dropped": dropped}

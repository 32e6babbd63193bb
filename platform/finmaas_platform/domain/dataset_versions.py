"""The life of a dataset version: draft, released, purged; and what stands against a release. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

DRAFT, RELEASED, PURGED = "draft", "released", "purged"
MOVES = {DRAFT: {RELEASED, PURGED}, RELEASED: {PURGED}, PURGED: set[str]()}


@dataclass(frozen=True)
class Finding:
    """Something that a person has to accept before a version is released."""

    name: str
    message: str


def find_objections(report: Mapping[str, Any], expired: int, accepted: Collection[str]) -> list[Finding]:
    """What stands against a release by the report, but for what was accepted."""
    found = []
    columns = report["privacy"]["columns"]
    if columns:
        told = ", ".join(f"{name} ({part['rows']:,} rows)" for name, part in columns.items())
        found.append(Finding("privacy", f"personal data or secrets in {told}"))
    leaked = {pair: part["rows"] for pair, part in report["leakage"].items() if part["rows"]}
    if leaked:
        told = ", ".join(f"{pair.replace('_', ' and ')} {rows:,} rows" for pair, rows in leaked.items())
        found.append(Finding("leakage", f"near-duplicates across splits: {told}"))
    if expired:
        found.append(Finding("expired", f"{expired:,} rows whose last day has passed"))
    return [finding for finding in found if finding.name not in accepted]


def count_expired(report: Mapping[str, Any], today: date) -> int:
    """How many rows' last day is before today, by a stored report."""
    until: Mapping[str, int] = (report.get("retention") or {}).get("until", {})
    return sum(count for day, count in until.items() if day and day < today.isoformat())

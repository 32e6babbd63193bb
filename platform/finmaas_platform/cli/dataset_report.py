"""The report on a dataset version as tables: near-duplicates, leakage, personal data, consent, retention."""

from __future__ import annotations

from typing import Any

from finmaas_platform.cli.terminal import Column, print_fields, print_json, print_table, say
from finmaas_platform.sdk.objects import DatasetReport

SHOWN_GROUPS = 5
LEAKAGE = (
    Column("Rows of", lambda item: item["of"]),
    Column("with a near-duplicate in", lambda item: item["near"]),
    Column("Rows", lambda item: f"{item['rows']:,}", right=True),
    Column("Share", lambda item: f"{item['share']:.2%}", right=True),
    Column("Lines", lambda item: _lines(item["lines"])),
)
GROUPS = (
    Column("Rows", lambda item: item["rows"], right=True),
    Column("Splits", lambda item: ", ".join(item["splits"])),
    Column("Lines", lambda item: _lines(item["lines"])),
    Column("Texts", lambda item: "\n".join(item["texts"]), fold=True),
)
PRIVACY = (
    Column("Column", lambda item: item["column"]),
    Column("Holds", lambda item: f"{item['label']} ({item['rule']})"),
    Column("Rows", lambda item: f"{item['rows']:,}", right=True),
    Column("Share", lambda item: f"{item['share']:.2%}", right=True),
    Column("Examples, masked", lambda item: ", ".join(item["examples"]), fold=True),
)


def show_report(item: DatasetReport, as_json: bool) -> None:
    """Prints the report."""
    if as_json:
        print_json(item.to_json())
        return
    report = item.report
    near = report["near_duplicates"]
    print_fields(
        [
            ("version", item.ref),
            ("rows", item.rows),
            ("near-duplicates", _describe_near(near)),
            ("consent", _describe_consent(report["consent"])),
            ("retention", _describe_retention(report["retention"], item.expired)),
        ]
    )
    if near["listed"]:
        print_table(near["listed"][:SHOWN_GROUPS], GROUPS, title="Largest groups of near-duplicates")
    print_table(_leakage(report["leakage"]), LEAKAGE, title="Leakage between splits")
    findings = report["privacy"]["findings"]
    if findings:
        print_table(findings, PRIVACY, title="Personal data and secrets")
    else:
        say(f"No personal data found by {len(report['privacy']['rules'])} rules.")


def _describe_near(near: dict[str, Any]) -> str:
    found = (
        f"{near['groups']:,} groups, {near['rows']:,} rows ({near['extra']:,} could go), Jaccard ≥ {near['threshold']}"
    )
    return found if near["is_complete"] else f"{found}; at least: too many candidates to compare all"


def _describe_consent(consent: dict[str, Any] | None) -> str:
    if consent is None:
        return "not stated"
    return f"for {consent['purpose']}: all rows that are kept; {consent['dropped']:,} were dropped without it"


def _describe_retention(retention: dict[str, Any] | None, expired: int) -> str:
    if retention is None:
        return "not stated"
    days = sorted(day for day in retention["until"] if day)
    ends = f"last days {days[0]} to {days[-1]}" if days else "no last day"
    return f"{ends}; {expired:,} rows have expired and are not read for training"


def _leakage(leakage: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"near": pair.split("_")[0], "of": pair.split("_")[1], **part} for pair, part in leakage.items()]


def _lines(lines: list[int]) -> str:
    return ", ".join(map(str, lines[:6])) + (", …" if len(lines) > 6 else "")

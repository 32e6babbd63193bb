"""Which columns hold which personal data and secrets: rows counted by column and rule, a few examples, masked.

The rules are those of the guardrails (finmaas_core.text_rules). One automaton tells which rules may match a value; only
those are then tried one by one, with their checks. A value that many rows share is looked at once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import re2

from finmaas_core.text_rules import CONTEXT_CHARS, PERSONAL, SECRETS, TextRule, automaton_pattern, unmask_text

RULES = (*PERSONAL, *SECRETS)
MAX_EXAMPLES = 3
_SHARED = 8  # a column is scanned by distinct value when there are so many rows for each
_AT_ONCE = 16
_MEMORY_BYTES = 64 << 20


@dataclass
class PrivacyFindings:
    """Counts of one or many blocks; `merge` adds another's."""

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By column and rule."""
    touched: Counter[str] = field(default_factory=Counter)
    """By column: rows with any finding."""
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, column: str, values: pa.Array) -> None:
        """Scans a column: text, numbers, or chats."""
        for value, count in _suspects(_distinct_texts(values)):
            found = find_personal(value)
            if found:
                self.touched[column] += count
            for rule, text in found.items():
                self.rows[column, rule] += count
                self._keep(column, rule, mask_example(text))

    def merge(self, other: PrivacyFindings) -> None:
        self.rows.update(other.rows)
        self.touched.update(other.touched)
        for (column, rule), texts in other.examples.items():
            for text in texts:
                self._keep(column, rule, text)

    def as_json(self, total: int) -> dict[str, Any]:
        """The report; `share` is of all rows."""
        kinds = {rule.name: rule for rule in RULES}
        findings = [
            {
                "column": column,
                "rule": rule,
                "kind": kinds[rule].group.value,
                "label": kinds[rule].label,
                "rows": count,
                "share": round(count / total, 6),
                "examples": self.examples.get((column, rule), []),
            }
            for (column, rule), count in sorted(self.rows.items(), key=lambda item: (-item[1], item[0]))
        ]
        columns = {column: {"rows": count, "share": round(count / total, 6)} for column, count in self.touched.items()}
        return {"columns": dict(sorted(columns.items())), "findings": findings, "rules": [rule.name for rule in RULES]}

    def _keep(self, column: str, rule: str, text: str) -> None:
        kept = self.examples.setdefault((column, rule), [])
        if len(kept) < MAX_EXAMPLES and text not in kept:
            kept.append(text)


def find_personal(text: str) -> dict[str, str]:
    """By rule, the first thing in the text that it finds."""
    plain = text if text.isascii() else unmask_text(text)
    matched = _any_rule().Match(plain)
    if not matched:
        return {}
    found = {RULES[number].name: _find(RULES[number], plain) for number in sorted(matched)}
    return {rule: value for rule, value in found.items() if value is not None}


def mask_personal(text: str) -> str:
    """The text with everything that a rule finds masked."""
    plain = text if text.isascii() else unmask_text(text)
    for number in sorted(_any_rule().Match(plain) or ()):
        for value in set(_all(RULES[number], plain)):
            plain = plain.replace(value, mask_example(value))
    return plain


def mask_example(text: str) -> str:
    """The first and last characters, so that a reader can tell what it is and not whose."""
    shown = 2 if len(text) >= 8 else 1 if len(text) >= 3 else 0
    return text[:shown] + "*" * min(len(text) - 2 * shown, 8) + text[len(text) - shown :]


def _suspects(texts: list[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """The texts in which something may be found. Asked by the handful: no rule's match holds a line break."""
    for at in range(0, len(texts), _AT_ONCE):
        some = texts[at : at + _AT_ONCE]
        joined = "\n".join([text for text, _ in some])
        if _any_rule().Match(joined if joined.isascii() else unmask_text(joined)):
            yield from some


def _distinct_texts(values: pa.Array) -> list[tuple[str, int]]:
    if pa.types.is_nested(values.type):
        return [("\n".join(turn["content"] for turn in chat), 1) for chat in values.to_pylist() if chat]
    if not (pa.types.is_string(values.type) or pa.types.is_integer(values.type)):
        return []
    if len(values) and pc.count_distinct(values.slice(0, 1024)).as_py() * _SHARED <= min(len(values), 1024):
        counted = pc.value_counts(values)
        pairs = zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True)
        return [(str(value), count) for value, count in pairs if value is not None]
    if pa.types.is_integer(values.type):
        values = values.cast(pa.string())
    return [(value, 1) for value in values.to_pylist() if value]


def _find(rule: TextRule, text: str) -> str | None:
    return next(_all(rule, text), None)


def _all(rule: TextRule, text: str) -> Any:
    for match in _compiled(rule.name).finditer(text):
        number = 1 if match.re.groups and match.group(1) is not None else 0
        start, end = match.span(number)
        for last in (end, *range(end - 1, start + rule.least - 1, -1)) if rule.least else (end,):
            before, after = text[max(0, start - CONTEXT_CHARS) : start], text[last : last + CONTEXT_CHARS]
            if rule.check is None or rule.check(text[start:last], before, after):
                yield text[start:last]
                break


@cache
def _any_rule() -> Any:
    found = re2.Set.SearchSet(_options())
    for rule in RULES:
        found.Add(automaton_pattern(rule))
    found.Compile()
    return found


@cache
def _compiled(name: str) -> Any:
    """The rule alone. Python's own `re` where it can: RE2's matches come through Python code, ten times as slow."""
    pattern = next(rule.pattern for rule in RULES if rule.name == name)
    return re2.compile(pattern, _options()) if r"\p" in pattern else re.compile(pattern)


def _options() -> Any:
    """RE2 with room for large patterns; with its usual 8 MiB it starts anew again and again, and says so each time."""
    options = re2.Options()
    options.max_mem = _MEMORY_BYTES
    options.log_errors = False
    return options

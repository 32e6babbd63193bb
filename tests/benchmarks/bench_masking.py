"""What the built-in rules find in labelled texts, Chinese and English, and what they cost.

    FINMAAS_DATA=folder python tests/benchmarks/bench_masking.py [--out build/bench/masking.json]

Spans count as found when rule, start and end agree. The rules of Chinese texts were written with the patterns of these
texts in view, and the texts are made from 36 templates: other texts will score lower on names and addresses. The rule
for English names was written with the texts of even `template_id` in view; those of odd ones were only counted, so they
tell what to expect.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import timeit
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finmaas_core.text_rules import PERSONAL, RULES
from finmaas_serving.guard.scanner import Scanner
from finmaas_serving.guard.window import TextWindow

ZH = {
    "PERSON": "cn_name", "CN_ID_CARD": "cn_id_card", "MOBILE": "cn_mobile", "BANK_CARD": "bank_card", "EMAIL": "email",
    "ADDRESS": "cn_address", "PASSPORT": "cn_passport", "LICENSE_PLATE": "cn_license_plate", "USCC": "cn_uscc",
    "LANDLINE": "cn_landline", "WECHAT_ID": "wechat_id", "QQ": "qq",
}  # fmt: skip
EN = {
    "PERSON": "en_name", "CREDIT_CARD": "bank_card", "EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone",
    "US_SSN": "us_ssn", "IBAN_CODE": "iban",
}  # fmt: skip
SAME = {"phone_told": "phone"}  # rules that look for one thing
Span = tuple[str, int, int]


def read_texts(folder: Path, template_parity: int | None = None) -> Iterator[tuple[str, str, set[Span]]]:
    """Language, text and labelled spans of both sets; of the English one those of even (0) or odd (1) templates."""
    for row in _rows(folder / "pii_zh_synthetic" / "pii_zh.jsonl"):
        yield "zh", row["text"], {(ZH[span["type"]], span["start"], span["end"]) for span in row["spans"]}
    for row in _rows(folder / "pii_presidio_en" / "pii_en.jsonl"):
        if template_parity is not None and row["template_id"] % 2 != template_parity:
            continue
        spans = row["spans"]
        known = [span for span in spans if span["entity_type"] in EN]
        yield "en", row["text"], {(EN[s["entity_type"]], s["start_position"], s["end_position"]) for s in known}


def measure(folder: Path, template_parity: int | None = None) -> dict[str, Any]:
    """Recall, precision and F1 for each language and rule, and the hits in texts without any labelled span."""
    scanner = Scanner(PERSONAL)
    right, missed, wrong = Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    false_alarms: list[str] = []
    for language, text, labelled in read_texts(folder, template_parity):
        found = {(SAME.get(hit.rule.name, hit.rule.name), hit.start, hit.end) for hit in scanner.find(text)}
        for counter, spans in ((right, found & labelled), (missed, labelled - found), (wrong, found - labelled)):
            counter.update((language, name) for name, _, _ in spans)
        if language == "zh" and not labelled:
            false_alarms += [f"{name}: {text[start:end]}" for name, start, end in found]
    keys = sorted({*right, *missed, *wrong})
    rules = {f"{language}.{name}": _scores(right, missed, wrong, (language, name)) for language, name in keys}
    return {"rules": rules, "zh_hits_in_texts_without_personal_data": false_alarms}


def measure_costs() -> dict[str, float]:
    """Microseconds on clean mixed text: one pass over a KB, and one chunk of a stream."""
    scanner = Scanner(RULES.values())
    text = ("你好，请问这个基金的收益率是多少？ hello world this is fine, 12345 元。" * 14)[:700]
    data = text.encode()

    def stream() -> None:
        window = TextWindow(scanner, lambda hit, found: hit.rule.label)
        for at in range(0, len(text), 3):
            window.feed(text[at : at + 3])
        window.flush()

    once = min(timeit.repeat(lambda: scanner.hits_any(data), number=2000, repeat=5)) / 2000
    chunks = min(timeit.repeat(stream, number=5, repeat=5)) / 5 / (len(text) / 3)
    return {"us_per_kb": round(once * 1e6 / len(data) * 1024, 2), "us_per_streamed_chunk": round(chunks * 1e6, 2)}


def _scores(
    right: Mapping[Any, int], missed: Mapping[Any, int], wrong: Mapping[Any, int], key: tuple[str, str]
) -> dict[str, float]:
    hits = right[key]
    recall = hits / max(1, hits + missed[key])
    precision = hits / max(1, hits + wrong[key])
    f1 = 2 * recall * precision / max(1e-9, recall + precision)
    spans = hits + missed[key]
    return {"spans": spans, "recall": round(recall, 4), "precision": round(precision, 4), "f1": round(f1, 4)}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def main() -> int:
    """Writes the JSON and prints a table."""
    parser = argparse.ArgumentParser(description="What the guardrails find, and what they cost.")
    parser.add_argument("--out", type=Path, default=Path("build/bench/masking.json"))
    given = parser.parse_args()
    folder = os.environ.get("FINMAAS_DATA")
    if not folder:
        print("set FINMAAS_DATA to the folder that holds pii_zh_synthetic and pii_presidio_en", file=sys.stderr)
        return 2
    halves = {half: measure(Path(folder), parity)["rules"]["en.en_name"] for half, parity in (("even", 0), ("odd", 1))}
    report = {**measure(Path(folder)), "costs": measure_costs(), "en_names_by_template": halves}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, scores in report["rules"].items():
        print(f"{name:22} " + "  ".join(f"{key} {value}" for key, value in scores.items()))
    for half, scores in halves.items():
        print(f"en.en_name {half:11} " + "  ".join(f"{key} {value}" for key, value in scores.items()))
    print(report["costs"])
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Makes the demo's data: what customers of a retail bank ask for, in English and Chinese, labelled with the intent.

Written for this project, drawn from no customer. The phrasings stand in `intents_en.txt` and `intents_zh.txt`; this
module draws from them with a seed, fills the slots and adds what real messages have: greetings, an aside about another
matter, typos, a word of the other language. Many intents come in pairs that share their words and differ in who does
what to whom (money sent and money awaited, a limit up or down, fixed to floating and back), as they do at a real bank.

Rows of one phrasing share the value of column `phrasing`: split by it, so that held-back rows are worded as no training
row is. This module does not split.

    python -m finmaas_platform.demo.intents --out intents.csv --rows 8000 --seed 7
"""

from __future__ import annotations

import argparse
import csv
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Literal

from finmaas_core.errors import InvalidInput
from finmaas_platform.demo import intent_noise, intent_slots

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

_ASIDE_SHARE = 0.22  # share of messages that also mention another matter
_INNERMOST = re.compile(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Intent:
    """One intent in one language: how it is mentioned in passing, and the patterns it is put in."""

    label: str
    language: Language
    topic: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Phrasing:
    """A pattern with its choices made; slots are still open. `id` is what rows are grouped by."""

    id: str
    label: str
    language: Language
    template: str


@dataclass(frozen=True)
class IntentRow:
    """One labelled message."""

    text: str
    label: str
    language: Language
    phrasing: str


def generate_rows(rows: int = 8000, seed: int = 7, phrasings_per_pattern: int = 10) -> list[IntentRow]:
    """`rows` distinct messages, evenly over intents and languages; the same arguments give the same rows.

    Raises InvalidInput when `rows` is smaller than the number of intents and languages, or below one per pattern.
    """
    rng = random.Random(seed)  # noqa: S311 - reproducible text, nothing secret
    intents = [intent for language in LANGUAGES for intent in load_intents(language)]
    if rows < len(intents) or phrasings_per_pattern < 1:
        raise InvalidInput(f"cannot make {rows} rows of {len(intents)} intents; ask for at least {len(intents)} rows")
    topics = {language: [i for i in intents if i.language == language] for language in LANGUAGES}
    made: list[IntentRow] = []
    seen: set[str] = set()
    for number, intent in enumerate(intents):
        wanted = rows * (number + 1) // len(intents) - rows * number // len(intents)
        messages = _messages_of(intent, topics[intent.language], phrasings_per_pattern, rng)
        while wanted:
            row = next(messages)
            if row.text not in seen:
                seen.add(row.text)
                made.append(row)
                wanted -= 1
    rng.shuffle(made)
    return made


def load_intents(language: Language) -> list[Intent]:
    """The intents of a language in the order of its file."""
    text = resources.files("finmaas_platform.demo").joinpath(f"intents_{language}.txt").read_text(encoding="utf-8")
    intents: list[Intent] = []
    for block in text.split("\n# ")[1:]:
        head, *lines = block.splitlines()
        label, _, topic = head.partition(" | ")
        if not topic:
            continue  # the comment at the top of the file
        patterns = tuple(line for line in lines if line.strip())
        intents.append(Intent(label.strip(), language, topic.strip(), patterns))
    return intents


def phrasings_of(intent: Intent, per_pattern: int, rng: random.Random) -> list[Phrasing]:
    """Up to `per_pattern` different wordings of every pattern."""
    found: list[Phrasing] = []
    for number, pattern in enumerate(intent.patterns):
        wordings: dict[str, None] = {}
        for _ in range(per_pattern * 4):
            wordings[choose_wording(pattern, rng)] = None
        for variant, template in enumerate(list(wordings)[:per_pattern]):
            name = f"{intent.language}/{intent.label}/{number}.{variant}"
            found.append(Phrasing(name, intent.label, intent.language, template))
    return found


def choose_wording(pattern: str, rng: random.Random) -> str:
    """Make every choice of a pattern, innermost first: (a|b) takes one, [a] stays or goes."""

    def choose(match: re.Match[str]) -> str:
        if match.group(1) is not None:
            return str(rng.choice(match.group(1).split("|")))
        return str(match.group(2)) if rng.random() < 0.5 else ""

    while _INNERMOST.search(pattern):
        pattern = _INNERMOST.sub(choose, pattern)
    return re.sub(r" +([,.?])", r"\1", re.sub(r" {2,}", " ", pattern)).strip()


def fill_slots(template: str, language: Language, rng: random.Random) -> str:
    """Put a value into every slot; a slot that occurs twice gets one value, and {low} is always below {high}."""
    values = intent_slots.draw(language, rng)
    return _SLOT.sub(lambda match: values[match.group(1)], template)


def _messages_of(intent: Intent, others: Sequence[Intent], per_pattern: int, rng: random.Random) -> Iterator[IntentRow]:
    """Endless messages of one intent, going round its phrasings."""
    phrasings = phrasings_of(intent, per_pattern, rng)
    elsewhere = [other.topic for other in others if other.label != intent.label]
    while True:
        rng.shuffle(phrasings)
        for phrasing in phrasings:
            text = fill_slots(phrasing.template, phrasing.language, rng)
            if rng.random() < _ASIDE_SHARE:
                text = intent_noise.add_aside(text, rng.choice(elsewhere), phrasing.language, rng)
            text = intent_noise.roughen(text, phrasing.language, rng)
            yield IntentRow(text, phrasing.label, phrasing.language, phrasing.id)


def write_csv(rows: Sequence[IntentRow], out: Path) -> None:
    """Write the rows as UTF-8 CSV with the columns of IntentRow."""
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(IntentRow)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description="Make the demo's bank intent data.")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args(arguments)
    write_csv(generate_rows(given.rows, given.seed), given.out)


if __name__ == "__main__":
    main()

"""Makes the demo's data: what customers of a retail bank ask for, in English and Chinese, labelled with the intent.

Written for this project, drawn from no customer. The phrasings stand in `intents_en.txt` and `intents_zh.txt`; this
module draws from them with a seed, fills the slots and adds what real messages have: greetings, another matter told
beside the request, typos, a word of the other language. Many intents come in pairs that share their words and differ in
who does what to whom (money sent and money awaited, a limit up or down, fixed to floating and back).

How many messages tell two matters is a choice, not a measurement, and it decides how hard the data is for a model that
counts words: TF-IDF reached 0.946 of the validation rows without messages that tell two matters in full, and 0.840 with
them, where the fine-tuned small base reaches 0.868 (without them 0.898). See `docs/benchmarks-demo.md`.

Rows of one phrasing share the value of column `phrasing`: split by it, so that held-back requests are worded as no
request or mention in a training row is. The frames around two matters occur in all splits. This module does not split.

    python -m finmaas_platform.demo.intents --out intents.csv --rows 10000 --seed 7
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

_TWO_MATTERS_SHARE = 0.3  # share of messages that also tell another matter in full
_ASIDE_SHARE = 0.1  # share of messages that name another matter in passing
_MENTIONS_PER_PATTERN = 6
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


def generate_rows(rows: int = 18_000, seed: int = 7, phrasings_per_pattern: int = 10) -> list[IntentRow]:
    """`rows` distinct messages, evenly over intents and languages; the same arguments give the same rows.

    Raises InvalidInput when `rows` is smaller than the number of intents and languages, or below one per pattern.
    """
    rng = random.Random(seed)  # noqa: S311 - reproducible text, nothing secret
    intents = [intent for language in LANGUAGES for intent in load_intents(language)]
    if rows < len(intents) or phrasings_per_pattern < 1:
        raise InvalidInput(f"cannot make {rows} rows of {len(intents)} intents; ask for at least {len(intents)} rows")
    worded = [(intent, *phrasings_of(intent, phrasings_per_pattern, rng)) for intent in intents]
    made: list[IntentRow] = []
    seen: set[str] = set()
    for number, (intent, phrasings, _) in enumerate(worded):
        wanted = rows * (number + 1) // len(intents) - rows * number // len(intents)
        others = [
            (other, wording)
            for other, _, mentioned in worded
            if other.language == intent.language and other.label != intent.label
            for wording in mentioned
        ]
        for phrasing in _go_round(phrasings, rng):
            text = _write_message(phrasing, others, rng)
            if text not in seen:
                seen.add(text)
                made.append(IntentRow(text, phrasing.label, phrasing.language, phrasing.id))
                wanted -= 1
            if not wanted:
                break
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


def phrasings_of(intent: Intent, per_pattern: int, rng: random.Random) -> tuple[list[Phrasing], list[str]]:
    """Up to `per_pattern` wordings of every pattern to ask in, and further ones for mentioning the matter.

    No wording is in both, so that mentions tell nothing of the wordings that are held back.
    """
    asked: list[Phrasing] = []
    mentioned: list[str] = []
    for number, pattern in enumerate(intent.patterns):
        wordings = list(dict.fromkeys(choose_wording(pattern, rng) for _ in range(per_pattern * 6)))
        kept = min(per_pattern, len(wordings) - 1)
        for variant, template in enumerate(wordings[:kept]):
            name = f"{intent.language}/{intent.label}/{number}.{variant}"
            asked.append(Phrasing(name, intent.label, intent.language, template))
        mentioned.extend(wordings[kept : kept + _MENTIONS_PER_PATTERN])
    return asked, mentioned


def choose_wording(pattern: str, rng: random.Random) -> str:
    """Make every choice of a pattern, innermost first: (a|b) takes one, [a] stays or goes."""

    def choose(match: re.Match[str]) -> str:
        if match.group(1) is not None:
            return str(rng.choice(match.group(1).split("|")))
        return str(match.group(2)) if rng.random() < 0.5 else ""

    while _INNERMOST.search(pattern):
        pattern = _INNERMOST.sub(choose, pattern)
    return re.sub(r" +([,.?])", r"\1", re.sub(r" {2,}", " ", pattern)).strip()


def fill_slots(template: str, language: Language, rng: random.Random, **given: str) -> str:
    """Put a value into every slot; a slot that occurs twice gets one value, and {low} is always below {high}.

    `given` are further slots with their values, which are put in as they are.
    """
    values = {**intent_slots.draw(language, rng), **given}
    return _SLOT.sub(lambda match: values[match.group(1)], template)


def _write_message(phrasing: Phrasing, others: Sequence[tuple[Intent, str]], rng: random.Random) -> str:
    """A message in that phrasing; `others` are other intents with a wording to mention each in."""
    language = phrasing.language
    text = fill_slots(phrasing.template, language, rng)
    other, wording = rng.choice(others)
    style = rng.random()
    if style < _TWO_MATTERS_SHARE:
        frame = choose_wording(intent_noise.choose_two_matters(language, rng), rng)
        text = fill_slots(frame, language, rng, request=text, other=fill_slots(wording, language, rng))
    elif style < _TWO_MATTERS_SHARE + _ASIDE_SHARE:
        text = intent_noise.add_aside(text, other.topic, language, rng)
    return intent_noise.roughen(text, language, rng)


def _go_round(phrasings: Sequence[Phrasing], rng: random.Random) -> Iterator[Phrasing]:
    """All phrasings in random order, again and again."""
    order = list(phrasings)
    while True:
        rng.shuffle(order)
        yield from order


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
    parser.add_argument("--rows", type=int, default=18_000)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args(arguments)
    write_csv(generate_rows(given.rows, given.seed), given.out)


if __name__ == "__main__":
    main()

"""The demo's intent data: seeded, balanced, every pattern well formed."""

from __future__ import annotations

import csv
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from finmaas_core.errors import InvalidInput
from finmaas_platform.demo.intent_noise import choose_two_matters
from finmaas_platform.demo.intents import (
    LANGUAGES,
    choose_wording,
    fill_slots,
    generate_rows,
    load_intents,
    main,
    phrasings_of,
)

ALL = [intent for language in LANGUAGES for intent in load_intents(language)]


class TestLoadIntents:
    def test_both_languages_hold_the_same_intents(self) -> None:
        english, chinese = ([intent.label for intent in load_intents(language)] for language in LANGUAGES)
        assert english == chinese
        assert len(set(english)) == len(english) == 40

    @pytest.mark.parametrize("intent", ALL, ids=lambda intent: f"{intent.language}-{intent.label}")
    def test_every_wording_of_every_pattern_comes_out_clean(self, intent) -> None:
        rng = random.Random(1)
        assert len(intent.patterns) >= 5
        for pattern in intent.patterns:
            for _ in range(20):
                text = fill_slots(choose_wording(pattern, rng), intent.language, rng)
                assert not re.search(r"[()\[\]{}|]|  | ,|^ | $", text), (pattern, text)


class TestChooseWording:
    def test_choices_are_taken_and_options_stay_or_go(self) -> None:
        rng = random.Random(0)
        wordings = {choose_wording("(my|the [new]) {card} [please], now", rng) for _ in range(200)}
        assert wordings == {
            f"{start} {{card}}{end}, now" for start in ("my", "the", "the new") for end in ("", " please")
        }


class TestFillSlots:
    def test_low_is_below_high_and_a_slot_has_one_value(self) -> None:
        rng = random.Random(3)
        for _ in range(200):
            low, high, shop, again = fill_slots("{low}|{high}|{shop}|{shop}", "en", rng).split("|")
            assert _number(low) < _number(high)
            assert shop == again

    def test_further_slots_are_put_in_as_they_are(self) -> None:
        text = fill_slots("{other}. {request}", "en", random.Random(1), other="a {card}", request="b")
        assert text == "a {card}. b"


class TestPhrasingsOf:
    @pytest.mark.parametrize("intent", ALL, ids=lambda intent: f"{intent.language}-{intent.label}")
    def test_no_wording_is_both_asked_and_mentioned(self, intent) -> None:
        asked, mentioned = phrasings_of(intent, 10, random.Random(1))
        assert len({phrasing.id for phrasing in asked}) == len(asked)
        assert not {phrasing.template for phrasing in asked} & set(mentioned)
        assert mentioned


class TestTwoMatters:
    @pytest.mark.parametrize("language", LANGUAGES)
    def test_every_frame_holds_the_request_and_the_other_matter_once(self, language) -> None:
        rng = random.Random(2)
        for _ in range(300):
            frame = choose_wording(choose_two_matters(language, rng), rng)
            text = fill_slots(frame, language, rng, request="<wanted>", other="<told>")
            assert text.count("<wanted>") == text.count("<told>") == 1
            assert not re.search(r"[()|{}\[\]]|  | ,", text), text


class TestGenerateRows:
    def test_the_seed_decides_everything(self) -> None:
        assert generate_rows(800, seed=5) == generate_rows(800, seed=5)
        assert generate_rows(800, seed=5) != generate_rows(800, seed=6)

    def test_intents_and_languages_are_even_and_texts_distinct(self) -> None:
        rows = generate_rows()
        counts = Counter((row.label, row.language) for row in rows)
        assert len(rows) == len({row.text for row in rows})
        assert len(counts) == len(ALL)
        assert max(counts.values()) - min(counts.values()) <= 1

    def test_a_phrasing_belongs_to_one_intent_and_has_few_rows(self) -> None:
        labels = defaultdict(set)
        for row in generate_rows():
            labels[row.phrasing].add((row.label, row.language))
        assert all(len(owners) == 1 for owners in labels.values())
        assert len(labels) > 2900

    def test_no_text_is_asked_of_two_intents(self) -> None:
        """Templates of different intents never coincide: a label must follow from the text."""
        rng = random.Random(2)
        owners = defaultdict(set)
        for intent in ALL:
            for pattern in intent.patterns:
                for _ in range(60):
                    owners[choose_wording(pattern, rng)].add(intent.label)
        assert {text: labels for text, labels in owners.items() if len(labels) > 1} == {}

    def test_too_few_rows_are_refused(self) -> None:
        with pytest.raises(InvalidInput, match="at least 80"):
            generate_rows(10)


class TestMain:
    def test_writes_a_csv_that_reads_back(self, tmp_path: Path) -> None:
        main(["--out", str(tmp_path / "intents.csv"), "--rows", "160", "--seed", "3"])
        with (tmp_path / "intents.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [tuple(row.values()) for row in rows] == [
            (row.text, row.label, row.language, row.phrasing) for row in generate_rows(160, 3)
        ]


def _number(text: str) -> int:
    return int(text.replace(",", "").replace("k", "000"))

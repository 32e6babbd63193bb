from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rensa
from hypothesis import given, settings
from hypothesis import strategies as st

from finmaas_registry.import_report import find_leakage
from finmaas_registry.reports.minhash import PERMUTATIONS, make_signatures
from finmaas_registry.reports.near_duplicates import THRESHOLD, find_near_duplicates, write_sketch
from finmaas_registry.reports.shingles import CHUNK_BYTES, hash_word_pairs
from finmaas_registry.splits import normalise_text

WORDS = [f"w{number}" for number in range(3000)]


def words_of(text: str) -> list[str]:
    """The definition, in plain Python."""
    words: list[str] = []
    last = ""
    for char in text:
        if char.isascii() and char.isalnum() and last.isascii() and last.isalnum() and last:
            words[-1] += char
        elif not char.isascii() or char.isalnum():
            words.append(char)
        last = char
    return words


def pairs_of(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words)} if len(words) == 1 else set(itertools.pairwise(words))


def jaccard(one: str, other: str) -> float:
    a, b = pairs_of(one), pairs_of(other)
    return len(a & b) / len(a | b) if a | b else 0.0


class TestHashWordPairs:
    @settings(deadline=None)
    @given(st.lists(st.text(st.sampled_from("ab1 .,余额é\U0001f600"), max_size=12), min_size=1, max_size=8))
    def test_equal_pairs_and_only_those_have_equal_hashes(self, texts: list[str]) -> None:
        found = hash_word_pairs(pa.array(texts, pa.string()))
        by_pair: dict[tuple[str, ...], set[int]] = {}
        for row, text in enumerate(texts):
            hashes = found.values[found.offsets[row] : found.offsets[row + 1]].tolist()
            words = words_of(text)
            pairs = [tuple(words)] if len(words) == 1 else list(itertools.pairwise(words))
            for pair, value in zip(pairs, hashes, strict=True):
                by_pair.setdefault(pair, set()).add(value)
        assert all(len(values) == 1 for values in by_pair.values())
        assert len({next(iter(values)) for values in by_pair.values()}) == len(by_pair)

    def test_a_slice_and_a_text_longer_than_a_chunk(self) -> None:
        long = " ".join(WORDS * 20)
        assert len(long) > CHUNK_BYTES
        texts = pa.array(["skipped", "one two", long, "one two"])
        found = hash_word_pairs(texts.slice(1))
        assert found.counts.tolist() == [1, len(WORDS) * 20 - 1, 1]
        assert found.values[0] == found.values[-1]


class TestMakeSignatures:
    def test_estimates_are_as_close_as_those_of_rensa(self) -> None:
        rng = random.Random(5)
        errors: dict[str, list[float]] = {"ours": [], "rensa": []}
        for _ in range(300):
            words = rng.sample(WORDS, 40)
            other = [word if rng.random() < 0.9 else rng.choice(WORDS) for word in words]
            texts = [" ".join(words), " ".join(other)]
            exact = jaccard(*texts)
            signatures = make_signatures(hash_word_pairs(pa.array(texts)))
            errors["ours"].append(float((signatures[:, 0] == signatures[:, 1]).mean()) - exact)
            tokens = [[" ".join(pair) for pair in pairs_of(text)] for text in texts]
            one, two = rensa.RMinHash.digests_from_token_sets(tokens, PERMUTATIONS, 42)
            errors["rensa"].append(float((np.array(one) == np.array(two)).mean()) - exact)
        assert abs(float(np.mean(errors["ours"]))) < 0.01
        assert float(np.std(errors["ours"])) < 1.5 * float(np.std(errors["rensa"])) < 0.1


class TestFindNearDuplicates:
    def plant(self, tmp_path: Path) -> tuple[list[str], list[Path], list[tuple[int, int]]]:
        """Random texts, and copies of some with a word or a character changed, over several blocks."""
        rng = random.Random(11)
        han = [chr(code) for code in range(0x4E00, 0x4E00 + 2500)]
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(8, 60))) for _ in range(4000)]
        texts += ["".join(rng.choices(han, k=rng.randint(12, 80))) for _ in range(2000)]
        planted = []
        for at in rng.sample(range(len(texts)), 1500):
            parts = texts[at].split() if " " in texts[at] else list(texts[at])
            for _ in range(rng.randint(0, 3)):
                parts[rng.randrange(len(parts))] = rng.choice(WORDS if " " in texts[at] else han)
            planted.append((at, len(texts)))
            texts.append((" " if " " in texts[at] else "").join(parts))
        paths = []
        for start in range(0, len(texts), 1000):
            paths.append(tmp_path / f"{start}.sketch")
            write_sketch(pa.array(texts[start : start + 1000]), paths[-1])
        return texts, paths, planted

    def test_recall_and_precision_on_planted_pairs(self, tmp_path: Path) -> None:
        texts, paths, planted = self.plant(tmp_path)
        found = find_near_duplicates(paths)
        near = {pair for pair in planted if jaccard(texts[pair[0]], texts[pair[1]]) >= THRESHOLD}
        assert len(near) > 500
        recalled = sum(bool(found.labels[one] == found.labels[other]) for one, other in near)
        assert recalled / len(near) > 0.995
        # The copies are of distinct texts, so a group is a text and its copy: each pair that was told is exact.
        told = [tuple(group.tolist()) for group in found.groups()]
        assert all(len(group) == 2 and jaccard(texts[group[0]], texts[group[1]]) >= THRESHOLD for group in told)
        assert found.is_complete

    def test_says_when_it_could_not_compare_all(self, tmp_path: Path) -> None:
        _, paths, _ = self.plant(tmp_path)
        assert not find_near_duplicates(paths, max_compared=10).is_complete

    def test_chains_are_one_group_and_empty_texts_none(self, tmp_path: Path) -> None:
        base = [f"word{number}" for number in range(40)]
        chain = [" ".join(base[:at] + ["x"] * 0 + base[at + 1 :]) for at in range(5)]
        write_sketch(pa.array(["", "...", *chain, "", "another text altogether"]), tmp_path / "one")
        groups = find_near_duplicates([tmp_path / "one"]).groups()
        assert [group.tolist() for group in groups] == [[2, 3, 4, 5, 6]]


class TestFindLeakage:
    @pytest.mark.parametrize(
        ("splits", "expected"),
        [
            ([0, 0, 0, 0], {"train_validation": 0, "train_test": 0, "validation_test": 0}),
            ([0, 2, 1, 0], {"train_validation": 1, "train_test": 1, "validation_test": 0}),
            ([0, 1, 2, 2], {"train_validation": 1, "train_test": 0, "validation_test": 0}),
            ([1, 2, 0, 2], {"train_validation": 0, "train_test": 1, "validation_test": 1}),
        ],
    )
    def test_counts_rows_with_a_near_one_in_another_split(
        self, tmp_path: Path, splits: list[int], expected: dict[str, int]
    ) -> None:
        texts = ["one two three four", "one two three four", "five six seven", "five six seven"]
        texts = [normalise_text(text) for text in texts]
        write_sketch(pa.array(texts), tmp_path / "one")
        near = find_near_duplicates([tmp_path / "one"])
        found = find_leakage(near, np.array(splits, np.uint8), np.arange(4) + 2)
        assert {pair: part["rows"] for pair, part in found.items()} == expected

"""What a model must beat to be worth its cost: the majority class, and TF-IDF with a linear classifier.

The second is meant to be strong. Words and word pairs serve languages with spaces; character n-grams serve Chinese,
which has none, and forgive typos.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.svm import LinearSVC

_WORD = r"(?u)\b\w+\b"  # single letters count: "I" tells who did it
MAX_TRAINING_ROWS = 100_000  # a linear model has learned what it can long before; more only takes memory
MAX_CHARACTER_FEATURES = 300_000


def answer_majority(train_labels: Sequence[str], rows: int) -> list[str]:
    """The most frequent training label for every row (the first in the alphabet of those equally frequent)."""
    counts = Counter(train_labels)
    best = min(counts, key=lambda label: (-counts[label], label))
    return [best] * rows


def answer_tfidf(
    train_texts: Sequence[str], train_labels: Sequence[str], texts: Sequence[str], seed: int = 17
) -> list[str]:
    """Labels for `texts` by a linear support-vector classifier fitted on the training rows."""
    if len(set(train_labels)) < 2:
        return answer_majority(train_labels, len(texts))
    chosen: Sequence[int] = range(len(train_texts))
    if len(train_texts) > MAX_TRAINING_ROWS:
        chosen = sorted(random.Random(seed).sample(chosen, MAX_TRAINING_ROWS))  # noqa: S311 - nothing secret
    model = new_tfidf_classifier(seed)
    model.fit([train_texts[i] for i in chosen], [train_labels[i] for i in chosen])
    answers: list[Any] = model.predict(list(texts)).tolist()
    return [str(answer) for answer in answers]


def new_tfidf_classifier(seed: int) -> Pipeline:
    """Word 1-2-grams and character 1-5-grams, both sublinear, into LinearSVC."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORD)
    characters = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True, max_features=MAX_CHARACTER_FEATURES
    )
    return make_pipeline(make_union(words, characters), LinearSVC(C=1.0, random_state=seed))

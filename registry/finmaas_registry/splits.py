"""Which split a row belongs to: a stable hash of its group decides, so a row stays where it is in every version.

Rows of one group never part. By default the group is the normalised text, so copies that differ in case, width or
spacing cannot leak from train into test. Pure.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finmaas_core.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SPLITS = ("train", "validation", "test")
_SPAN = 1 << 64


@dataclass(frozen=True)
class Fractions:
    """The share of groups that each split gets; they add up to 1."""

    train: float = 0.8
    validation: float = 0.1
    test: float = 0.1

    @property
    def bounds(self) -> tuple[int, int]:
        """Hashes below the first go to train, below the second to validation, the rest to test."""
        first = round(self.train * _SPAN)
        # A test share of nothing must be nothing, whatever the rounding of a sum of floats.
        second = _SPAN if self.test == 0 else round((self.train + self.validation) * _SPAN)
        return first, second

    def of(self, split: str) -> float:
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]


def parse_fractions(text: str) -> Fractions:
    """`0.8,0.1,0.1` as fractions of train, validation and test. Raises InvalidInput unless they add up to 1."""
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        parts = []
    if len(parts) != 3 or not all(0 <= part <= 1 for part in parts) or not math.isclose(sum(parts), 1, abs_tol=1e-6):
        raise InvalidInput(
            f"the splits {text[:80]!r} are not three fractions that add up to 1; give train,validation,test such as "
            "0.8,0.1,0.1"
        )
    if parts[0] == 0:
        raise InvalidInput(f"the splits {text[:80]!r} leave nothing to train on; give train a share above 0")
    return Fractions(*parts)


def normalise_text(text: str) -> str:
    """The text as a group key: compatibility forms (NFKC) and case folded, runs of white space one blank."""
    if text.isascii():
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def hash_group(key: str) -> str:
    """64 bits of BLAKE2b of a group's key, as 16 hex digits."""
    return hash_key(key).hex()


def hash_key(key: str) -> bytes:
    """The same, as 8 bytes."""
    return hashlib.blake2b(key.encode(), digest_size=8).digest()


def choose_splits(groups: npt.NDArray[np.uint64], bounds: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """For each group's hash the index into SPLITS."""
    import numpy as np  # the control plane imports this module at its start, where numpy would take a while

    first, second = (_is_below(groups, bound) for bound in bounds)
    return np.where(first, 0, np.where(second, 1, 2)).astype(np.uint8)


def _is_below(groups: npt.NDArray[np.uint64], bound: int) -> npt.NDArray[np.bool_]:
    import numpy as np

    return np.ones(len(groups), bool) if bound >= _SPAN else groups < np.uint64(bound)

"""A text that arrives in pieces, screened as if it were whole: only what may still grow into a match is held back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from finmaas_core.text_rules import CONTEXT_CHARS, unmask_text
from finmaas_serving.guard.scanner import Hit, Scanner

LOOKAHEAD_CHARS: Final = 2
"""How much text after a match decides whether it holds (checks look at a point and the digit behind it)."""

Replace = Callable[[Hit, str], str]
"""What stands in place of a match; raises to refuse the text."""


class TextWindow:
    """`feed` pieces, then `flush`: what they give, joined, is what `replace_all` gives for the whole text."""

    __slots__ = ("_before", "_held", "_replace", "_runs", "_scanner")

    def __init__(self, scanner: Scanner, replace: Replace) -> None:
        self._scanner = scanner
        self._replace = replace
        self._held = ""
        self._runs: Sequence[int] = ()  # how far the text has run in each rule's alphabet
        self._before = ""  # the last of what was let go, as it came

    def feed(self, piece: str) -> str:
        """What can be let go now."""
        text = self._join(piece)
        if not text:
            return ""
        held = self._held
        if text.startswith(held):
            self._runs, reach = self._scanner.extend(self._runs, text[len(held) :])
        else:  # a disguise went from what was held
            self._runs, reach = self._scanner.extend((), text)
        return self._let_go(text, max(0, len(text) - reach), LOOKAHEAD_CHARS)

    def flush(self) -> str:
        """The rest, when no more comes."""
        return self._let_go(self._held, len(self._held), 0)

    def _join(self, piece: str) -> str:
        """The held text and a new piece, without disguises; the character before tells whether one is a disguise."""
        last = self._before[-1:]
        return unmask_text(last + self._held + piece)[len(last) :]

    def _let_go(self, text: str, cut: int, lookahead: int) -> str:
        if not self._scanner.hits_any((self._before + text).encode(errors="surrogatepass")):  # a cue may be let go
            self._keep(text, cut)
            return text[:cut]
        parts: list[str] = []
        done = 0
        hits = self._scanner.find(text, self._before)
        for place, hit in enumerate(hits):
            if hit.begins >= cut or hit.end + lookahead > len(text):
                cut = min(cut, *(later.begins for later in hits[place:]))
                break
            parts += (text[done : hit.start], self._replace(hit, text[hit.start : hit.end]))
            done = hit.end
        cut = max(cut, done)
        parts.append(text[done:cut])
        self._keep(text, cut)
        return "".join(parts)

    def _keep(self, text: str, cut: int) -> None:
        self._held = text[cut:]
        if cut:
            self._before = (self._before + text[:cut])[-CONTEXT_CHARS:]


def replace_all(scanner: Scanner, text: str, replace: Replace) -> str:
    """The whole text with its matches replaced; the same object when there is none."""
    if not scanner.hits_any(text.encode(errors="surrogatepass")):
        return text
    window = TextWindow(scanner, replace)
    return window.feed(text) + window.flush()


def tell_number(value: float) -> str:
    """A number as rules read it: without the point and the exponent that JSON may write it with."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)

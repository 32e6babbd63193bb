"""Finds the matches of many rules in one pass: one RE2 set says which rules hit at all, and only those are located.

Clean text costs that one pass. The result does not depend on where a scan begins, as long as it does not begin inside a
match: after a candidate that fails its check, the search goes on one character later. Streams rest on that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import re2

from finmaas_core.errors import InvalidInput
from finmaas_core.text_rules import CONTEXT_CHARS, DISGUISED, TextRule, automaton_pattern

MAX_RULE_LENGTH: Final = 1000
MAX_LEARNT: Final = 20_000
MAX_KEPT_CHARS: Final = 64  # of a piece whose measure is kept
NOT_PLAIN_JSON: Final = r'\\|"tool_calls"|"reasoning|"refusal":"|logprobs":[{\[]|token_ids":\['
_WORD: Final = re.compile(rb"[0-9A-Za-z]*")


class Hit(NamedTuple):
    """What a rule found, in characters of the text; `begins` is where its context begins, `order` counts the rules."""

    start: int
    end: int
    begins: int
    order: int
    rule: TextRule


@dataclass(frozen=True, slots=True)
class _Located:
    """A rule and its own automaton."""

    order: int
    rule: TextRule
    regex: re2._Regexp
    has_group: bool


class Scanner:
    """The rules of one policy and direction, compiled once; safe to share."""

    def __init__(self, rules: Iterable[TextRule]) -> None:
        """InvalidInput names the rule whose pattern RE2 does not take."""
        self.rules: Sequence[TextRule] = tuple(rules)
        self._located = [_compile(rule, order) for order, rule in enumerate(self.rules)]
        patterns = [automaton_pattern(rule) for rule in self.rules]
        self._set = compile_set([*patterns, DISGUISED])  # its index is beyond those of the rules
        self._json_set = compile_set([*patterns, DISGUISED, NOT_PLAIN_JSON])
        self._tails = _Tails(self.rules)

    def hits_any(self, text: bytes) -> bool:
        """Whether some rule may match in UTF-8 text, or a disguise is in it; True may still come to nothing."""
        return bool(self.rules) and bool(self._set.Match(text))

    def is_plain(self, body: bytes) -> bool:
        """Whether JSON shows by its bytes alone that no rule matches in any of its strings.

        Without a backslash every string stands in the body as it reads, so a body in which no rule matches holds no
        string in which one does. Parts of answers other than their text count as not plain.
        """
        return not self._json_set.Match(body)

    def find(self, text: str, before: str = "", after: str = "") -> list[Hit]:
        """Matches from left to right; of those that overlap the one that begins first, is longest, has the first rule.

        `before` and `after` stand around the text: checks and hints see them, matches do not reach into them.
        """
        data = text.encode(errors="surrogatepass")
        seen = before.encode(errors="surrogatepass") + data if before else data
        indexes = [index for index in self._set.Match(seen) or () if index < len(self._located)]
        if not indexes:
            return []
        found: list[Hit] = []
        for index in indexes:
            found += _locate(self._located[index], data, before, after)
        return _in_characters(data, _drop_overlaps(found))

    def extend(self, runs: Sequence[int], piece: str) -> tuple[list[int], int]:
        """A growing text goes on with a piece: how far back from its end may become part of a match.

        `runs` is what the piece before gave, empty at the beginning.
        """
        return self._tails.extend(runs, piece)


def check_pattern(rule: TextRule) -> None:
    """Whether a rule of a user's can be used. InvalidInput says which and why."""
    if not 1 <= rule.max_length <= MAX_RULE_LENGTH:
        raise InvalidInput(
            f"rule {rule.name}: max_length is {rule.max_length}; give the longest match, 1 to {MAX_RULE_LENGTH}"
        )
    regex = _compile(rule).regex
    if regex.search("") is not None:
        raise InvalidInput(f"rule {rule.name}: the pattern matches the empty text, so it would match everywhere")
    _Tails([rule])


def _locate(located: _Located, data: bytes, before: str, after: str) -> list[Hit]:
    """The hits of one rule, in bytes of the text."""
    found = []
    at = 0
    rule = located.rule
    while at < len(data) and (match := located.regex.search(data, at)) is not None:
        start, end = match.span(1) if located.has_group and match.group(1) is not None else match.span()
        end = _checked_end(rule, data, start, end, before, after)
        if end > start:
            found.append(Hit(start, end, match.start(), located.order, rule))
            at = end
        else:
            at = match.start() + 1
            if rule.begins_word:  # nothing can begin in the middle of a word, and long words must not cost their square
                at = max(at, _WORD.match(data, match.start()).end())  # type: ignore[union-attr]
    return found


def _checked_end(rule: TextRule, data: bytes, start: int, end: int, before: str, after: str) -> int:
    """The end of a match that holds; when the check fails, shorter ends are tried. `start` when none holds."""
    if rule.check is None:
        return end
    left = _decode(data[max(0, start - 4 * CONTEXT_CHARS) : start])
    left = (before + left)[-CONTEXT_CHARS:] if start < 4 * CONTEXT_CHARS else left[-CONTEXT_CHARS:]
    found = _decode(data[start:end])
    while found:
        end = start + len(found.encode(errors="surrogatepass"))
        right = _decode(data[end : end + 4 * CONTEXT_CHARS])[:CONTEXT_CHARS] or after
        if rule.check(found, left, right):
            return end
        if rule.least:
            found = found[:-1] if len(found) > rule.least else ""
        else:
            found = found[: max(found.rfind(" "), found.rfind("-"), 0)]
    return start


def _decode(data: bytes) -> str:
    """Text that may be cut in the middle of a character at either end; such pieces are left out."""
    return data.decode(errors="ignore")


def _in_characters(data: bytes, hits: list[Hit]) -> list[Hit]:
    """Hits that count bytes as hits that count characters."""
    out, at, chars = [], 0, 0
    for hit in hits:
        chars += _length(data[at : hit.start])
        size = _length(data[hit.start : hit.end])
        context = _length(data[hit.begins : hit.start])
        out.append(Hit(chars, chars + size, chars - context, hit.order, hit.rule))
        at, chars = hit.end, chars + size
    return out


def _length(data: bytes) -> int:
    return len(data.decode(errors="surrogatepass"))


def _drop_overlaps(found: list[Hit]) -> list[Hit]:
    if len(found) < 2:
        return found
    found.sort(key=lambda hit: (hit.start, -hit.end, hit.order))
    kept = [found[0]]
    for hit in found[1:]:
        if hit.start >= kept[-1].end:
            kept.append(hit)
    return kept


def _compile(rule: TextRule, order: int = 0) -> _Located:
    try:
        regex = re2.compile(rule.pattern, _options())
    except re2.error as error:
        raise InvalidInput(f"rule {rule.name}: the pattern cannot be used ({error}); it must be RE2 syntax") from None
    return _Located(order, rule, regex, regex.groups > 0)


_Piece = tuple[tuple[int, ...], list[int], int]
"""Alphabets that hold all of a piece; by alphabet, how far its end runs in one that does not; how far those reach."""


class _Tails:
    """Alphabets of rules and the longest match of each: how far the end of a growing text may belong to a match.

    A match over an alphabet reaches back as far as the text has run in that alphabet, and no farther than its longest.
    What a piece does to those runs is found once: engines say the same pieces again and again.
    """

    def __init__(self, rules: Sequence[TextRule]) -> None:
        longest: dict[str, int] = {}
        for rule in rules:
            longest[rule.alphabet] = max(rule.max_length, longest.get(rule.alphabet, 0))
        self._classes = [_compile_class(alphabet, rules) for alphabet in longest]
        self._longest = [*longest.values()]
        self._masks: dict[str, int] = {}
        self._pieces: dict[str, _Piece] = {}

    def extend(self, runs: Sequence[int], piece: str) -> tuple[list[int], int]:
        known = self._pieces.get(piece)
        whole, within, reach = known if known is not None else self._measure(piece)
        after = within.copy()
        longest, size = self._longest, len(piece)
        for at in whole:
            run = after[at] = (runs[at] if runs else 0) + size
            if reach < run:
                reach = max(reach, min(run, longest[at]))
        return after, reach

    def _measure(self, piece: str) -> _Piece:
        within = [0] * len(self._classes)
        alive = (1 << len(within)) - 1
        for run, char in enumerate(reversed(piece)):
            mask = self._masks.get(char)
            if mask is None:
                mask = self._learn(char)
            for at in _bits(alive & ~mask):
                within[at] = run
            alive &= mask
        found = tuple(_bits(alive)), within, max(map(min, within, self._longest), default=0)
        if len(piece) <= MAX_KEPT_CHARS:
            if len(self._pieces) >= MAX_LEARNT:
                self._pieces.clear()
            self._pieces[piece] = found
        return found

    def _learn(self, char: str) -> int:
        if len(self._masks) >= MAX_LEARNT:
            self._masks.clear()
        mask = sum(1 << bit for bit, one in enumerate(self._classes) if one.fullmatch(char) is not None)
        self._masks[char] = mask
        return mask


def _bits(number: int) -> Iterator[int]:
    """The places of the ones, lowest first."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def compile_set(patterns: Sequence[str]) -> re2.Set:
    """One automaton over patterns that we wrote or have checked."""
    compiled = re2.Set.SearchSet(_options())
    for pattern in patterns:
        compiled.Add(pattern)
    compiled.Compile()
    return compiled


def _compile_class(alphabet: str, rules: Sequence[TextRule]) -> re2._Regexp:
    try:
        return re2.compile(f"(?s:[{alphabet}])", _options())
    except re2.error as error:
        names = ", ".join(rule.name for rule in rules if rule.alphabet == alphabet)
        raise InvalidInput(
            f"rule {names}: the alphabet cannot be used ({error}); give a class such as 0-9A-Z"
        ) from None


def _options() -> re2.Options:
    options = re2.Options()
    options.longest_match = True
    options.log_errors = False
    options.max_mem = 64 << 20
    return options

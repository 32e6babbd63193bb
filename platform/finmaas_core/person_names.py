"""Whether capitalised words are a person's name, told by lists of frequent names and by the words around them.

Not for Chinese characters, names in capitals or in small letters. Banks speak of firms that bear people's names all day
(Morgan Stanley, Johnson & Johnson): a word that is also a firm, a place or an ordinary word counts only beside a second
part of a name or after a cue. Pure; a check sees at most eight characters before and two after what was found, so that
the answer is the same wherever a stream is cut.
"""

from __future__ import annotations

import itertools
import re
from importlib.resources import files
from typing import Final

_SECTION: Final = re.compile(r"^\[([a-z ]+)\]\n((?:(?!\[).*\n?)*)", re.MULTILINE)
_LISTS: Final = dict(_SECTION.findall(files("finmaas_core").joinpath("person_names.txt").read_text(encoding="utf-8")))
_WEAK_GIVEN: Final = frozenset(_LISTS["given with a surname only"].split())
_WEAK_SURNAME: Final = frozenset(_LISTS["surname with a given name only"].split())
_PINYIN: Final = frozenset(_LISTS["pinyin surname"].split())
_NOT_PEOPLE: Final = frozenset(_LISTS["not a person"].splitlines())
# What no name holds: words that begin sentences and headings, titles, and what firms, places and products end with.
_ORDINARY: Final = frozenset(_LISTS["ordinary"].split())
_SURNAMES_THOUGH_ORDINARY: Final = frozenset(
    ("Banks", "Best", "Cash", "Day", "Good", "Key", "King", "Long", "Page", "Price")
)
_SEEN: Final = 7
_SECOND_WORDS: Final = frozenset((line.split()[0][-_SEEN:], line.split()[1]) for line in _NOT_PEOPLE if " " in line)
_GIVEN: Final = frozenset(_LISTS["given"].split()) - _WEAK_GIVEN - _WEAK_SURNAME - _PINYIN - _ORDINARY
_SURNAME: Final = frozenset(_LISTS["surname"].split()) - _WEAK_SURNAME - _WEAK_GIVEN - _PINYIN - _ORDINARY

# Endings that hardly any word has but family names (Czech, Polish, South and East Slavic, Nordic, Georgian, Armenian).
_ENDINGS: Final = (
    "ová|[oe]vić|[oe]vič|ić|ski|ska|cki|cka|czyk|enko|[oe]va?|yan|[aeiouäöy]nen|[snlrdkmt]sen|[sa]son|dóttir|dottir|shvili|"
    "dze|ström|qvist|gren|ez|elli|etti|ucci|moto|mura|[kg]awa|yama|shima|zaki|guchi|poulos|idis"
)
_SURNAME_ENDING: Final = re.compile(rf"\w{{3,}}(?:{_ENDINGS})|Mc[A-Z][a-z]+")
_SYLLABLE: Final = "(?:(?:zh|ch|sh|[bpmfdtnlgkhjqxzcsryw])?(?:[iu]?[aeo](?:ng|n|i|o|u)?|ing|in|iu|ui|un|ong|u|i|er))"
_PINYIN_GIVEN: Final = re.compile(rf"{_SYLLABLE}{{1,2}}", re.IGNORECASE)
_INITIAL: Final = re.compile(r"[^\W\d_]\.?")
_PARTICLES: Final = frozenset(
    ("van", "de", "der", "den", "von", "del", "da", "di", "dos", "bin", "al", "la", "ten", "ter")
)
_TITLES: Final = r"(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.? "
_CUES: Final = r"(?i:name is|name:|signed,|gned by) ?|Dear "
_CLOSINGS: Final = r"(?:egards|cerely|hfully|hanks|heers|Yours|Best),?\n"
_TITLE: Final = re.compile(rf"(?:^|\W){_TITLES}$")
_CUE: Final = re.compile(rf"(?:(?:^|\W){_TITLES}|{_CUES}|{_CLOSINGS})$")
_PLACE: Final = re.compile(
    r"(?:^|\W)(?:San|Santa|São|St\.?|Saint|Sankt|Port|Lake|Fort|Mount|Mt\.?|Cape|Hotel|Bank|Los|El"
    r"|ul\.|Rua|Via|Rue|Calle|Avenida) $|[0-9] $"
)

_UPPER: Final = r"\p{Lu}"
_WORD: Final = rf"{_UPPER}\p{{L}}{{1,11}}"
_FIRST: Final = rf"(?:{_WORD}(?:['\-]{_UPPER}\p{{L}}{{1,5}})?|O'{_UPPER}\p{{L}}{{1,9}})"
_SECOND: Final = rf"(?:{_WORD}(?:['\-]{_UPPER}\p{{L}}{{1,8}})?|O'{_UPPER}\p{{L}}{{1,9}})"
_BETWEEN: Final = rf"(?: {_UPPER}\.?| (?:van|von|de|del|da|di|dos|bin|al)(?: (?:der|den|de|la))?)?"
PATTERN: Final = rf"{_FIRST}(?:{_BETWEEN} {{1,2}}{_SECOND}(?: {_UPPER}\p{{L}}{{1,9}})?)?"
"""One to three capitalised words, an initial or a particle after the first (RE2 syntax), at most MAX_LENGTH."""
MAX_LENGTH: Final = 62


def hint_pattern() -> str:
    """Matches wherever a name may be: a listed word, an ending, an initial between names, a cue (RE2 syntax).

    Of a cue it asks for no more than a check sees, since a stream may have let go what was before that.
    """
    listed = "|".join(map(re.escape, sorted(_GIVEN | _SURNAME)))
    pinyin = "|".join(sorted(_PINYIN))
    alternatives = (
        listed,
        rf"(?:{pinyin}) {_UPPER}\p{{L}}+",
        rf"{_UPPER}\p{{L}}+ {{1,2}}(?:{pinyin})",
        rf"{_UPPER}\p{{L}}{{2}}\p{{L}}*(?:{_ENDINGS})|Mc[A-Z][a-z]+",
        rf"{_UPPER}\p{{L}}+ v[ao]n",
        rf"{_UPPER}\p{{L}}+ {_UPPER}\. {_UPPER}\p{{L}}+",
        rf"{_TITLES}{_UPPER}\p{{L}}+",
    )
    return rf"(?:^|[^0-9A-Za-z])(?:{'|'.join(alternatives)})(?:[^0-9A-Za-z]|$)|(?:{_CUES}|{_CLOSINGS}){_UPPER}"


def is_en_name(found: str, before: str, after: str) -> bool:
    """Words that are a person's name, all of it, and not a part of a longer word, of a firm's name or of a place's."""
    if len(found) > MAX_LENGTH or _is_inside(before, after):
        return False
    words = found.split()
    core = [word for word in words if not _INITIAL.fullmatch(word) and word not in _PARTICLES]
    if len(core) == 1 and core[0] in _WEAK_SURNAME and _TITLE.search(before):
        return True
    if not core or _names_no_person(core):
        return False
    if _CUE.search(before):
        return True
    if after[:1] == " " and (after[1:2].isupper() or after[1:2].isdigit()):  # a heading, a firm, a street
        return False
    if _PLACE.search(before) or (_last_word(before), core[0]) in _SECOND_WORDS:
        return False
    if len(core) == 1:
        return _tells_alone(core[0])
    told = any(word[1:] == "." or word in ("van", "von") for word in words[1:-1])
    return told or _is_full_name(core)


def _is_inside(before: str, after: str) -> bool:
    """In the middle of a word, an address or a hyphenated word, or joined to a partner by `&`."""
    last, following = before[-1:], after[:2]
    if last.isalnum() or last in ("_", "@", "-", "/", ".", "\\") or before[-2:] == "& ":
        return last != "\\"
    return following[:1].isalnum() or following[:1] in ("_", "@", "-", "/") or following == " &"


def _names_no_person(core: list[str]) -> bool:
    if any(word.isupper() for word in core) or any(" ".join(pair) in _NOT_PEOPLE for pair in itertools.pairwise(core)):
        return True
    first, last = core[0], core[-1]
    if len(core) > 1 and first in _WEAK_GIVEN and last in _SURNAME:  # Will, May, Mark
        core = core[1:]
    elif len(core) > 1 and first in _GIVEN and last in _SURNAMES_THOUGH_ORDINARY:
        core = core[:-1]
    return any(word in _ORDINARY for word in core)


def _last_word(before: str) -> str:
    """The word before a space, or as much of its end as a check sees."""
    return before[:-1].rpartition(" ")[2][-_SEEN:] if before[-1:] == " " else ""


def _tells_alone(word: str) -> bool:
    return _is_given(word) or _is_surname(word)


def _is_given(word: str) -> bool:
    return word in _GIVEN or word.partition("-")[0] in _GIVEN


def _is_surname(word: str) -> bool:
    return word in _SURNAME or word.partition("-")[0] in _SURNAME or _SURNAME_ENDING.fullmatch(word) is not None


def _is_full_name(core: list[str]) -> bool:
    first, last = core[0], core[-1]
    if _is_given(first) or _is_surname(last):
        return True
    if first in _PINYIN:
        return _PINYIN_GIVEN.fullmatch(last) is not None
    return last in _PINYIN and (first in _WEAK_GIVEN or _PINYIN_GIVEN.fullmatch(first) is not None)

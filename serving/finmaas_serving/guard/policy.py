"""A guardrail policy as data, and compiled: which rules look at requests, which at answers, and what they do.

The document is written in the control plane, travels in the gateways' snapshot, and means the same to both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from finmaas_core.errors import InvalidInput
from finmaas_core.text_rules import RULES, Group, TextRule
from finmaas_serving.guard.scanner import Scanner, check_pattern

MAX_RULES = 200
MAX_PHRASES = 500
MAX_PHRASE_CHARS = 60
MAX_TEXT_CHARS = 500
MAX_CACHE_S = 86_400
MAX_KEEP_DAYS = 3660
MIN_WINDOW, MAX_WINDOW = 50, 20_000  # characters
PHRASES = "banned_phrase"
NOTICE = "[withheld by policy: {rule}]"
SUBSTITUTION = TextRule("substitution", Group.CUSTOM, r"<[a-z][a-z0-9_]{1,40}_[0-9]{1,4}>", 48, "<>a-z0-9_", "")
"""Finds the names that `replace` gave."""
_NAME = re.compile(r"[a-z][a-z0-9_]{1,40}")


class Action(StrEnum):
    """What is done with a match: `replace` puts a name in its place that the answer turns back."""

    OFF = "off"
    MASK = "mask"
    REPLACE = "replace"
    BLOCK = "block"


class RuleUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A built-in rule and what it does to requests and to answers."""

    rule: str
    input: Action = Action.OFF
    output: Action = Action.OFF


class CustomRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule of the project's own. `alphabet` bounds what a match may hold; left out, every character may."""

    name: str
    pattern: str
    max_length: int
    alphabet: str = r"\s\S"
    label: str = ""
    input: Action = Action.OFF
    output: Action = Action.OFF


class Marks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an answer says that a model wrote it: `text` is appended where people read it, `provenance` for machines."""

    text: str = ""
    provenance: bool = False


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers are kept for `ttl_s` seconds for requests that come again; 0: not at all."""

    ttl_s: float = 0
    personal_data: bool = False  # also where the request holds personal data


class Keep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept, sealed, for auditors: requests as they go to the engine, answers as the client gets them."""

    requests: bool = False
    answers: bool = False
    days: int = 30


class Moderation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that judges: an endpoint that the project may call, and the labels that refuse what it was given.

    `requests` are judged before they are answered, `answers` before they are passed on: streams by windows of about
    `window_chars`, which are held until the judge has let them through.
    """

    model: str = ""
    block: tuple[str, ...] = ()
    instruction: str = ""  # a system message for the judge; a model that was trained to classify needs none
    requests: bool = True
    answers: bool = False
    window_chars: int = 400


class PolicyDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a project asks of the gateway."""

    rules: tuple[RuleUse, ...] = ()
    custom: tuple[CustomRule, ...] = ()
    phrases: tuple[str, ...] = ()  # never in a request, never in an answer
    disclaimer: str = ""  # appended to every answer that does not hold it
    notice: str = NOTICE  # what is read in place of an answer that a rule withholds; `{rule}` becomes its name
    marks: Marks = Marks()
    cache: Cache = Cache()
    keep: Keep = Keep()
    moderation: Moderation = Moderation()
    restore: bool = True  # whether an answer gets back what `replace` took out of its request


@dataclass(frozen=True, slots=True)
class Side:
    """One direction: its scanner, and the action of each of its rules by name."""

    scanner: Scanner
    actions: dict[str, Action]

    @property
    def is_on(self) -> bool:
        return bool(self.actions)


class Guard:
    """A policy compiled. Raises InvalidInput that names the rule and what is wrong with it."""

    def __init__(self, document: PolicyDocument) -> None:
        _check(document)
        self.document = document
        self.input = _side(document, "input")
        self.output = _side(document, "output")
        replaces = Action.REPLACE in self.input.actions.values()
        self.restoring = Scanner([SUBSTITUTION, *self.output.scanner.rules]) if replaces and document.restore else None
        self.disclaimer = document.disclaimer
        self._notice = document.notice
        self.mark = document.marks.text
        self.provenance = document.marks.provenance
        self.is_simple = not (document.cache.ttl_s or document.keep.requests or document.keep.answers) and not (
            document.moderation.model
        )
        # A judge reads what rules would read, so it gets nothing either that cannot be read.
        self.reads_requests = self.input.is_on or bool(document.moderation.model)

        self._plain_endings = [_as_bytes(ending) for ending in (self.mark, f"\n\n{self.disclaimer}{self.mark}")]
        self._disclaimer_bytes = self.disclaimer.encode()

    @property
    def touches_answers(self) -> bool:
        """Whether an answer may leave otherwise than as the engine wrote it."""
        return self.output.is_on or bool(self.disclaimer or self.mark or self.provenance)

    def notice(self, rule: str) -> str:
        """What is read in place of an answer that a rule withholds."""
        return self._notice.replace("{rule}", rule)

    def ending(self, text: str) -> str:
        """What is appended to a text that people read: the disclaimer that it lacks, and the mark."""
        disclaimer = self.disclaimer
        missing = f"\n\n{disclaimer}" if disclaimer and disclaimer not in text else ""
        return missing + self.mark

    def plain_ending(self, text: bytes) -> tuple[bytes, bytes]:
        """The same of a text as it stands in plain JSON, without a backslash: as UTF-8, and as JSON writes it."""
        return self._plain_endings[self._disclaimer_bytes not in text]


def read_policy(value: object) -> PolicyDocument:
    """A document from JSON values; InvalidInput names the field that cannot be used."""
    try:
        return msgspec.convert(value, PolicyDocument)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the policy cannot be used: {error}") from None


def strict_policy() -> PolicyDocument:
    """What a bank begins with: personal data masked both ways, secrets and injections refused, promises kept back."""
    uses = []
    for rule in RULES.values():
        match rule.group:
            case Group.PERSONAL:
                uses.append(RuleUse(rule.name, Action.MASK, Action.MASK))
            case Group.SECRET:
                uses.append(RuleUse(rule.name, Action.BLOCK, Action.MASK))
            case Group.INJECTION:
                uses.append(RuleUse(rule.name, Action.BLOCK, Action.OFF))
            case Group.PROMISE:
                uses.append(RuleUse(rule.name, Action.OFF, Action.BLOCK))
    return PolicyDocument(
        rules=tuple(uses),
        notice=f"（该回答未通过合规检查，不予显示） {NOTICE}",
        marks=Marks(text="（内容由人工智能生成）", provenance=True),
    )


def _as_bytes(text: str) -> tuple[bytes, bytes]:
    return text.encode(), msgspec.json.encode(text)[1:-1]


def _check(document: PolicyDocument) -> None:
    for use in document.rules:
        if use.rule not in RULES:
            known = ", ".join(sorted(RULES))
            raise InvalidInput(f"there is no rule {use.rule[:60]!r}; rules are {known}")
        _check_output(use.rule, use.output)
    _check_names([use.rule for use in document.rules] + [rule.name for rule in document.custom])
    for rule in document.custom:
        if not _NAME.fullmatch(rule.name) or rule.name in RULES or rule.name == PHRASES:
            raise InvalidInput(f"a rule cannot be called {rule.name[:60]!r}; choose a new name of a-z, 0-9 and _")
        _check_output(rule.name, rule.output)
        check_pattern(_custom(rule))
    if len(document.rules) + len(document.custom) > MAX_RULES or len(document.phrases) > MAX_PHRASES:
        raise InvalidInput(f"a policy takes at most {MAX_RULES} rules and {MAX_PHRASES} phrases")
    for phrase in document.phrases:
        if not 2 <= len(phrase.strip()) <= MAX_PHRASE_CHARS:
            raise InvalidInput(f"the phrase {phrase[:80]!r} is not 2 to {MAX_PHRASE_CHARS} characters long")
    if not 0 <= document.cache.ttl_s <= MAX_CACHE_S:
        raise InvalidInput(f"cache.ttl_s is {document.cache.ttl_s:g}; give 0 (off) to {MAX_CACHE_S} seconds")
    if not 1 <= document.keep.days <= MAX_KEEP_DAYS:
        raise InvalidInput(f"keep.days is {document.keep.days}; give 1 to {MAX_KEEP_DAYS}")
    if bool(document.moderation.model) != bool(document.moderation.block):
        raise InvalidInput("moderation wants both `model` (who judges) and `block` (the labels that refuse)")
    if document.moderation.model and not (document.moderation.requests or document.moderation.answers):
        raise InvalidInput("moderation judges neither requests nor answers; leave it out instead")
    if not MIN_WINDOW <= document.moderation.window_chars <= MAX_WINDOW:
        raise InvalidInput(
            f"moderation.window_chars is {document.moderation.window_chars}; give {MIN_WINDOW} to {MAX_WINDOW}"
        )
    if not document.notice.strip():
        raise InvalidInput("notice is empty; say what is to be read in place of an answer that is withheld")
    texts = {"disclaimer": document.disclaimer, "notice": document.notice, "marks.text": document.marks.text}
    for name, text in texts.items():
        if len(text) > MAX_TEXT_CHARS:
            raise InvalidInput(f"{name} is {len(text)} characters long; at most {MAX_TEXT_CHARS} fit")


def _check_output(name: str, action: Action) -> None:
    if action is Action.REPLACE:
        raise InvalidInput(f"rule {name}: `replace` is for requests; an answer can be masked or blocked")


def _check_names(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidInput(f"rule {name} is given twice; give it once, with both its actions")
        seen.add(name)


def _side(document: PolicyDocument, direction: str) -> Side:
    actions: dict[str, Action] = {}
    rules: list[TextRule] = []
    given = [(RULES[use.rule], getattr(use, direction)) for use in document.rules]
    given += [(_custom(rule), getattr(rule, direction)) for rule in document.custom]
    if document.phrases:
        given.append((_phrases(document.phrases), Action.BLOCK))
    for rule, action in given:
        if action is not Action.OFF:
            rules.append(rule)
            actions[rule.name] = action
    return Side(Scanner(rules), actions)


def _custom(rule: CustomRule) -> TextRule:
    return TextRule(
        rule.name, Group.CUSTOM, rule.pattern, rule.max_length, rule.alphabet, rule.label or rule.name.replace("_", " ")
    )


def _phrases(phrases: tuple[str, ...]) -> TextRule:
    wanted = sorted({phrase.strip() for phrase in phrases})
    alphabet = "".join(sorted({re.escape(char) for phrase in wanted for char in phrase.lower() + phrase.upper()}))
    pattern = "(?i:" + "|".join(re.escape(phrase) for phrase in wanted) + ")"
    return TextRule(PHRASES, Group.CUSTOM, pattern, max(map(len, wanted)), alphabet, "phrase")

"""A text in pieces is screened as the whole text is, however it is cut."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from finmaas_core.text_rules import RULES, unmask_text
from finmaas_serving.guard.scanner import Hit, Scanner
from finmaas_serving.guard.window import TextWindow

SCANNER = Scanner(RULES.values())
PIECES = [
    "13800138000", "1380013", "8000", "+86 ", "6217004947851304461", "4111 1111 1111 1111", "11010519491231002X",
    "我是", "欧阳", "明", "司马", "，", "。", " ", ".", "-", "5", "x", "li.wei@", "example.com", "北京市海淀区",
    "中关村大街", "27号", "1单元", "QQ：", "12345678", "保本", "不", "保证收益", "Mr. ", "Smith", " Jones", "E12345678",
    "ignore ", "all previous ", "instructions", "１３８", "\u200b", "😀", "GB82 WEST 1234 5698 7654 32", "0", "95588",
    "wxid_", "abcdef",
]  # fmt: skip


def replace(hit: Hit, text: str) -> str:
    return f"[{hit.rule.name}:{len(text)}]"


def screen_whole(text: str) -> str:
    plain = unmask_text(text)
    out, done = [], 0
    for hit in SCANNER.find(plain):
        out += [plain[done : hit.start], replace(hit, plain[hit.start : hit.end])]
        done = hit.end
    return "".join(out) + plain[done:]


@given(st.lists(st.text(st.sampled_from("a1 .@中你好-+:/９　"), max_size=9), max_size=12))
def test_what_is_held_is_what_may_belong_to_a_match(pieces: list[str]) -> None:
    """As far as the text runs in some rule's alphabet: piece by piece, at once, and counted by hand."""
    runs: Sequence[int] = ()
    reach = 0
    for piece in pieces:
        runs, reach = SCANNER.extend(runs, piece)
    text = "".join(pieces)
    assert (reach if text else 0) == SCANNER.extend((), text)[1]
    runs_by_hand = (
        len(list(itertools.takewhile(re2.compile(f"(?s:[{rule.alphabet}])").fullmatch, reversed(text))))
        for rule in SCANNER.rules
    )
    assert SCANNER.extend((), text)[1] == max(map(min, runs_by_hand, (rule.max_length for rule in SCANNER.rules)))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.data())
def test_any_cut_gives_the_result_of_the_whole_text(text: str, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12).map(sorted))
    window = TextWindow(SCANNER, replace)
    bounds = [0, *cuts, len(text)]
    out = [window.feed(text[start:end]) for start, end in itertools.pairwise(bounds)]
    assert "".join(out) + window.flush() == screen_whole(text)


def test_only_what_may_still_match_is_held() -> None:
    window = TextWindow(SCANNER, replace)
    assert window.feed("余额是100元。电话，13800") == "余额是100元。电话，"
    assert window.feed("138000，。") == "[cn_mobile:11]，。"


def test_long_words_cost_no_more_than_their_length() -> None:
    """A body of digits must not stop the gateway; a square of its length would take minutes."""
    window = TextWindow(SCANNER, replace)
    window.feed("7" * 400_000)
    window.flush()


def test_a_long_run_is_held_no_longer_than_a_rule_can_match() -> None:
    window = TextWindow(SCANNER, replace)
    sent = sum(len(window.feed("7")) for _ in range(2000))
    assert sent >= 2000 - max(rule.max_length for rule in RULES.values())


NAME_PIECES = [
    "Mr. ", "Dear ", "Will", "Mark", "Anna", "Maria", "Smith", "Gonzalez", "Morgan", "Stanley", "Wells", "Fargo",
    "Merrill", "Lynch", "Zorvan", "Åsa", "Ágnes", "Bank", "Please", "O'Brien", "Anne-Marie", "Christensenssons", " ",
    " ", " ", "  ", ".", ",", "\n", "-", "'s", "&", " & ", " van ", " de la ", "K.", "J", "5", "@", "_", "中",
    "my name is ",
    "Regards,\n", "signed by ", "San ", "ul. ", "x", "\u200b", "Zhang", "Weiming", "and some more plain words ",
]  # fmt: skip
NAME_SCANNER = Scanner([RULES["en_name"], RULES["cn_mobile"]])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(NAME_PIECES), max_size=24).map("".join), st.data())
def test_names_are_the_same_however_the_text_is_cut(text: str, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=16).map(sorted))
    bounds = [0, *cuts, len(text)]
    plain = unmask_text(text)
    for scanner in (SCANNER, NAME_SCANNER):
        window = TextWindow(scanner, replace)
        out = [window.feed(text[start:end]) for start, end in itertools.pairwise(bounds)]
        whole, done = [], 0
        for hit in scanner.find(plain):
            whole += [plain[done : hit.start], replace(hit, plain[hit.start : hit.end])]
            done = hit.end
        assert "".join(out) + window.flush() == "".join(whole) + plain[done:]
        letters = TextWindow(scanner, replace)
        assert "".join(map(letters.feed, text)) + letters.flush() == "".join(whole) + plain[done:]

"""Personal names in English text: who is found, and what of a bank's daily words is left alone."""

from __future__ import annotations

import pytest
import re2

from finmaas_core.person_names import MAX_LENGTH, PATTERN, hint_pattern
from finmaas_core.text_rules import RULES
from finmaas_serving.guard.scanner import Scanner

SCANNER = Scanner([RULES["en_name"]])


def names(text: str) -> list[str]:
    return [text[hit.start : hit.end] for hit in SCANNER.find(text)]


class TestFinds:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Please transfer it to Maria Garcia Lopez today.", ["Maria Garcia Lopez"]),
            ("Nicholas called, then Gonzalez.", ["Nicholas", "Gonzalez"]),
            ("I spoke with Sarah J. Quillfeather.", ["Sarah J. Quillfeather"]),
            ("Zorvan K. Plimsol signed.", ["Zorvan K. Plimsol"]),
            ("our adviser Dyan van Gijn", ["Dyan van Gijn"]),
            ("Björn Åkesson-Lindqvist and Ágnes Tóth", ["Björn Åkesson-Lindqvist", "Ágnes Tóth"]),
            ("Zhang Weiming met Li Wang", ["Zhang Weiming", "Li Wang"]),
            ("Mr. Smith called", ["Smith"]),
            ("Dr Frumble, Mrs. May and Prof. Chase", ["Frumble", "May", "Chase"]),
            ("My name is Quorra", ["Quorra"]),
            ("Name: Toshimi Arata\nPhone", ["Toshimi Arata"]),
            ("Dear Xanthia, thank you", ["Xanthia"]),
            ("Kind regards,\nXanthia", ["Xanthia"]),
            ("signed by Xanthia Plim.", ["Xanthia Plim"]),
            ("Bryan Maclean's account", ["Bryan Maclean"]),
            ("Mark Johnson and Will Gonzalez", ["Mark Johnson", "Will Gonzalez"]),
            ("Conan O'Brien, Liam McAllister", ["Conan O'Brien", "Liam McAllister"]),
        ],
    )
    def test_people(self, text: str, expected: list[str]) -> None:
        assert names(text) == expected


class TestLeavesAlone:
    @pytest.mark.parametrize(
        "text",
        [
            "Morgan Stanley, Wells Fargo, JP Morgan and J.P. Morgan Chase raised their targets.",
            "Charles Schwab, Goldman Sachs, Merrill Lynch and Edward Jones are brokers.",
            "Ernst & Young audits Johnson & Johnson; Marks & Spencer, Smith & Wesson.",
            "Lloyds Bank, Lloyd's of London, Barclays, Rothschild, Julius Baer, Franklin Templeton.",
            "Grant Thornton, Baker Tilly, Oliver Wyman, Thomson Reuters, Dow Jones Index.",
            "Will the rate rise in May? Mark it. Bill me. Grant access. Chase the payment. Rich clients. Frank words.",
            "Sterling fell; Pound Sterling Account; Mark Complete; Bill Payment; Grant Access; May Statement.",
            "Hong Kong, Shanghai, San Francisco, Santa Barbara, Port Louis, Lake Victoria, Charlotte, Austin.",
            "Basel III, Jan 2026, Claude and Ray run on Ruby.",
            "Dear Customer, Dear Sir or Madam, Dear Valued Customer",
            "Kind regards,\nCustomer Service Team",
            "Name: Savings Account",
            "The Fund Manager of the Global Equity Fund signed the Master Agreement.",
            "Annual Report, Credit Card Statement, Risk Department, Terms And Conditions.",
            "Call 400-820-8820 or 95588; fund 161725; USD 13,800,138.00 at 3.25%.",
            "see www.Anna.example, user_Anna, Anna_2, anna@example.com, @Anna",
            "Alaska, Nebraska and Moldova; McKinsey and McDonald's.",
            "12 Maria Street, Anderson Consulting, Johnson Controls, Roberts Bank",
        ],
    )
    def test_words_of_a_bank(self, text: str) -> None:
        assert names(text) == []


class TestBounds:
    def test_no_match_is_longer_than_its_bound(self) -> None:
        """A stream holds back no more than the bound, so a longer match would be cut."""
        longest = f"A{'b' * 11}-C{'d' * 5} van der  E{'f' * 11}-G{'h' * 8} I{'j' * 30}"
        found = re2.compile(PATTERN).search(longest)
        assert found is not None
        assert found.end() == MAX_LENGTH == RULES["en_name"].max_length == 62

    def test_the_hint_is_there_wherever_a_name_is_found(self) -> None:
        options = re2.Options()
        options.max_mem = 64 << 20
        hint = re2.compile(hint_pattern(), options)
        for text in ("Anna", "(Gonzalez)", "Dear Xanthia", "Zhang Weiming", "x Zorvan K. Plimsol", "Dyan van Gijn"):
            assert hint.search(text) is not None
            assert names(text) != []

    def test_ordinary_text_does_not_leave_the_fast_path(self) -> None:
        for text in ("Please tell me the Transfer limit of my Account.", "How do I dispute a charge? 还款日期"):
            assert not SCANNER.hits_any(text.encode())

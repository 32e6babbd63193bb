"""Checks that tell a number from one that only looks alike: check digits, dates, known prefixes, what stands around it.

Each takes what was found and the text right before and after it. Pure.
"""

from __future__ import annotations

import re
from datetime import date

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"
_USCC_CHARS = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_USCC_WEIGHTS = (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28)
_ASCII_WORD = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_NOT_IN_NAMES = frozenset(
    "的是在了要将把和与及已说想为我你他她它们这那不有个等号元年月日份证卡银行公司用经理现将请借贷还"
)
_DENIED = re.compile(
    "(?:不|非|没有|并无|不是|不能|无法|不得|未)$|(?:not|no|never|n't)(?: an?| the| any)? $", re.IGNORECASE
)


def is_id_card(found: str, before: str, after: str) -> bool:
    """A resident identity number of GB 11643: a real day of birth, and the check digit of ISO 7064 MOD 11-2."""
    digits = _only(found, "Xx")
    if not _ends_well(before, after) or len(digits) != 18:
        return False
    try:
        born = date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(digits[:17], _ID_WEIGHTS, strict=True))
    return born.year >= 1850 and _ID_CHECKS[total % 11] == digits[17].upper()


def is_bank_card(found: str, before: str, after: str) -> bool:
    """A payment card number of ISO/IEC 7812: a length that its issuer's prefix has, and the Luhn check digit."""
    digits = _only(found)
    return _ends_well(before, after) and has_card_prefix(digits) and has_luhn_digit(digits)


def has_luhn_digit(digits: str) -> bool:
    """Whether the last digit is the check digit of ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def has_card_prefix(digits: str) -> bool:
    """Whether a card scheme issues numbers of this prefix and length."""
    length, two, three, four = len(digits), int(digits[:2]), int(digits[:3]), int(digits[:4])
    if two == 62 or two == 81:  # UnionPay
        return 16 <= length <= 19
    if digits[0] == "4":  # Visa
        return length in (13, 16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:  # Mastercard
        return length == 16
    if two in (34, 37) or four in (2131, 1800):  # American Express, early JCB
        return length == 15
    if two in (30, 36, 38, 39):  # Diners Club
        return 14 <= length <= 16
    if two in (35, 65) or four == 6011 or 644 <= three <= 649:  # JCB, Discover
        return 16 <= length <= 19
    return four in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763) and 12 <= length <= 19  # Maestro


def is_uscc(found: str, before: str, after: str) -> bool:
    """A unified social credit code of GB 32100, by its check character."""
    if not stands_alone_in_word(found, before, after):
        return False
    total = sum(_USCC_CHARS.index(char) * weight for char, weight in zip(found[:17], _USCC_WEIGHTS, strict=True))
    return _USCC_CHARS[(31 - total % 31) % 31] == found[17]


def is_iban(found: str, before: str, after: str) -> bool:
    """An international bank account number of ISO 13616, by its two check digits."""
    if not stands_alone_in_word(found, before, after):
        return False
    plain = found.replace(" ", "")
    moved = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def is_ssn(found: str, before: str, after: str) -> bool:
    """A US social security number: no area 000 or 666, no group 00, no serial 0000."""
    area, _, rest = found.partition("-")
    group, _, serial = rest.partition("-")
    return (
        len(serial) == 4
        and _ends_well(before, after)
        and area not in ("000", "666")
        and group != "00"
        and serial != "0000"
    )


def is_passport(found: str, before: str, after: str) -> bool:
    """A Chinese passport number: a letter and eight digits, or two letters and seven."""
    return len(found) == 9 and stands_alone_in_word(found, before, after)


def is_phone(found: str, before: str, after: str) -> bool:
    """A telephone number that is nobody's hotline (400, 800) and has 7 to 15 digits (E.164)."""
    digits = _only(found)
    is_hotline = digits.startswith(("400", "800", "1800", "1400"))
    return 7 <= len(digits) <= 15 and not is_hotline and _ends_well(before, after)


def is_told_phone(found: str, before: str, after: str) -> bool:
    """A number that the words before it call one: 6 to 15 digits, and nobody's hotline.

    Without a colon before it, it has groups: `messages to 1000000 clients` tells of none.
    """
    digits = _only(found.partition("x")[0])
    if found.isdigit() and not before.rstrip().endswith(":"):
        return False
    is_hotline = digits.startswith(("400", "800", "1800", "1400"))
    return 6 <= len(digits) <= 15 and not is_hotline and not after[:1].isdigit()


def is_zh_name(found: str, before: str, after: str) -> bool:
    """A family name and a given name, as far as that can be told: no character that only grammar uses."""
    return not set(found[1:]) & _NOT_IN_NAMES


def is_not_denied(found: str, before: str, after: str) -> bool:
    """A statement that is made, and not denied by the word before it."""
    return _DENIED.search(before.rstrip("「『“\"'")) is None


def stands_alone_in_digits(found: str, before: str, after: str) -> bool:
    """Neither preceded nor followed by a further digit."""
    return _ends_well(before, after)


def stands_alone_in_word(found: str, before: str, after: str) -> bool:
    """Not a part of a longer word of ASCII letters, digits and underscores."""
    return before[-1:] not in _ASCII_WORD and after[:1] not in _ASCII_WORD


def stands_alone_before(found: str, before: str, after: str) -> bool:
    """Does not begin in the middle of a word."""
    return before[-1:] not in _ASCII_WORD


def _ends_well(before: str, after: str) -> bool:
    """No ASCII digit or letter right before, no digit right after, no decimals after a point."""
    if before[-1:].isascii() and before[-1:].isalnum():
        return False
    if before[-2:-1].isdigit() and before[-1:] in (".", ","):
        return False
    if after[:1].isascii() and after[:1].isdigit():
        return False
    return not (after[:1] == "." and after[1:2].isdigit())


def _only(found: str, more: str = "") -> str:
    if found.isdigit():
        return found
    return "".join(char for char in found if char.isdigit() or char in more)

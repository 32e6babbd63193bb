"""Windows of allowances: minute, day and month, in a tenant's time zone and fiscal calendar. Pure.

A window is named by the moment it starts (epoch seconds), and ends where the next one starts; so windows of one kind
never overlap and leave no gap, whatever the clocks of the zone do.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from finmaas_core.errors import InvalidInput

MINUTE_S = 60
LAST_FISCAL_DAY = 28


class WindowKind(StrEnum):
    """How long an amount lasts. `now` is what runs at this moment: it renews as soon as something ends."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"
    NOW = "now"

    @property
    def is_standing(self) -> bool:
        """A gateway's share of it stands until it is called back, instead of ending with the window."""
        return self in (WindowKind.MINUTE, WindowKind.NOW)


def find_window(kind: WindowKind, at: float, zone: str, fiscal_day: int = 1) -> tuple[int, int]:
    """Start and end (epoch seconds) of the window that holds `at`. A month begins on its `fiscal_day`.

    InvalidInput for a zone that is not known here, or a day that not every month has.
    """
    if kind is WindowKind.NOW:
        return 0, 0
    if kind is WindowKind.MINUTE:
        start = int(at // MINUTE_S) * MINUTE_S
        return start, start + MINUTE_S
    day = local_date(at, zone)
    if kind is WindowKind.DAY:
        return _midnight(day, zone), _midnight(day + timedelta(days=1), zone)
    check_fiscal_day(fiscal_day)
    first = day.replace(day=fiscal_day)
    if day.day < fiscal_day:
        first = (first.replace(day=1) - timedelta(days=1)).replace(day=fiscal_day)
    following = (first.replace(day=1) + timedelta(days=32)).replace(day=fiscal_day)
    return _midnight(first, zone), _midnight(following, zone)


def local_date(at: float, zone: str) -> date:
    """The calendar day of a moment in a zone."""
    return datetime.fromtimestamp(at, get_zone(zone)).date()


@lru_cache(maxsize=512)
def get_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name; InvalidInput when this machine does not know it."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(f"{name[:80]!r} is not a time zone; give one like Asia/Shanghai or UTC") from None


def check_fiscal_day(day: int) -> int:
    """The day on which fiscal months begin; InvalidInput for one that not every month has."""
    if not 1 <= day <= LAST_FISCAL_DAY:
        raise InvalidInput(f"fiscal months begin on a day from 1 to {LAST_FISCAL_DAY}, not on {day}")
    return day


def _midnight(day: date, zone: str) -> int:
    """The first moment of a day. Where the clock skips midnight, that is the moment of the skip."""
    return int(datetime(day.year, day.month, day.day, tzinfo=get_zone(zone)).timestamp())

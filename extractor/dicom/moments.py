"""Dates and times of DICOM headers as moments that can be subtracted; knows no scan and no decay."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from extractor.dicom.headers import label, text
from store_schema.errors import ImageError

DATE = re.compile(r"(\d{4})[.\-]?(\d\d)[.\-]?(\d\d)")
TIME = re.compile(r"(\d\d):?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?")
WHOLE = re.compile(r"(\d{8})(\d{4}(?:\d\d(?:\.\d{1,6})?)?)([+-]\d{4})?")
OFFSET = re.compile(r"([+-])(\d\d)(\d\d)")


def clock(written: str, what: str) -> timedelta:
    """Time of day since midnight.

    Raises
    ------
    ImageError
        If it is no time of day.
    """
    found = TIME.fullmatch(written)
    if not found or int(found[1]) > 23 or int(found[2]) > 59 or int(found[3] or 0) > 60:
        raise ImageError(f"{what} is no time of day: expected HHMMSS, got {len(written)} characters.")
    micros = int((found[4] or "0").ljust(6, "0"))
    return timedelta(hours=int(found[1]), minutes=int(found[2]), seconds=int(found[3] or 0), microseconds=micros)


def day(written: str, what: str) -> datetime:
    """Midnight at which a date begins.

    Raises
    ------
    ImageError
        If it is no date.
    """
    found = DATE.fullmatch(written)
    try:
        return datetime(*map(int, found.groups())) if found else _no_date(what)  # type: ignore[arg-type]
    except ValueError:
        return _no_date(what)


def moment(header: Dataset, date: str, time: str) -> datetime | None:
    """The moment that two fields give, in the scanner's local time; None where one of them is absent."""
    written_date, written_time = text(header, date), text(header, time)
    if not written_date or not written_time:
        return None
    return day(written_date, label(date)) + clock(written_time, label(time))


def whole_moment(written: str, what: str, *, zone: str | None) -> tuple[datetime, bool]:
    """The moment of a date-time in the scanner's local time, and whether its zone is settled.

    Parameters
    ----------
    zone
        What the header calls its own offset from UTC, such as +0100.
    """
    found = WHOLE.fullmatch(written)
    if not found:
        raise ImageError(f"{what} is no date and time: expected YYYYMMDDHHMMSS, got {len(written)} characters.")
    local = day(found[1], what) + clock(found[2], what)
    if found[3] is None:
        return local, True
    if zone is None:
        return local, False
    return local - _offset(found[3], what) + _offset(zone, label("TimezoneOffsetFromUTC")), True


def _offset(written: str, what: str) -> timedelta:
    found = OFFSET.fullmatch(written)
    if not found:
        raise ImageError(f"{what} is no offset from UTC: expected +HHMM or -HHMM.")
    return (1 if found[1] == "+" else -1) * timedelta(hours=int(found[2]), minutes=int(found[3]))


def _no_date(what: str) -> datetime:
    raise ImageError(f"{what} is no date: expected YYYYMMDD.")

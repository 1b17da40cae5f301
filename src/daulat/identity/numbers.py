"""Identity numbers as cards have them: which ones count, and where one stands that must not stand there in clear.

Malaysia's has twelve digits, often in groups (900101-14-5678): a day of birth, two digits for a place, four more.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import date
from typing import Final

MALAYSIA: Final = "MY"
_SPACING: Final = re.compile(r"[\s-]+")
_CARD: Final = re.compile(r"([0-9]{6})[0-9]{6}\Z")
# Anything may be between the groups, and every group of six digits may begin one: so nothing of it is consumed.
_WITHIN: Final = re.compile(r"(?<!\d)(?=(\d{6})[\W_]{0,3}\d{2}[\W_]{0,3}\d{4}(?!\d))")


def counting(said: str, country: str) -> str:
    """A number in its one form, without spaces and hyphens; "" where it is none.

    Args:
        country: the charter's, ISO 3166-1 alpha-2. Malaysia's numbers are known by their form; elsewhere any text is.
    """
    number = _SPACING.sub("", said).upper()
    if country != MALAYSIA:
        return number
    found = _CARD.match(number)
    return number if found and _dated(found[1]) else ""


def within(text: str) -> bool:
    """Whether a Malaysian identity number stands anywhere in it, however it is grouped and in whatever digits."""
    return any(_dated(found[1]) for found in _WITHIN.finditer(unicodedata.normalize("NFKC", text)))


def _dated(digits: str) -> bool:
    """Whether YYMMDD is a day of some century: 2000 is a leap year, so no day of another one is missing."""
    try:
        date(2000 + int(digits[:2]), int(digits[2:4]), int(digits[4:6]))
    except ValueError:
        return False
    return True

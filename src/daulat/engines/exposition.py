"""Prometheus' text exposition format, as far as engines' counters need it: named samples, summed over their labels.

Bounded: one pass over at most 4 MiB, and only the wanted names are looked at.
Source: prometheus.io/docs/instrumenting/exposition_formats (text format 0.0.4).
"""

from __future__ import annotations

import math
import re
from typing import Final

from daulat.errors import EngineError

LONGEST: Final = 4 * 1024 * 1024  # bytes
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABELS: Final = re.compile(r'\{(?:[^"{}]|"(?:[^"\\]|\\.)*+")*+\}')


def totals(text: bytes, names: frozenset[str]) -> dict[str, float]:
    """The sum of each wanted metric's samples; a name without a sample is absent.

    Raises:
        EngineError: the text is too long, or a wanted sample is no number of zero or more.
    """
    if len(text) > LONGEST:
        raise EngineError(f"the engine's metrics are {len(text)} bytes; at most {LONGEST} are read")
    found: dict[str, float] = {}
    for line in text.decode(errors="replace").split("\n"):
        name = _NAME.match(line)
        if name is not None and name[0] in names:
            found[name[0]] = found.get(name[0], 0.0) + _value(name[0], line[name.end() :])
    return found


def _value(name: str, rest: str) -> float:
    """Of `{labels} value [timestamp]`."""
    labels = _LABELS.match(rest)
    words = (rest if labels is None else rest[labels.end() :]).split()
    try:
        value = float(words[0])
    except (IndexError, ValueError):
        value = math.nan
    if not 0 <= value < math.inf:  # also not a number
        raise EngineError(f"the engine's metrics give {name} as {rest.strip()[-40:]!r}, expected a number from 0 on")
    return value

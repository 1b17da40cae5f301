"""Use by day, tenant, key and model, as an auditor counts it: from entries that the audit has checked, by pseudonym.

The rule is that of the operator's own sums (`daulat usage`), written down once more, so that one checks the other: each
`inference/v1` entry whose `attempts` are not empty is one request, with its `usage`, on the day (UTC) of its admission.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from daulat.audit.log import LogSource
from daulat.core import entries
from daulat.errors import VerificationFailed
from daulat.tlog.tiles import decode_bundle, parse_path

COUNTS: Final = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
COLUMNS: Final = ("day", "tenant", "key", "model", *COUNTS)


class Tally:
    """A `LogSource` that counts what passes through it."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, str, str], list[int]] = {}

    def over(self, source: LogSource) -> LogSource:
        """The same source, counted. Each bundle is to be read once."""
        return _Counted(source, self)

    def add(self, entry: bytes) -> None:
        """Count one entry. One that is malformed counts nothing: the audit says so."""
        try:
            found: dict[str, Any] = entries.decode(entry)
        except VerificationFailed:
            return
        if found["type"] != entries.INFERENCE or not found["completion"]["attempts"]:
            return
        admission, usage = found["admission"], found["completion"]["usage"]
        day = datetime.fromtimestamp(admission["time"] / 1000, UTC).date().isoformat()
        place = (day, admission["tenant"], admission["key"], admission["requested_model"])
        sums = self._sums.setdefault(place, [0] * len(COUNTS))
        for number, count in enumerate((1, *(usage[name] for name in COUNTS[1:]))):
            sums[number] += count

    def rows(self) -> list[dict[str, Any]]:
        """By `COLUMNS`, in their order."""
        return [dict(zip(COLUMNS, (*place, *sums), strict=True)) for place, sums in sorted(self._sums.items())]


class _Counted:
    def __init__(self, source: LogSource, tally: Tally) -> None:
        self._source, self._tally = source, tally
        self.checkpoint, self.blob = source.checkpoint, source.blob

    def stream(self, paths: Iterable[str]) -> Iterator[bytes]:
        asked = list(paths)
        for path, data in zip(asked, self._source.stream(asked), strict=True):
            tile = parse_path(path)
            if tile.level is None:
                for entry in decode_bundle(data, tile.width):
                    self._tally.add(entry)
            yield data

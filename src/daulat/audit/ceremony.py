"""The key ceremony, checked from its entry alone: by the service before it writes one, and by every audit after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from daulat.core.ceremony import LONGEST_MS, Ceremony
from daulat.core.charter import Charter
from daulat.errors import VerificationFailed
from daulat.tlog.note import Verifier


def wrong(ceremony: Ceremony, signatures: Sequence[bytes], charter: Charter, time: int) -> Iterator[str]:
    """Why this ceremony, written down at `time`, does not put an installation under `charter` into production."""
    yield from ceremony.wrong(charter)
    if not 0 <= time - ceremony.begun <= LONGEST_MS:
        yield "a ceremony that was not finished within 31 days of its beginning"
    yield from unsigned(ceremony, signatures)
    if len({seat.vkey.partition("+")[0] for seat in ceremony.seats}) != len(ceremony.seats):
        yield "two of a ceremony's keys are one operator's"


def unsigned(ceremony: Ceremony, signatures: Sequence[bytes]) -> Iterator[str]:
    """Which of its operators have not signed it, in words."""
    if len(signatures) != len(ceremony.seats):
        yield f"{len(signatures)} signatures of {len(ceremony.seats)} operators"
        return
    statement = ceremony.statement()
    for seat, signature in zip(ceremony.seats, signatures, strict=True):
        try:
            Verifier(seat.vkey).verify_bytes(statement, signature)
        except VerificationFailed as error:
            yield f"a ceremony that an operator has not signed: {error.message}"

"""What can happen about who somebody is, as `identity/v1` entries have it."""

from __future__ import annotations

from typing import Final

SIGNED_IN: Final = "signed-in"  # detail: the attributes that now hold, {"citizenship", "assurance", "roles", ...}
SIGNED_OUT: Final = "signed-out"
REFUSED: Final = "refused"  # detail: {"code", "count"}: `count` of these since the last such entry
EXPIRED: Final = "expired"  # the citizenship ended: detail {"until"}
ENDED: Final = "ended"  # the provider places them there no more: detail {"code"}, as their refusal has it
EVENTS: Final = frozenset({SIGNED_IN, SIGNED_OUT, REFUSED, EXPIRED, ENDED})

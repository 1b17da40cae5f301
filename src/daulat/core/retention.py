"""How long what people keep here is kept: a rule for each tenant, in days since an object was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from daulat.errors import InvalidRequest

SET: Final = "retention.set"  # the act that sets one; its detail has the fields of `Rule`
LONGEST_DAYS: Final = 36_500  # a century
FIELDS: Final = {"file": "files", "completion": "completions"}  # by kind of object, the field of `Rule`


@dataclass(frozen=True, slots=True)
class Rule:
    """Days; None: until whoever it belongs to deletes it."""

    files: int | None = None
    completions: int | None = None

    @classmethod
    def read(cls, value: Any) -> Rule:
        """What `as_dict` made, or a client sent.

        Raises:
            InvalidRequest: it is something else.
        """
        if not isinstance(value, Mapping) or set(value) != set(FIELDS.values()):
            raise InvalidRequest(f"a retention rule says of {' and of '.join(FIELDS.values())} how long they are kept")
        for days in value.values():
            if days is not None and (type(days) is not int or not 0 < days <= LONGEST_DAYS):
                raise InvalidRequest(f"something is kept for 1 to {LONGEST_DAYS} days, or null: until it is deleted")
        return cls(**value)

    def days(self, kind: str) -> int | None:
        """Of one kind of object."""
        found: int | None = getattr(self, FIELDS[kind])
        return found

    def as_dict(self) -> dict[str, int | None]:
        return asdict(self)


def counted(kinds: Mapping[str, int]) -> dict[str, int]:
    """How many objects there were of each kind, by the fields of `Rule`."""
    return {field: kinds.get(kind, 0) for kind, field in FIELDS.items()}

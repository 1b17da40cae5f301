"""OpenAI's lists: `after`, `limit`, `order`, and the object that comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import QueryParams

from daulat.errors import InvalidRequest, NotFound
from daulat.vault.objects import Kept, Objects, Whose
from daulat.vault.ports import Kind

_ORDERS: Final = ("asc", "desc")


@dataclass(frozen=True, slots=True)
class Asked:
    """Which part of a list."""

    after: str
    limit: int
    newest_first: bool

    def of(self, objects: Objects, whose: Whose, kind: Kind, wanted: Callable[[Kept], bool]) -> tuple[list[Kept], bool]:
        """Raises InvalidRequest: `after` is none of this person's."""
        try:
            page = objects.list(
                whose, kind, after=self.after, limit=self.limit, newest_first=self.newest_first, wanted=wanted
            )
        except NotFound as error:
            raise InvalidRequest(error.message, param="after") from None
        return list(page.kept), page.more


def asked(query: QueryParams, *, usual: int, most: int, order: str) -> Asked:
    """Raises InvalidRequest: a value is out of bounds; says which are in."""
    text = query.get("limit", str(usual))
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:9]) <= most:
        raise InvalidRequest(f"'limit' is a whole number from 1 to {most}.", param="limit")
    order = query.get("order", order)
    if order not in _ORDERS:
        raise InvalidRequest("'order' is 'asc' or 'desc'.", param="order")
    return Asked(query.get("after", ""), int(text), order == "desc")


def listed(data: list[dict[str, Any]], *, more: bool) -> Mapping[str, Any]:
    """The list object."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}

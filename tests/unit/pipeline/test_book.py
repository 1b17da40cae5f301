"""The control plane's pen, while the memory of what is in force is away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.support.site import Memory, Site

from daulat.errors import Unavailable
from daulat.pipeline.book import Book


class Away(Memory):
    """A control database that cannot be reached, for as long as `away` says."""

    away = True

    def live(self, kind: str, name: str = "") -> dict[str, Any] | None:
        if self.away:
            raise Unavailable("the control database cannot be read")
        return super().live(kind, name)


def test_whoever_tries_again_and_again_does_not_fill_the_log() -> None:
    memory, appended = Away(), list[str]()

    async def append(entries: list[str]) -> list[int]:
        appended.extend(entries)
        return [len(appended) - 1]

    book = Book("log/1", append, memory, Site().clock)
    fields = {"node": "n", "lease": 1, "reason": "a test"}
    for _ in range(3):
        with pytest.raises(Unavailable):
            asyncio.run(book.write("node.revoked/v1", fields, name="n"))
    assert appended == []
    memory.away = False
    assert asyncio.run(book.write("node.revoked/v1", fields, name="n")) == 0
    assert json.loads(appended[0])["reason"] == "a test"
    held = book.held("node.revoked/v1", "n")
    assert held is not None
    assert held["position"] == 0

"""Who gets a receipt, and the salts in it: the same person, while the charter serves them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support import logs
from tests.support.verbs import publish
from tests.support.worlds import OTHER_SECRET, SECRET, key, person, snapshot

from daulat.adapters.snapshot_file import SnapshotFile
from daulat.core.principal import Attributes
from daulat.core.snapshot import CharterRef, Snapshot
from daulat.identity.directory import Directory
from daulat.processes.pages import application
from daulat.settings import Home

EVER = 2**45
MY = person().attributes
ANSWER, DENIED, ABSENT = logs.request_id(1), logs.request_id(3), logs.request_id(99)


def known(attributes: Attributes = MY, charter: tuple[str, str] = ("", "")) -> Snapshot:
    """Two people; the first is of these attributes. In the charter, a text stands in place of another."""
    people = (replace(person(1, expires=EVER), attributes=attributes), person(2, expires=EVER))
    made = snapshot(people=people, keys=(key(1, expires=EVER), key(2, OTHER_SECRET, expires=EVER)))
    assert charter[0] in made.charter.text
    return replace(made, charter=CharterRef(1, made.charter.text.replace(*charter, 1)))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """With a log, in which the first person of `known` has got answers and refusals."""
    home = Home(tmp_path / "home")
    home.prepare()
    home.run.mkdir(exist_ok=True)
    principal = Directory(known().roll).authenticate(SECRET.encode())
    theirs = {"admission.tenant": principal.tenant, "admission.principal": principal.person}
    publish(home, logs.write({"answer": theirs, "denied": theirs}))
    return home


def asked(home: Home, snapshot: Snapshot, *ids: str, secret: str = SECRET) -> list[tuple[int, Any]]:
    SnapshotFile(home.snapshot).write(snapshot)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(application(home))
        headers = {"authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://pages", headers=headers) as client:
            return [await client.get(f"/v1/receipts/{id_}") for id_ in ids]

    return [(answer.status_code, answer.json()) for answer in asyncio.run(ask())]


def test_whoever_the_charter_serves_gets_receipts_with_salts_and_nobody_else_does(home: Home) -> None:
    answer, denied, absent = asked(home, known(), ANSWER, DENIED, ABSENT)
    assert (answer[0], denied[0], absent[0]) == (200, 200, 404)
    assert set(answer[1]["salts"]) == {"request", "response"}
    others = asked(home, known(), ANSWER, ABSENT, secret=OTHER_SECRET)
    assert others == [absent, absent], "for others it does not exist"


CHANGED = {
    "corrected to another citizenship": (replace(MY, citizenship="SG"), ("", "")),
    "of no known citizenship any more": (replace(MY, citizenship=""), ("", "")),
    "vouched for at a lower level": (replace(MY, assurance="low"), ("", "")),
    "under a charter for others": (MY, ('users = ["MY"]', 'users = ["BN"]')),
    "under a stricter charter": (MY, ('assurance = "substantial"', 'assurance = "high"')),
    "under a charter of other issuers": (MY, ('issuers = ["operator"]', 'issuers = ["https://id.example/x"]')),
}


@pytest.mark.parametrize("how", CHANGED)
def test_somebody_it_serves_no_longer_gets_receipts_of_their_refusals_alone(home: Home, how: str) -> None:
    answer, denied, absent = asked(home, known(*CHANGED[how]), ANSWER, DENIED, ABSENT)
    assert (answer[0], answer[1]["error"]["code"]) == (403, "not_eligible")
    assert "the charter" in answer[1]["error"]["message"]
    assert "salts" not in answer[1]
    assert (denied[0], absent[0]) == (200, 404)
    assert asked(home, known(*CHANGED[how]), ANSWER, secret=OTHER_SECRET)[0][0] == 404, "and others learn nothing"
    assert asked(home, known(), ANSWER)[0][0] == 200, "until it is put right"

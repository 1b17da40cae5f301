"""An erasure is agreed to, goes through whatever fails, leaves nothing that names anybody, and the log as it was."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.pipeline.test_consent import House, run

from daulat.core import entries
from daulat.core.commitments import pseudonym
from daulat.errors import Conflict, InvalidRequest, NotFound, Unavailable
from daulat.pipeline.erase import Erasing, Erasure


class Site:
    """An installation with an agency of two people, and a vault that may be away."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.house = folder, House(folder)
        self.rows = self.house.rows
        self.away = 0
        self.destroyed: list[tuple[str, str, list[str]]] = []
        self.erasure = Erasure(self.rows, self.house.write, 0, self._destroy)
        desk = self.house.desk
        self.agency = run(desk.add_tenant("agency"))["id"]
        self.other = run(desk.add_tenant("other"))["id"]
        people = [("aminah", "agency"), ("badrul", "agency"), ("chandra", "other")]
        self.ids = {
            name: run(desk.add_person(name, tenant, "MY", "substantial", ["user"], days=30))["id"]
            for name, tenant in people
        }
        for name, _ in people:
            run(desk.create_key(name, f"of {name}", [], 0, days=30))

    async def _destroy(self, scope: str, name: str, people: Sequence[str]) -> tuple[int, int]:
        if self.away:
            self.away -= 1
            raise Unavailable("the vault is away")
        self.destroyed.append((scope, name, list(people)))
        return 1 + len(people), 3

    def act(self, scope: Any) -> Erasing:
        return Erasing(scope, self.rows, self.erasure)

    def names(self, table: str) -> list[str]:
        return [row.get("name", row.get("label")) for row in self.rows.rows(table)]

    def said(self, type_: str) -> list[dict[str, Any]]:
        every = (entries.decode(entry) for entry in self.house.log)
        return [entry for entry in every if entry["type"] == type_]

    def bytes_on_disk(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.folder.iterdir() if path.is_file())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_person_is_gone_from_the_rows_the_vault_and_the_disk(site: Site) -> None:
    id_ = site.ids["aminah"]
    house = site.rows.find("tenants", "agency")
    before = pseudonym(base64.b64decode(house["epoch_key"]), "principal", id_)
    prepared = site.act("person").prepare({"person": "aminah"})
    assert prepared.subject == before
    assert "aminah" not in repr(prepared.detail)
    found = run(prepared.carry_out())
    assert site.destroyed == [("person", id_, [])]
    assert site.names("people")[-2:] == ["badrul", "chandra"]
    assert "of aminah" not in site.names("keys")
    (entry,) = site.said("erasure/v1")
    counts = {name: entry[name] for name in ("scope", "subject", "keys", "objects", "rows")}
    assert counts == {"scope": "person", "subject": before, "keys": 1, "objects": 3, "rows": 2}
    assert found["entry"] == len(site.house.log) - 1
    for word in (id_, "aminah"):
        assert word.encode() not in site.bytes_on_disk(), word
    assert b"badrul" in site.bytes_on_disk()


def test_a_tenant_takes_its_people_and_its_epoch_key_along(site: Site) -> None:
    epoch_key = site.rows.find("tenants", "agency")["epoch_key"]
    run(site.act("tenant").prepare({"tenant": "agency"}).carry_out())
    assert site.destroyed == [("tenant", site.agency, sorted([site.ids["aminah"], site.ids["badrul"]]))]
    assert "agency" not in site.names("tenants")
    assert site.names("people")[-1] == "chandra"
    assert site.said("erasure/v1")[0]["rows"] == 5
    for word in (epoch_key, "aminah", "badrul", *(site.ids[name] for name in ("aminah", "badrul"))):
        assert word.encode() not in site.bytes_on_disk(), word


def test_whoever_was_erased_and_is_here_again_is_found_with_the_tenant_once(site: Site) -> None:
    """As where a control database was set back: the same rows, and a log that tells of an erasure."""
    whoever = {name: site.act("person").prepare({"person": name}).subject for name in ("aminah", "badrul", "chandra")}
    agency = site.act("tenant").prepare({"tenant": "agency"}).subject
    assert site.erasure.back(set()) == []
    assert site.erasure.back({("tenant", whoever["aminah"]), ("person", "d" * 22)}) == [], "a scope is part of it"
    (found,) = site.erasure.back({("person", whoever["aminah"])})
    assert (found.id, found.subject) == (site.ids["aminah"], whoever["aminah"])
    both = site.erasure.back({("person", whoever["aminah"]), ("tenant", agency), ("person", whoever["chandra"])})
    assert [whom.id for whom in both] == [site.agency, site.ids["chandra"]]
    for whom in both:
        run(site.erasure.erase(whom))
    assert [entry["subject"] for entry in site.said("erasure/v1")] == [agency, whoever["chandra"]]
    assert not site.erasure.waits()
    assert site.erasure.back({("person", whoever["aminah"]), ("tenant", agency)}) == []


def test_it_goes_on_where_it_was_cut_off(site: Site) -> None:
    site.away = 2
    prepared = site.act("person").prepare({"person": "aminah"})
    with pytest.raises(Unavailable):
        run(prepared.carry_out())
    with pytest.raises(Unavailable):
        run(site.erasure.go_on())
    assert not site.said("erasure/v1")
    assert "aminah" not in site.names("people"), "nobody asks with their keys meanwhile"
    run(site.erasure.go_on())
    assert len(site.said("erasure/v1")) == 1
    run(site.erasure.go_on())
    assert len(site.said("erasure/v1")) == 1
    assert site.ids["aminah"].encode() not in site.bytes_on_disk()


def test_a_log_that_cannot_be_written_leaves_it_to_be_said_later(site: Site) -> None:
    site.house.broken = True
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever the log raises
        run(site.act("person").prepare({"person": "aminah"}).carry_out())
    site.house.broken = False
    run(site.erasure.go_on())
    (entry,) = site.said("erasure/v1")
    assert (entry["keys"], entry["objects"], entry["rows"]) == (1, 3, 2)


def kept(site: Site, number: int, action: str, **arguments: Any) -> str:
    """A proposal that was done; its text."""
    text = site.act("person").payload(arguments)
    row = {"id": f"proposal_{number}", "name": f"proposal_{number}", "origin": "o", "action": action}
    place = {"prior": "", "expires": 1, "key": site.rows.rows("operator_keys")[0]["id"], "position": 1, "done": 1}
    site.rows.add("proposals", {**row, "payload": text, **place})
    return text


def test_proposals_lose_the_texts_that_name_them_and_keep_what_was_signed(site: Site) -> None:
    kept(site, 0, "person.erase", person="aminah")
    other = kept(site, 1, "person.erase", person="badrul")
    run(site.act("person").prepare({"person": "aminah"}).carry_out())
    assert [row["payload"] for row in site.rows.rows("proposals")] == ["", other]
    assert b"aminah" not in site.bytes_on_disk()


def test_proposals_about_a_namesake_stay(site: Site) -> None:
    """Of another tenant, of the operators, or by another act: a name alone is nobody's."""
    mine = kept(site, 0, "data.export", person="aminah")
    run(site.house.desk.add_person("aminah", "other", "MY", "substantial", ["user"], days=30))
    namesake = site.rows.rows("people")[-1]["id"]
    texts = [
        mine,  # from when the name was hers alone; now it says of neither who was meant
        kept(site, 1, "data.export", person=namesake),
        kept(site, 2, "operator.add", **site.house.someone("devi", name="aminah")),
        kept(site, 3, "operator.revoke", name="aminah", reason="aminah"),
        kept(site, 4, "retention.set", tenant="aminah", files=1, completions=None),
    ]
    kept(site, 5, "data.export", person=site.ids["aminah"])
    run(site.act("person").prepare({"person": site.ids["aminah"]}).carry_out())
    assert [row["payload"] for row in site.rows.rows("proposals")] == [*texts, ""]


def test_with_a_tenant_go_the_proposals_about_it_and_its_people(site: Site) -> None:
    kept(site, 0, "data.export", person="badrul")
    kept(site, 1, "retention.set", tenant="agency", files=1, completions=None)
    other = [
        kept(site, 2, "data.export", person="chandra"),
        kept(site, 3, "retention.set", tenant=site.other, files=1, completions=None),
    ]
    run(site.act("tenant").prepare({"tenant": "agency"}).carry_out())
    assert [row["payload"] for row in site.rows.rows("proposals")] == ["", "", *other]


def test_an_open_proposal_about_whoever_was_erased_is_void_and_says_so(site: Site) -> None:
    house = site.house
    house.acts["person.erase"] = site.act("person")
    draft = house.draft("person.erase", person="aminah")
    house.propose(draft)
    run(site.act("person").prepare({"person": "aminah"}).carry_out())
    with pytest.raises(Conflict, match="is void: whom it was about has been erased") as caught:
        house.approve(draft, "bina")
    assert caught.value.code == "void"
    assert house.consent.show(draft["proposal"])["state"] == "void"
    assert [row["state"] for row in house.consent.all()] == ["void"]


def test_texts_go_also_where_it_was_cut_off_behind_the_rows(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(site, 0, "data.export", person="aminah")
    change = site.rows.change

    def cut_off(*_: Any, **__: Any) -> None:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(site.rows, "change", cut_off)
    with pytest.raises(Unavailable):
        run(site.act("person").prepare({"person": "aminah"}).carry_out())
    assert "aminah" not in site.names("people")
    monkeypatch.setattr(site.rows, "change", change)
    run(site.erasure.go_on())
    assert [row["payload"] for row in site.rows.rows("proposals")] == [""]


def test_operators_and_nobody_are_not_erased(site: Site) -> None:
    operator = next(row for row in site.rows.rows("people") if row["roles"] == ["operator"])
    for act, arguments in (("person", {"person": operator["id"]}), ("tenant", {"tenant": "operators"})):
        with pytest.raises(Conflict, match="operators"):
            site.act(act).prior(arguments)
    with pytest.raises(NotFound):
        site.act("person").prior({"person": "nobody"})
    for wrong in ({}, {"person": 1}, {"tenant": "agency"}, {"person": "aminah", "also": "badrul"}):
        with pytest.raises(InvalidRequest):
            site.act("person").prior(wrong)


def test_the_state_it_is_for_is_the_person_there_is(site: Site) -> None:
    before = site.act("tenant").prior({"tenant": "agency"})
    run(site.house.desk.add_person("dewi", "agency", "MY", "substantial", ["user"], days=30))
    assert site.act("tenant").prior({"tenant": "agency"}) != before


def test_the_control_database_overwrites_what_it_deletes(site: Site) -> None:
    site.rows.close()
    connection = sqlite3.connect(site.folder / "control.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()

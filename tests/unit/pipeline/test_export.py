"""Everything held about a person is given out by consent alone, once for each, and the log says what, not of whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.pipeline.test_consent import DAY, House, run

from daulat.core import entries
from daulat.core.export import ACT
from daulat.errors import Conflict, InvalidRequest, NotFound, SealBroken
from daulat.pipeline import export
from daulat.pipeline.correct import Correcting
from daulat.pipeline.erase import Erasure, Whom
from daulat.pipeline.export import Exporting, Exports

HELD = {"rows": 3, "files": 2, "completions": 1, "entries": 9}
DIGEST = "0123456789abcdef" * 4


class Site:
    """An installation with two people, one of whom asks what is held about them."""

    def __init__(self, folder: Path) -> None:
        self.house = House(folder)
        self.rows = self.house.rows
        run(self.house.desk.add_tenant("agency"))
        people = {"aminah": ["user"], "badrul": ["user", "tenant-admin"]}
        self.ids = {
            name: run(self.house.desk.add_person(name, "agency", "MY", "substantial", roles, days=30))["id"]
            for name, roles in people.items()
        }
        self.secrets = [
            run(self.house.desk.create_key(name, f"of {name}", [], 0, days=30))["api_key"] for name in people
        ]
        self.exports = Exports(self.rows, self.house.write, self.house.clock, 0)
        self.house.acts[ACT] = Exporting(self.rows, self.exports)
        self.correcting = Correcting(self.rows, self.house.desk, self.house.clock)

    def agree(self, person: str = "aminah") -> None:
        draft = self.house.draft(ACT, person=person)
        self.house.propose(draft)
        self.house.approve(draft, "bina")
        self.house.approve(draft, "chong")

    def said(self, type_: str) -> list[dict[str, Any]]:
        every = (entries.decode(entry) for entry in self.house.log)
        return [entry for entry in every if entry["type"] == type_]

    def made(self, person: str = "aminah") -> dict[str, int]:
        return run(self.exports.made(self.exports.open(person)["export"], DIGEST, HELD, sealed=True))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.rows.close()


def test_nothing_is_given_out_before_others_have_agreed(site: Site) -> None:
    draft = site.house.draft(ACT, person="aminah")
    site.house.propose(draft)
    for look in (site.exports.open, site.exports.held):
        with pytest.raises(NotFound, match="nobody has agreed"):
            look("aminah")
    site.house.approve(draft, "bina")
    with pytest.raises(NotFound, match="nobody has agreed"):
        site.exports.held("aminah")
    site.house.approve(draft, "chong")
    assert site.exports.held("aminah")["person"] == site.ids["aminah"]
    with pytest.raises(NotFound, match="nobody has agreed"):
        site.exports.held("badrul")


def test_it_is_that_persons_rows_and_no_secret(site: Site) -> None:
    site.agree()
    row = {"id": "session_1", "name": "digest of a secret", "person": site.ids["aminah"], "issuer": "i"}
    site.rows.add("sessions", {**row, "binding": "of a client", "created": 1, "expires": 2, "revoked": None})
    site.rows.add("identities", {"id": "identity_1", "name": "a keyed hash", "person": site.ids["aminah"]})
    found = site.exports.held("aminah")
    rows = found["rows"]
    assert [row["name"] for row in rows["person"]] == ["aminah"]
    assert [row["label"] for row in rows["keys"]] == ["of aminah"]
    assert rows["sessions"] == [{"id": "session_1", "issuer": "i", "created": 1, "expires": 2, "revoked": None}]
    assert rows["identities"] == [{"id": "identity_1", "name": "a keyed hash"}]
    text = repr(found)
    hidden = [*site.secrets, "badrul", "digest of a secret", "of a client"]
    hidden += [row["digest"] for row in site.rows.rows("keys")]
    hidden += [row["epoch_key"] for row in site.rows.rows("tenants")]
    assert not [word for word in hidden if word in text]


def test_an_agreement_is_good_for_one_archive_and_a_week(site: Site) -> None:
    site.agree()
    assert site.made() == {"entry": len(site.house.log) - 1}
    (entry,) = site.said("export/v1")
    (action,) = site.said("operator.action/v2")
    assert entry["subject"] == action["subject"]
    assert (entry["held"], entry["digest"], entry["sealed"]) == (HELD, DIGEST, True)
    assert b"aminah" not in b"".join(site.house.log)
    assert site.house.audited() == []
    with pytest.raises(NotFound):
        site.made()
    site.agree()
    site.house.clock.now += 7 * DAY
    with pytest.raises(NotFound):
        site.made()


def test_what_is_given_out_unagreed_or_twice_is_a_lie_in_the_log(site: Site) -> None:
    site.agree()
    site.made()
    (entry,) = site.said("export/v1")
    run(site.house.write("export/v1", {name: entry[name] for name in entries.SHAPES["export/v1"].fields[2:]}))
    (lie,) = site.house.audited()
    assert "nobody has agreed to it" in lie


@pytest.mark.parametrize(
    "changes", [{"held": {"rows": 1}}, {"held": {**HELD, "rows": -1}}, {"digest": 1}, {"sealed": "yes"}, {"subject": 1}]
)
def test_an_entry_of_another_shape_is_a_lie(site: Site, changes: dict[str, Any]) -> None:
    site.agree()
    site.made()
    (entry,) = site.said("export/v1")
    site.agree()
    fields = {name: entry[name] for name in entries.SHAPES["export/v1"].fields[2:]}
    run(site.house.write("export/v1", {**fields, **changes}))
    assert len(site.house.audited()) == 1


def test_a_log_that_cannot_be_written_uses_the_agreement_up(site: Site) -> None:
    site.agree()
    export_ = site.exports.open("aminah")["export"]
    site.house.broken = True
    with pytest.raises(SealBroken):
        site.made()
    site.house.broken = False
    with pytest.raises(NotFound):
        run(site.exports.made(export_, DIGEST, HELD, sealed=True))
    assert site.said("export/v1") == []


def test_what_is_no_digest_and_no_count_is_refused(site: Site) -> None:
    site.agree()
    export_ = site.exports.open("aminah")["export"]
    for digest, held in (("x" * 64, HELD), (DIGEST.upper(), HELD), (DIGEST, {**HELD, "rows": "3"}), (DIGEST, {})):
        with pytest.raises(InvalidRequest):
            run(site.exports.made(export_, digest, held, sealed=True))
    assert site.exports.open("aminah")["export"] == export_


def test_an_erased_person_leaves_no_agreement_behind(site: Site) -> None:
    site.agree()

    async def destroyed(*_: object) -> tuple[int, int]:
        return 0, 0

    erasure = Erasure(site.rows, site.house.write, 0, destroyed)
    run(erasure.erase(Whom("person", site.ids["aminah"], "d" * 22, ())))
    assert site.rows.rows("exports") == []
    with pytest.raises(NotFound):
        site.exports.open("aminah")


def test_a_person_is_named_and_nothing_else(site: Site) -> None:
    for wrong in ({}, {"person": 1}, {"person": "aminah", "also": 1}):
        with pytest.raises(InvalidRequest):
            site.house.acts[ACT].prior(wrong)
    with pytest.raises(NotFound):
        site.house.acts[ACT].prior({"person": "nobody"})


def test_the_entries_about_somebody_are_those_where_they_stand_at_any_depth() -> None:
    log = [
        ("log/1", 0, {"type": "a", "person": "x" * 22}),
        ("log/1", 1, {"type": "b", "detail": {"deep": [{"person": "x" * 22}]}}),
        ("log/1", 2, {"type": "c", "principals": {"x" * 22: 3}}),
        ("log/1", 3, {"type": "d", "vkey": f"{'x' * 22}+1234+key"}),
        ("log/1", 4, {"type": "e", "person": "y" * 22, "text": f"not {'x' * 22}"}),
    ]
    assert [each["index"] for each in export.about(["x" * 22], log)] == [0, 1, 2, 3]


def test_use_is_summed_by_model() -> None:
    totals: dict[str, Counter[str]] = {}
    usage = {"prompt_tokens": 5, "cached_tokens": 1, "completion_tokens": 2}
    for _ in range(2):
        said = {"admission": {"requested_model": "m"}, "completion": {"usage": usage}}
        export.usage(totals, {"type": "inference/v1", **said})
    export.usage(totals, {"type": "identity/v1"})
    assert totals == {"m": {"requests": 2, "prompt_tokens": 10, "cached_tokens": 2, "completion_tokens": 4}}


# Correction.


def test_a_name_is_put_right_and_the_log_does_not_learn_it(site: Site) -> None:
    found = run(site.correcting.correct("aminah", {"name": "Siti Aminah"}))
    assert found == {"id": site.ids["aminah"], "name": "Siti Aminah", "changed": ["name"]}
    entry = site.said("operator.action/v1")[-1]
    assert (entry["action"], entry["detail"]) == ("person.correct", {"changed": ["name"]})
    assert b"aminah" not in b"".join(site.house.log).lower()
    assert site.house.audited() == []


def test_what_is_vouched_is_put_right_and_the_log_has_it(site: Site) -> None:
    found = run(site.correcting.correct("aminah", {"citizenship": "", "assurance": "low", "name": "A"}))
    assert found["changed"] == ["assurance", "citizenship", "name"]
    vouched, named = site.said("operator.action/v1")[-2:]
    assert (vouched["action"], named["action"]) == ("person.change", "person.correct")
    assert (vouched["detail"]["citizenship"], vouched["detail"]["assurance"]) == ("", "low")
    row = site.rows.find("people", site.ids["aminah"])
    assert (row["name"], row["citizenship"], row["version"]) == ("A", "", 2)
    assert site.house.audited() == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, InvalidRequest),
        ({"name": "aminah"}, InvalidRequest),
        ({"name": ""}, InvalidRequest),
        ({"name": "a\nb"}, InvalidRequest),
        ({"name": "badrul"}, Conflict),
        ({"citizenship": "Malaysia"}, InvalidRequest),
        ({"assurance": "certain"}, InvalidRequest),
        ({"roles": ["operator"]}, InvalidRequest),
        ({"roles": "user"}, InvalidRequest),
        ({"roles": [1]}, InvalidRequest),
        ({"days": 0}, InvalidRequest),
        ({"days": True}, InvalidRequest),
        ({"version": 7}, InvalidRequest),
    ],
)
def test_what_cannot_be_right_changes_nothing(site: Site, changes: dict[str, Any], error: type[Exception]) -> None:
    before, size = site.rows.find("people", "aminah"), len(site.house.log)
    with pytest.raises(error):
        run(site.correcting.correct("aminah", changes))
    assert site.rows.find("people", "aminah") == before
    assert len(site.house.log) == size


def test_operators_are_corrected_by_nobody_alone(site: Site) -> None:
    with pytest.raises(Conflict, match="by consent"):
        run(site.correcting.correct("bina", {"name": "another"}))

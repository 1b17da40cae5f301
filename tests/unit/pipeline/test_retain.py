"""How long a tenant's objects are kept changes by consent alone, and the log names nobody."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.unit.pipeline.test_consent import House, run

from daulat.core import entries
from daulat.core.commitments import pseudonym
from daulat.core.retention import SET, Rule
from daulat.errors import Conflict, InvalidRequest, NotFound, Unavailable
from daulat.pipeline.retain import Kept, Setting

ASKED = {"tenant": "agency", "files": 30, "completions": None}


class Site:
    """An installation with an agency, where two others have to agree."""

    def __init__(self, folder: Path) -> None:
        self.house = House(folder)
        self.agency = run(self.house.desk.add_tenant("agency"))["id"]
        self.kept = Kept(self.house.rows, self.house.write, 0)
        self.woken, self.closed = 0, False
        self.house.acts[SET] = Setting(self.house.rows, self.kept, self._wake)

    async def _wake(self) -> None:
        self.woken += 1
        if self.closed:
            raise Unavailable("the vault is closed")

    def set(self, **changes: Any) -> dict[str, Any]:
        """Proposed by ali, approved by bina and chong."""
        draft = self.propose(**changes)
        self.house.approve(draft, "bina")
        return self.house.approve(draft, "chong")

    def propose(self, **changes: Any) -> dict[str, Any]:
        draft = self.house.draft(SET, **{**ASKED, **changes})
        self.house.propose(draft)
        return draft

    @property
    def pseudonym(self) -> str:
        house = self.house.rows.find("tenants", "agency")
        return pseudonym(base64.b64decode(house["epoch_key"]), "tenant", house["id"])

    def said(self, type_: str) -> list[dict[str, Any]]:
        every = (entries.decode(entry) for entry in self.house.log)
        return [entry for entry in every if entry["type"] == type_]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.house.rows.close()


def test_a_rule_holds_once_two_others_have_agreed(site: Site) -> None:
    draft = site.propose()
    assert site.kept.rule(site.agency) == Rule()
    site.house.approve(draft, "bina")
    assert site.kept.rule(site.agency) == Rule()
    assert site.woken == 0
    site.house.approve(draft, "chong")
    assert site.kept.rule(site.agency) == Rule(files=30)
    assert site.woken == 1
    (entry,) = site.said("operator.action/v2")
    assert entry["subject"] == site.pseudonym
    assert entry["detail"] == {"files": 30, "completions": None, "before": {"files": None, "completions": None}}
    assert b"agency" not in b"".join(site.house.log)


def test_longer_and_back_to_no_rule_need_consent_as_well(site: Site) -> None:
    site.set(files=30)
    site.closed = True  # it asks for the rules when it is open again
    site.set(files=None, completions=7)
    assert site.kept.rule(site.agency) == Rule(None, 7)
    assert site.said("operator.action/v2")[-1]["detail"]["before"] == {"files": 30, "completions": None}
    rows = {row["name"]: (row["files"], row["completions"]) for row in site.kept.all()}
    assert rows == {"operators": (None, None), "agency": (None, 7)}
    site.set(completions=None, files=None)
    assert site.kept.rule(site.agency) == Rule()


def test_an_agreement_is_for_the_rule_that_it_was_made_on(site: Site) -> None:
    draft = site.propose()
    site.set(files=7)
    with pytest.raises(Conflict, match="has changed since"):
        site.house.approve(draft, "bina")
    assert site.kept.rule(site.agency) == Rule(7)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"tenant": "nobody"}, NotFound),
        ({"tenant": 1}, InvalidRequest),
        ({"files": 0}, InvalidRequest),
        ({"files": -1}, InvalidRequest),
        ({"files": True}, InvalidRequest),
        ({"files": "30"}, InvalidRequest),
        ({"files": 36_501}, InvalidRequest),
        ({"also": 1}, InvalidRequest),
    ],
)
def test_what_is_no_rule_is_not_even_drafted(site: Site, arguments: Mapping[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        site.house.acts[SET].prior({**ASKED, **arguments})


def test_what_was_deleted_stands_in_the_log_by_pseudonym_and_the_audit_holds(site: Site) -> None:
    site.set()
    rule = site.kept.rule(site.agency).as_dict()
    found = run(site.kept.deleted("batch_1", site.agency, rule, {"files": 3, "completions": 0}))
    (entry,) = site.said("retention/v1")
    assert found == {"entry": len(site.house.log) - 1}
    assert (entry["tenant"], entry["rule"], entry["deleted"]) == (site.pseudonym, rule, {"files": 3, "completions": 0})
    assert site.house.audited() == []
    run(site.kept.deleted("batch_2", site.agency, {"files": 1, "completions": None}, {"files": 3, "completions": 0}))
    (lie,) = site.house.audited()
    assert "nobody has set" in lie


def test_of_an_erased_tenant_the_counts_are_kept_and_the_rule_is_not(site: Site) -> None:
    site.set()
    site.house.rows.erase("tenants", site.agency)
    assert site.house.rows.rows("retentions") == []
    run(site.kept.deleted("batch_1", site.agency, Rule(30).as_dict(), {"files": 3, "completions": 0}))
    assert site.said("retention/v1")[0]["tenant"] is None
    for wrong in ({"files": 3}, {"files": -1, "completions": 0}, {"files": "3", "completions": 0}):
        with pytest.raises(InvalidRequest):
            run(site.kept.deleted("batch_2", site.agency, Rule(30).as_dict(), wrong))  # type: ignore[arg-type]

"""The operator's desk: what is given is in the log first, what is taken away is taken first, and no name gets out."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from daulat.adapters.control_db import ControlDatabase
from daulat.core.commitments import pseudonym
from daulat.errors import Conflict, InvalidRequest, PermissionDenied, SealBroken
from daulat.identity import secrets
from daulat.pipeline.administer import Admins
from daulat.pipeline.correct import Correcting
from daulat.pipeline.operate import Desk
from daulat.pipeline.provision import Directories

NOW = 1_795_000_000_000
DAY = 86_400_000
T = TypeVar("T")


class Clock:
    def now_ms(self) -> int:
        return NOW

    def boottime(self) -> float:
        return 0.0


class Log:
    """Entries in a list; `fails_at` is the number of the write that fails, as a full disk would make it."""

    def __init__(self) -> None:
        self.entries: list[Mapping[str, Any]] = []
        self.fails_at = -1

    async def write(self, type_: str, fields: Mapping[str, Any]) -> int:
        if len(self.entries) == self.fails_at:
            raise SealBroken("the log could not be written")
        assert type_ == "operator.action/v1"
        self.entries.append(fields)
        return len(self.entries) - 1


class Office:
    def __init__(self, path: Path) -> None:
        self.rows, self.log = ControlDatabase(path), Log()
        self.desk = Desk(self.rows, self.log.write, Clock(), 0)

    def begin(self) -> dict[str, str] | None:
        return run(self.desk.begin())

    def actions(self) -> list[str]:
        return [entry["action"] for entry in self.log.entries]


def run(use_case: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(use_case)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path / "control.db")
    yield made
    made.rows.close()


BEGUN = ["tenant.add", "person.add", "tenant.add", "person.add", "key.create", "auditor.create"]


def test_the_first_ones_are_made_once_and_their_secrets_shown_once(office: Office) -> None:
    made = office.begin()
    assert made is not None
    assert office.actions() == BEGUN
    assert office.begin() is None
    (key,) = office.rows.rows("keys")
    (auditor,) = office.rows.rows("auditors")
    assert key["digest"] == secrets.digest(made["api_key"])
    assert auditor["digest"] == secrets.digest(made["auditor_token"])
    people = {row["name"]: row["roles"] for row in office.rows.rows("people")}
    assert people == {"first-operator": ["operator"], "first-person": ["user"]}


@pytest.mark.parametrize("cut", range(len(BEGUN)))
def test_a_first_start_that_was_cut_off_goes_on_and_still_shows_secrets(office: Office, cut: int) -> None:
    office.log.fails_at = cut
    with pytest.raises(SealBroken):
        office.begin()
    office.log.fails_at = -1
    made = office.begin()
    assert made is not None
    assert [row["name"] for row in office.rows.rows("tenants")] == ["operators", "first-agency"]
    assert [row["name"] for row in office.rows.rows("people")] == ["first-operator", "first-person"]
    assert secrets.digest(made["api_key"]) in {row["digest"] for row in office.rows.rows("keys")}
    assert len(office.rows.rows("auditors")) == 1


@pytest.mark.parametrize("act", ["tenant", "person", "key", "auditor"])
def test_nothing_is_given_that_is_not_in_the_log(office: Office, act: str) -> None:
    office.begin()
    acts = {
        "tenant": lambda: office.desk.add_tenant("ministry"),
        "person": lambda: office.desk.add_person("aminah", "first-agency", "MY", "high", ["user"], days=1),
        "key": lambda: office.desk.create_key("first-person", "laptop", [], 0, days=1),
        "auditor": lambda: office.desk.create_auditor("national-audit", days=1),
    }
    before = {table: office.rows.rows(table) for table in ("tenants", "people", "keys", "auditors")}
    office.log.fails_at = len(office.log.entries)
    with pytest.raises(SealBroken):
        run(acts[act]())
    assert {table: office.rows.rows(table) for table in before} == before


def test_what_is_taken_away_is_gone_even_if_its_entry_cannot_be_written(office: Office) -> None:
    office.begin()
    office.log.fails_at = len(office.log.entries)
    with pytest.raises(SealBroken):
        run(office.desk.revoke_key("first-key"))
    with pytest.raises(SealBroken):
        run(office.desk.revoke_auditor("first-auditor"))
    assert office.rows.rows("keys")[0]["revoked"] == NOW
    assert office.rows.rows("auditors")[0]["revoked"] == NOW


def test_the_log_sees_pseudonyms_and_who_acted(office: Office) -> None:
    office.begin()
    operator = office.desk.operator()[0]
    assert len(operator) == 22
    assert [entry["operator"] for entry in office.log.entries] == ["", "", *[operator] * 4]
    text = json.dumps([dict(entry) for entry in office.log.entries])
    for row in (*office.rows.rows("people"), *office.rows.rows("tenants"), *office.rows.rows("keys")):
        assert row["id"] not in text
        assert row.get("name", "first-key") not in text
    assert office.desk.operator()[1] == "MY"


def test_a_name_is_free_within_a_tenant_and_an_id_tells_two_apart(office: Office) -> None:
    office.begin()
    run(office.desk.add_tenant("ministry"))
    there = run(office.desk.add_person("first-person", "ministry", "", "low", ["user"], days=1))
    with pytest.raises(Conflict, match="give the id"):
        run(office.desk.create_key("first-person", "", [], 0, days=1))
    assert run(office.desk.create_key(there["id"], "", [], 0, days=9))["label"] == "key"
    for taken in ("ministry", "operators"):
        with pytest.raises(Conflict, match="exists already"):
            run(office.desk.add_tenant(taken))
    with pytest.raises(Conflict, match="exists already"):
        run(office.desk.add_person("first-person", "ministry", "", "low", ["user"], days=1))


def test_a_key_does_not_outlive_what_was_vouched_for_its_holder(office: Office) -> None:
    office.begin()
    run(office.desk.add_person("guest", "first-agency", "MY", "substantial", ["user"], days=2))
    assert run(office.desk.create_key("guest", "short", [], 0, days=1))["expires"] == NOW + DAY
    assert run(office.desk.create_key("guest", "long", [], 0, days=90))["expires"] == NOW + 2 * DAY


def test_a_citizenship_may_end_before_the_person_and_takes_the_keys_with_it(office: Office) -> None:
    office.begin()
    vouched = run(office.desk.add_person("guest", "first-agency", "MY", "high", ["user"], days=9, citizenship_days=2))
    assert (vouched["issuer"], vouched["until"], vouched["expires"]) == ("operator", NOW + 2 * DAY, NOW + 9 * DAY)
    assert run(office.desk.create_key("guest", "long", [], 0, days=90))["expires"] == NOW + 2 * DAY
    none = run(office.desk.add_person("resident", "first-agency", "", "low", ["user"], days=9))
    assert (none["until"], none["expires"]) == (0, NOW + 9 * DAY)


def test_whoever_operates_does_not_audit(office: Office) -> None:
    office.begin()
    for tenant in ("first-agency", "operators"):
        with pytest.raises(InvalidRequest, match="exclude each other"):
            run(office.desk.add_person("both", tenant, "MY", "high", ["operator", "auditor"], days=1))
    with pytest.raises(InvalidRequest, match="may be user, tenant-admin, auditor"):
        run(office.desk.add_person("both", "first-agency", "MY", "high", ["operator"], days=1))
    with pytest.raises(InvalidRequest, match="may be operator"):
        run(office.desk.add_person("both", "operators", "MY", "high", ["auditor"], days=1))
    for name in ("first-operator", "First-Operator", " first-operator ", "ｆirst-operator"):
        with pytest.raises(Conflict, match="does not audit"):
            run(office.desk.create_auditor(name, days=1))
    for name in ("first-auditor", "FIRST-auditor"):
        with pytest.raises(Conflict, match="does not operate"):
            run(office.desk.add_person(name, "operators", "MY", "high", ["operator"], days=1))
    run(office.desk.revoke_auditor("first-auditor"))
    run(office.desk.add_person("first-auditor", "operators", "MY", "high", ["operator"], days=1))
    assert run(office.desk.add_person("reader", "first-agency", "", "low", ["auditor"], days=1))["roles"] == ["auditor"]


def test_a_keys_networks_are_written_in_one_form_and_stand_in_the_log_under_pseudonyms(office: Office) -> None:
    office.begin()
    given = ["2001:db8::/32", "192.0.2.1", "10.0.0.0/8"]
    networks = ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]
    told = []
    for _ in range(2):
        run(office.desk.create_key("first-person", "", [], 0, days=1, networks=given))
        row, entry = office.rows.rows("keys")[-1], office.log.entries[-1]
        assert row["networks"] == networks
        assert not any(part in json.dumps(entry) for part in ("192.0.2", "2001:db8", "10.0.0"))
        epoch_key = base64.b64decode(office.rows.find("tenants", "first-agency")["epoch_key"])
        named = [pseudonym(epoch_key, "network", f"{row['id']}\n{network}") for network in networks]
        assert entry["detail"]["networks"] == sorted(named), "who has the keys of the tenant can still tell which"
        told += named
    assert len(set(told)) == 6, "that two keys are for one network, the log does not say"
    for wrong in ("10.0.0.1/8", "here", "", "1.2.3.4/33"):
        with pytest.raises(InvalidRequest, match=r"written as 192\.0\.2\.0/24"):
            run(office.desk.create_key("first-person", "", [], 0, days=1, networks=[wrong]))
    with pytest.raises(InvalidRequest, match="64 networks"):
        run(office.desk.create_key("first-person", "", [], 0, days=1, networks=[f"10.0.{n}.0/24" for n in range(65)]))


@pytest.mark.parametrize("days", [0, -1, 36_501])
def test_days_are_bounded(office: Office, days: int) -> None:
    office.begin()
    with pytest.raises(InvalidRequest, match="1 to 36500"):
        run(office.desk.create_auditor("x", days=days))


def test_lists_are_without_secrets(office: Office) -> None:
    made = office.begin()
    assert made is not None
    text = json.dumps([office.desk.list(table) for table in ("tenants", "people", "keys", "auditors")])
    for secret in (*made.values(), *(secrets.digest(value) for value in made.values())):
        assert secret not in text
    assert all(row["epoch_key"] not in text for row in office.rows.rows("tenants"))


def test_where_others_have_to_agree_nobody_adds_an_operator(office: Office) -> None:
    office.begin()
    desk, size = Desk(office.rows, office.log.write, Clock(), 0, 2), len(office.log.entries)
    for tenant, roles in (("operators", ["operator"]), ("operators", []), ("first-agency", ["user", "operator"])):
        with pytest.raises(PermissionDenied, match="daulat operate add-operator devi"):
            run(desk.add_person("devi", tenant, "MY", "high", roles, days=1))
    assert len(office.log.entries) == size
    assert run(desk.add_person("devi", "first-agency", "MY", "high", ["user"], days=1))["name"] == "devi"


def test_who_came_from_a_ceremony_is_not_joined_by_a_first_operator(office: Office) -> None:
    desk = Desk(office.rows, office.log.write, Clock(), 0, 2)
    run(desk.add_tenant("operators"))
    house = office.rows.find("tenants", "operators")["id"]
    person = {"tenant": house, "citizenship": "MY", "assurance": "high", "roles": ["operator"], "version": 1}
    office.rows.add("people", {"id": "p1", "name": "left", **person, "expires": NOW})
    office.rows.add("people", {"id": "p2", "name": "aminah", **person, "expires": NOW + 1})
    run(desk.begin())
    assert [row["name"] for row in office.rows.rows("people")] == ["left", "aminah", "first-person"]
    assert desk.first_operator()["name"] == "aminah", "whose eligibility has ended answers for nothing"


@pytest.mark.parametrize("name", ["900101-14-5678", "Aminah 900101145678", "900101 14 5678@agency.example"])
def test_no_name_and_no_label_holds_an_identity_number(office: Office, name: str) -> None:
    office.begin()
    wrong: list[Coroutine[Any, Any, Any]] = [
        office.desk.add_tenant(name),
        office.desk.add_person(name, "first-agency", "", "low", ["user"], days=1),
        office.desk.create_key("first-person", name, [], 0, days=1),
        office.desk.create_auditor(name, days=1),
        Admins(office.rows, office.desk, Clock()).create_key("first-operator", name, 1),
        Correcting(office.rows, office.desk, Clock()).correct("first-person", {"name": name, "assurance": "high"}),
        Directories(office.rows, Clock()).create(office.desk, "first-agency", name, "", 1, 1),
    ]
    known = (len(office.log.entries), held(office))
    for act in wrong:
        with pytest.raises(InvalidRequest, match="holds an identity number, which is never kept in clear") as refused:
            run(act)
        assert name not in refused.value.message
    assert (len(office.log.entries), held(office)) == known


def held(office: Office) -> str:
    return json.dumps([office.rows.rows(table) for table in ("tenants", "people", "keys", "admin_keys", "auditors")])

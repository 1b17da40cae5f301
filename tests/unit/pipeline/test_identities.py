"""People who prove who they are: taken in or not, in session or not, with keys or not; and what the log has of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support import oidc
from tests.support.people import DAY, Office, run

from daulat.core.commitments import pseudonym
from daulat.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, Unauthenticated
from daulat.identity import claims, providers
from daulat.identity.directory import Directory
from daulat.identity.providers import Provider
from daulat.pipeline import publish
from daulat.pipeline.administer import Admins
from daulat.pipeline.correct import Correcting

KEY = {"label": "laptop", "models": [], "requests_per_minute": 0, "days": 90, "networks": []}


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path / "control.db")
    yield made
    made.rows.close()


def refused(code: str, act: Any, kind: type[Exception] = PermissionDenied) -> str:
    with pytest.raises(kind) as said:
        act()
    assert said.value.code == code  # type: ignore[attr-defined]
    return said.value.message  # type: ignore[attr-defined,no-any-return]


def key(office: Office, session: str, binding: str = "here", **changes: Any) -> dict[str, Any]:
    return dict(run(office.call("me.key.create", session=session, binding=binding, **{**KEY, **changes})))


def me(office: Office, session: str, binding: str = "here") -> dict[str, Any]:
    return dict(run(office.call("me", session=session, binding=binding)))


def test_whoever_is_invited_becomes_that_person_once_and_is_known_from_then_on(office: Office) -> None:
    invitation = office.invited()
    first = office.sign_in(invitation=invitation)
    assert first["person"]["citizenship"] == "MY"
    assert (first["person"]["issuer"], first["person"]["assurance"]) == (oidc.ISSUER, "substantial")
    again = office.sign_in()
    assert again["person"]["id"] == first["person"]["id"]
    assert again["session"] != first["session"]
    assert "unknown, was used" in refused(
        "invitation_invalid", lambda: office.sign_in(sub="other", nric="1", invitation=invitation)
    )
    with pytest.raises(Conflict, match="needs no invitation"):
        run(office.identities.invite("aminah", days=7))
    assert office.events() == [("signed-in", None), ("signed-in", None), ("refused", "invitation_invalid")]


def test_whoever_nobody_invited_is_refused_with_words_and_the_log_counts_it(office: Office) -> None:
    for _ in range(5):
        assert "Ask an operator for an invitation" in refused("not_invited", office.sign_in)
    assert office.rows.rows("sessions") == office.rows.rows("identities") == []
    office.clock.pass_seconds(61)
    refused("not_invited", office.sign_in)
    details = [entry["detail"] for entry in office.entries]
    assert details == [{"code": "not_invited", "count": 1}, {"code": "not_invited", "count": 5}]
    assert all(entry["person"] is None and entry["issuer"] == oidc.ISSUER for entry in office.entries)


def test_an_invitation_ends_and_is_for_somebody_who_is_not_known_yet(office: Office) -> None:
    late = office.invited("bakar")
    office.clock.pass_seconds(7 * 86_400)
    refused("invitation_invalid", lambda: office.sign_in(invitation=late))
    refused("invitation_invalid", lambda: office.sign_in(invitation="in-guessed"))
    office.sign_in(invitation=office.invited("aminah"))
    assert "somebody else" in refused("known_already", lambda: office.sign_in(invitation=office.invited("chong")))
    for days in (0, 31):
        with pytest.raises(InvalidRequest, match="1 to 30"):
            run(office.identities.invite("chong", days=days))
    with pytest.raises(NotFound):
        run(office.identities.invite("nobody", days=7))


def test_a_provider_that_may_place_people_does_so_and_only_where_the_operator_has_said(tmp_path: Path) -> None:
    office = Office(tmp_path / "control.db", settings=oidc.settings(provision="mapped"))
    taken = office.sign_in(agency="health")["person"]
    assert (taken["tenant"], taken["roles"]) == ("first-agency", ["user"])
    row = office.rows.find("people", taken["id"])
    assert (row["name"], row["expires"], row["version"]) == (taken["id"], oidc.NOW * 1000 + 365 * DAY, 1)
    refused("not_invited", lambda: office.sign_in(sub="other", nric="2", agency="elsewhere"))
    office.rows.close()
    operators = Office(
        tmp_path / "other.db", settings=oidc.settings(provision="mapped", tenants='health = "operators"')
    )
    refused("roles_refused", lambda: operators.sign_in(agency="health"))
    operators.rows.close()


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[Office]:
    """Two agencies of this provider's are tenants here."""
    tenants = 'health = "first-agency", works = "ministry-of-works"'
    made = Office(tmp_path / "control.db", settings=oidc.settings(provision="mapped", tenants=tenants))
    run(made.desk.add_tenant("ministry-of-works"))
    made.entries.clear()
    yield made
    made.rows.close()


def good_keys(office: Office, person: str) -> list[str]:
    return [row["id"] for row in office.rows.rows("keys") if row["person"] == person and row["revoked"] is None]


@pytest.mark.parametrize(
    ("agency", "code", "words"),
    [
        (None, "placed_nowhere", "does not place you in a tenant any more"),
        ("elsewhere", "placed_nowhere", "does not place you in a tenant any more"),
        ("works", "placed_elsewhere", "places you in another tenant"),
    ],
)
def test_whom_a_provider_has_placed_leaves_when_it_places_them_there_no_more(
    mapped: Office, agency: str | None, code: str, words: str
) -> None:
    begun = mapped.sign_in(agency="health")
    person = begun["person"]["id"]
    key(mapped, begun["session"])
    before = mapped.published
    assert words in refused(code, lambda: mapped.sign_in(agency=agency))
    row = mapped.rows.find("people", person)
    assert (row["expires"], row["version"]) == (mapped.clock.now_ms(), 2)
    assert good_keys(mapped, person) == []
    assert mapped.published == before + 1, "workers hear of it"
    refused("no_session", lambda: me(mapped, begun["session"]), Unauthenticated)
    assert mapped.events() == [("signed-in", None), ("ended", None), ("refused", code)]
    ended = next(entry for entry in mapped.entries if entry.get("event") == "ended")
    assert (len(ended["person"]), ended["issuer"], ended["detail"]) == (22, oidc.ISSUER, {"code": code})
    refused(code, lambda: mapped.sign_in(agency=agency))
    assert mapped.published == before + 1, "and nothing more, however often they come"
    assert [event for event, _ in mapped.events()].count("ended") == 1


def test_whom_it_places_there_again_begins_as_whoever_is_new(mapped: Office) -> None:
    begun = mapped.sign_in(agency="health", realm_access={"roles": ["staff", "head"]})
    person = begun["person"]["id"]
    made = key(mapped, begun["session"])
    run(mapped.identities.invite("first-person", days=7))
    refused("placed_nowhere", mapped.sign_in)
    again = mapped.sign_in(agency="health", nationality=None)["person"]
    assert (again["id"], again["citizenship"], again["roles"]) == (person, "", ["user"])
    assert again["expires"] == mapped.clock.now_ms() + 365 * DAY
    assert mapped.rows.find("keys", made["id"])["revoked"] is not None


def test_a_sign_in_that_still_places_them_renews_their_time(mapped: Office) -> None:
    begun = mapped.sign_in(agency="health")
    person, before = begun["person"]["id"], mapped.published
    mapped.clock.pass_seconds(600)
    assert mapped.sign_in(agency="health")["person"]["expires"] == begun["person"]["expires"]
    assert mapped.published == before, "by a little nobody need hear of"
    mapped.clock.pass_seconds(100 * 86_400)
    assert mapped.sign_in(agency="health")["person"]["expires"] == mapped.clock.now_ms() + 365 * DAY
    assert mapped.published == before + 1
    mapped.clock.pass_seconds(365 * 86_400)
    assert mapped.sign_in(agency="health")["person"]["id"] == person, "as they would be taken in, had they never come"


def test_an_operators_word_on_somebodys_time_takes_the_place_of_the_mapping(mapped: Office) -> None:
    person = mapped.sign_in(agency="health")["person"]["id"]
    refused("placed_nowhere", mapped.sign_in)
    run(Correcting(mapped.rows, mapped.desk, mapped.clock).correct(person, {"days": 30}))
    expires = mapped.clock.now_ms() + 30 * DAY
    mapped.clock.pass_seconds(86_400)
    for agency in (None, "works", "health"):
        assert mapped.sign_in(agency=agency)["person"]["expires"] == expires
    run(Admins(mapped.rows, mapped.desk, mapped.clock).end_person(person))
    for agency in (None, "works", "health"):
        refused("person_expired", lambda agency=agency: mapped.sign_in(agency=agency))


def test_whoever_has_left_can_be_kept_out_by_an_operator(mapped: Office) -> None:
    person = mapped.sign_in(agency="health")["person"]["id"]
    refused("placed_nowhere", mapped.sign_in)
    mapped.clock.pass_seconds(60)
    admins = Admins(mapped.rows, mapped.desk, mapped.clock)
    run(admins.end_person(person))
    refused("person_expired", lambda: mapped.sign_in(agency="health"))
    with pytest.raises(Conflict, match="ended already"):
        run(admins.end_person(person))


def test_whom_an_operator_has_invited_the_mapping_does_not_touch(mapped: Office) -> None:
    person = mapped.sign_in(invitation=mapped.invited())["person"]
    for agency in (None, "works", "health"):
        again = mapped.sign_in(agency=agency)["person"]
        assert (again["id"], again["expires"], again["tenant"]) == (person["id"], person["expires"], "first-agency")


def test_whoever_has_moved_is_invited_to_where_they_are_now(mapped: Office) -> None:
    begun = mapped.sign_in(agency="health")
    usual = {"citizenship": "", "assurance": "low", "roles": ["user"], "days": 300}
    run(mapped.desk.add_person("aminah", "ministry-of-works", **usual))
    early = run(mapped.identities.invite("aminah", days=7))["invitation"]
    refused("known_already", lambda: mapped.sign_in(agency="health", invitation=early))
    moved = mapped.sign_in(agency="works", invitation=early)["person"]
    assert (moved["tenant"], moved["id"]) == ("ministry-of-works", mapped.rows.find("people", "aminah")["id"])
    assert moved["id"] != begun["person"]["id"]
    assert {row["person"] for row in mapped.rows.rows("identities")} == {moved["id"]}
    assert mapped.sign_in(agency="works")["person"]["id"] == moved["id"]
    assert mapped.rows.find("people", begun["person"]["id"])["expires"] <= mapped.clock.now_ms()


def test_whom_an_operator_has_ended_no_invitation_of_anothers_brings_back(mapped: Office) -> None:
    person = mapped.sign_in(agency="health")["person"]["id"]
    run(Admins(mapped.rows, mapped.desk, mapped.clock).end_person(person))
    refused("known_already", lambda: mapped.sign_in(agency="health", invitation=mapped.invited()))


def test_a_provider_that_places_nobody_any_more_ends_nobodys_time(mapped: Office, tmp_path: Path) -> None:
    begun = mapped.sign_in(agency="health")["person"]
    mapped.where = providers.parse(oidc.settings())
    provider = mapped.where.provider["test"]
    seen, given = mapped.seen(), {"binding": "here", "invitation": "", "minutes": 30}
    again = run(mapped.identities.sign_in(provider, seen, **given))["person"]
    assert (again["id"], again["expires"]) == (begun["id"], begun["expires"])


def test_a_number_joins_nobody_to_anybody_where_people_write_it_themselves(office: Office) -> None:
    """Whoever calls themselves by another's number is not that other."""
    mine = office.sign_in(invitation=office.invited("aminah"))["person"]["id"]
    checked = office.where.provider["test"]
    given = {"binding": "here", "minutes": 30}

    def sign_in(provider: Provider, sub: str, invitation: str = "") -> str:
        seen = claims.read(provider, oidc.claims(sub=sub), oidc.KEY, office.clock.now_ms())
        begun = run(office.identities.sign_in(provider, seen, invitation=invitation, **given))
        return str(begun["person"]["id"])

    verified = replace(checked, issuer="https://two.example")
    open_to_all = replace(checked, issuer="https://open.example", number_verified=False)
    refused("not_invited", lambda: sign_in(open_to_all, "thief"))
    theirs = sign_in(open_to_all, "thief", office.invited("thief"))
    assert theirs != mine
    assert sign_in(verified, "somebody") == mine, "by the number, which two providers have checked"
    assert sign_in(open_to_all, "thief") == theirs


def test_an_end_that_is_brought_forward_counts_at_once_and_brings_no_key_back(office: Office) -> None:
    begun = office.sign_in(invitation=office.invited(), citizenship_expires=oidc.NOW + 1800)
    person = begun["person"]["id"]
    made = key(office, begun["session"])
    assert office.sign_in(citizenship_expires=oidc.NOW - 60)["person"]["until"] == (oidc.NOW - 60) * 1000
    roll = publish.roll(1, office.rows.rows, office.clock.now_ms())
    assert next(row for row in roll.people if row.id == person).attributes.until < office.clock.now_ms()
    assert office.sign_in(citizenship_expires=oidc.NOW + 1800)["person"]["until"] == (oidc.NOW + 1800) * 1000
    assert office.rows.find("keys", made["id"])["revoked"] is not None


def test_an_end_that_nobody_can_read_takes_the_keys(office: Office) -> None:
    begun = office.sign_in(invitation=office.invited())
    key(office, begun["session"])
    assert office.sign_in(citizenship_expires="next year")["person"]["citizenship"] == ""
    assert good_keys(office, begun["person"]["id"]) == []


def test_one_person_is_found_by_either_hash_and_two_are_never_made_one(office: Office) -> None:
    first = office.sign_in(invitation=office.invited("aminah"))["person"]["id"]
    assert office.sign_in(sub="renamed")["person"]["id"] == first  # by the number
    assert office.sign_in(nric=None)["person"]["id"] == first  # by the provider's name
    second = office.sign_in(sub="bakar", nric="800202105555", invitation=office.invited("bakar"))["person"]["id"]
    assert second != first
    assert "two people" in refused("identity_conflict", lambda: office.sign_in(sub="bakar"))
    assert ("refused", "identity_conflict") in office.events()


def test_no_number_no_name_and_no_id_is_in_the_log_or_in_the_database(office: Office, tmp_path: Path) -> None:
    begun = office.sign_in(invitation=office.invited("aminah"))
    key(office, begun["session"])
    refused("not_invited", lambda: office.sign_in(sub="other", nric="800202-10-5555"))
    text = json.dumps(office.entries)
    held = (tmp_path / "control.db").read_bytes() + (tmp_path / "control.db-wal").read_bytes()
    for number in (oidc.NUMBER, oidc.NUMBER.replace("-", ""), "800202-10-5555", "800202105555"):
        assert number not in text
        assert number.encode() not in held
    for word in ("aminah", begun["person"]["id"], begun["session"], "someone"):
        assert word not in text
    assert begun["session"].encode() not in held
    assert b"someone" not in held


def test_a_session_is_of_one_client_and_over_for_everybody_once_another_comes_with_it(office: Office) -> None:
    session = office.sign_in(invitation=office.invited())["session"]
    assert me(office, session)["eligible"]
    assert "began at another client" in refused(
        "session_elsewhere", lambda: me(office, session, "elsewhere"), Unauthenticated
    )
    refused("no_session", lambda: me(office, session), Unauthenticated)
    refused("no_session", lambda: me(office, "ss-guessed"), Unauthenticated)
    (entry,) = [entry for entry in office.entries if entry.get("event") == "refused"]
    assert entry["detail"] == {"code": "session_elsewhere", "count": 1}
    assert len(entry["person"]) == len(entry["tenant"]) == 22


def test_sessions_are_short_and_can_be_ended_by_their_holder_and_by_an_operator(office: Office) -> None:
    invitation = office.invited()
    first, second = office.sign_in(invitation=invitation)["session"], office.sign_in()["session"]
    assert run(office.call("session.end", session=first, binding="here")) == {"issuer": oidc.ISSUER}
    refused("no_session", lambda: me(office, first), Unauthenticated)
    (row,) = run(office.call("session.list"))
    assert (row["person"], row["issuer"]) == ("aminah", oidc.ISSUER)
    assert set(row) == {"id", "person", "issuer", "created", "expires"}
    assert run(office.call("session.revoke", wanted="aminah")) == {"revoked": 1}
    refused("no_session", lambda: me(office, second), Unauthenticated)
    with pytest.raises(NotFound):
        run(office.call("session.revoke", wanted="aminah"))
    third = office.sign_in()["session"]
    office.clock.pass_seconds(30 * 60)
    refused("no_session", lambda: me(office, third), Unauthenticated)
    assert [entry["action"] for entry in office.entries if entry["type"] == "operator.action/v1"][
        -1
    ] == "session.revoke"
    office.clock.pass_seconds(2 * 86_400)
    office.sign_in()
    assert len(office.rows.rows("sessions")) == 1  # the old ones are forgotten


def test_an_eligible_person_makes_keys_for_themselves_that_end_with_their_citizenship(office: Office) -> None:
    begun = office.sign_in(invitation=office.invited(), citizenship_expires=oidc.NOW + 5 * 86_400)
    made = key(office, begun["session"], networks=["10.0.0.0/8"], models=["small"], requests_per_minute=9)
    assert made["api_key"].startswith("sk-")
    assert made["expires"] == (oidc.NOW + 5 * 86_400) * 1000
    (row,) = me(office, begun["session"])["keys"]
    assert (row["networks"], row["models"], row["requests_per_minute"]) == (["10.0.0.0/8"], ["small"], 9)
    assert "digest" not in row
    action = office.entries[-1]
    assert (action["action"], action["operator"]) == ("key.create", action["detail"]["person"])  # by and for oneself
    run(office.call("me.key.revoke", session=begun["session"], binding="here", key=row["id"]))
    assert me(office, begun["session"])["keys"] == []
    office.sign_in(sub="bakar", nric="2", invitation=office.invited("bakar"))
    others = key(office, office.sign_in(sub="bakar", nric="2")["session"])
    refused(
        "not_found",
        lambda: run(office.call("me.key.revoke", session=begun["session"], binding="here", key=others["id"])),
        NotFound,
    )


def opening(office: Office) -> dict[str, bool]:
    """By its label, whether a key opens its holder's vault."""
    found = publish.roll(1, office.rows.rows, office.clock.now_ms())
    labels = {row["id"]: row["label"] for row in office.rows.rows("keys")}
    directory = Directory(found)
    principals = {labels[row.id]: directory.principal(row.id) for row in found.keys}
    return {label: who.opens_vault for label, who in principals.items() if who is not None}


def test_whoever_has_signed_in_opens_their_vault_with_keys_of_their_own_alone(office: Office) -> None:
    invitation = office.invited(citizenship="MY", assurance="substantial")
    holder = office.rows.find("people", "aminah")
    run(office.desk.create_key("aminah", "before", [], 0, days=30))
    assert opening(office)["before"], "installations without sign-in work so"
    published = office.published
    session = office.sign_in(invitation=invitation)["session"]
    assert office.published == published + 1
    run(office.desk.create_key("aminah", "anothers", [], 0, days=30))
    house = office.rows.find("tenants", holder["tenant"])
    theirs = pseudonym(base64.b64decode(house["epoch_key"]), "principal", holder["id"])
    run(office.desk.of(theirs).create_key("aminah", "by an admin key", [], 0, days=30))
    key(office, session, label="mine")
    found = opening(office)
    assert found == {
        "first-key": True, "before": False, "anothers": False, "by an admin key": False, "mine": True,
    }  # fmt: skip
    assert {row["label"]: row["own"] for row in me(office, session)["keys"]}["mine"]
    assert not {row["label"]: row["own"] for row in me(office, session)["keys"]}["anothers"]


def test_a_first_sign_in_of_whoever_a_directory_knows_is_published(office: Office) -> None:
    """From then on keys that others made open nothing, before anybody can make another."""
    office.invited(citizenship="MY", assurance="substantial")
    person = office.rows.find("people", "aminah")
    (hash_, *_) = office.seen().hashes
    office.rows.add("identities", {"id": "identity_1", "name": hash_, "person": person["id"]})
    run(office.desk.create_key("aminah", "anothers", [], 0, days=30))
    assert opening(office)["anothers"]
    published = office.published
    office.sign_in()
    assert (office.published, opening(office)["anothers"]) == (published + 1, False)
    first = office.rows.find("people", "aminah")["proven"]
    office.clock.pass_seconds(60)
    office.sign_in()
    assert office.rows.find("people", "aminah")["proven"] == first == oidc.NOW * 1000
    office.rows.remove("identities", "identity_1")
    assert not opening(office)["anothers"], "also where a directory has given the identity to another"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nationality": None}, "permanent residents have one too"),  # with an identity card all the same
        ({"nationality": "Indonesian"}, "permanent residents have one too"),
        ({"nationality": "Singaporean"}, "you are said to be one of SG"),
        ({"acr": "level:1"}, "at level low, and the charter asks for substantial"),
        ({"acr": None}, "at level low"),
        ({"citizenship_expires": oidc.NOW - 1}, "has expired"),
        ({"citizenship_expires": "2026-01-01"}, "has expired"),
        *(({"citizenship_expires": said}, "nobody has said of which country") for said in (0, "soon", True, [7], "")),
        ({"realm_access": {"roles": ["inspector"]}}, "the role 'user'"),
    ],
)
def test_whoever_the_charter_does_not_serve_may_look_and_makes_no_key(
    office: Office, changes: dict[str, Any], words: str
) -> None:
    session = office.sign_in(invitation=office.invited(), **changes)["session"]
    shown = me(office, session)
    assert not shown["eligible"]
    assert words in shown["why_not"]
    assert words in refused("not_eligible", lambda: key(office, session))
    assert office.rows.rows("keys") == [row for row in office.rows.rows("keys") if row["label"] == "first-key"]
    assert office.events() == [("signed-in", None), ("refused", "not_eligible")]


def test_an_issuer_whom_the_charter_does_not_name_makes_nobody_a_citizen(tmp_path: Path) -> None:
    office = Office(tmp_path / "control.db", issuers='["operator"]  ')
    session = office.sign_in(invitation=office.invited())["session"]
    assert f"does not count what {oidc.ISSUER} says" in refused("not_eligible", lambda: key(office, session))
    vouched = office.invited("bakar", citizenship="MY", assurance="high")
    session = office.sign_in(sub="b", nric="2", nationality=None, invitation=vouched)["session"]
    assert key(office, session)["api_key"]
    office.rows.close()


def test_with_what_a_provider_takes_back_the_keys_go(office: Office) -> None:
    session = office.sign_in(invitation=office.invited())["session"]
    key(office, session)
    before = office.published
    office.sign_in()
    assert office.published == before  # nothing new: workers need not hear of it
    office.sign_in(nationality=None)
    assert office.published == before + 1
    assert me(office, session)["keys"] == []
    assert [row["revoked"] is None for row in office.rows.rows("keys")] == [True, False]


def test_nobody_operates_and_audits_whatever_a_token_says(office: Office) -> None:
    operator = run(office.identities.invite("first-operator", days=7))["invitation"]
    both = {"roles": ["root", "inspector"]}
    with pytest.raises(PermissionDenied, match="exclude each other"):
        office.seen(realm_access=both)
    refused(
        "roles_exclude_each_other",
        lambda: office.sign_in(invitation=operator, realm_access={"roles": ["inspector"]}),
    )
    session = office.sign_in(invitation=operator, realm_access={"roles": ["root"]})["session"]
    assert me(office, session)["person"]["roles"] == ["operator"]
    assert "the role 'user'" in refused("not_eligible", lambda: key(office, session))
    refused(
        "roles_refused",
        lambda: office.sign_in(sub="b", nric="2", invitation=office.invited("b"), realm_access={"roles": ["root"]}),
    )
    inspector = office.sign_in(sub="c", nric="3", invitation=office.invited("c"), realm_access={"roles": ["inspector"]})
    assert inspector["person"]["roles"] == ["auditor"]


def test_whose_time_has_ended_does_not_come_in_again(office: Office) -> None:
    session = office.sign_in(invitation=office.invited(days=1))["session"]
    office.clock.pass_seconds(86_400)
    refused("no_session", lambda: me(office, session), Unauthenticated)
    assert "daulat person correct PERSON --days N" in refused("person_expired", office.sign_in)
    with pytest.raises(Conflict, match="needs no invitation, but time: `daulat person correct aminah --days N`"):
        run(office.identities.invite("aminah", days=7))
    run(Correcting(office.rows, office.desk, office.clock).correct("aminah", {"days": 9}))
    assert office.sign_in()["person"]["expires"] == office.clock.now_ms() + 9 * DAY, "which helps"


def test_a_citizenship_that_ends_is_told_to_the_log_once_and_its_keys_are_over(office: Office) -> None:
    session = office.sign_in(invitation=office.invited(), citizenship_expires=oidc.NOW + 60)["session"]
    made = key(office, session)
    run(office.identities.lapse())
    assert office.events() == [("signed-in", None)]
    office.clock.pass_seconds(60)
    for _ in range(3):
        run(office.identities.lapse())
    assert office.events() == [("signed-in", None), ("expired", None)]
    roll = publish.roll(1, office.rows.rows, office.clock.now_ms())
    (row,) = [row for row in roll.keys if row.id == made["id"]]  # there, so that its holder is told; and over
    assert row.expires == office.clock.now_ms()
    assert "has expired" in refused("not_eligible", lambda: key(office, session))
    office.sign_in()
    assert row.expires == office.rows.find("keys", made["id"])["expires"]  # a new word on it does not revive a key


def test_sign_ins_of_a_provider_that_is_not_configured_are_refused(office: Office) -> None:
    with pytest.raises(Conflict, match="no provider"):
        run(office.call("signin.refused", provider="other", code="token_nonce"))
    run(office.call("signin.refused", provider="test", code="token_nonce"))
    assert office.events() == [("refused", "token_nonce")]

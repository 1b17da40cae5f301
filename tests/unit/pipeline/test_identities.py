"""People who prove who they are: taken in or not, in session or not, with keys or not; and what the log has of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import oidc
from tests.support.people import DAY, Office, run

from daulat.core.commitments import pseudonym
from daulat.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, Unauthenticated
from daulat.identity.directory import Directory
from daulat.pipeline import publish

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
    assert office.sign_in(agency="elsewhere")["person"]["id"] == taken["id"]  # known now, wherever they work
    refused("not_invited", lambda: office.sign_in(sub="other", nric="2", agency="elsewhere"))
    office.rows.close()
    operators = Office(
        tmp_path / "other.db", settings=oidc.settings(provision="mapped", tenants='health = "operators"')
    )
    refused("roles_refused", lambda: operators.sign_in(agency="health"))
    operators.rows.close()


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
    refused("person_expired", office.sign_in)


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

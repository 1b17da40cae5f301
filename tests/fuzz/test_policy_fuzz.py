"""The rules against the naive evaluator, with texts that nobody would think of; `test_naive.py` has the many cases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import naive

from daulat.catalog import charters
from daulat.core import charter as charter_core
from daulat.core.charter import ASSURANCE, EXTERNAL, GRADES, Charter
from daulat.core.decision import (
    INFERENCE_ACTIONS,
    admission_question,
    inference_question,
    lease_question,
)
from daulat.policy import bundle
from daulat.policy.cedar import CedarDecider

STARTER = charter_core.parse(charters.starter())
SHIPPED = bundle.load()
DECIDER = CedarDecider(SHIPPED.rules, SHIPPED.schema)

countries = st.sampled_from(["MY", "SG", "ID", ""])
codes = st.sampled_from(["MY", "SG", "ID"])
grades = st.sampled_from([*GRADES, "", "G9", "g2"])
levels = st.sampled_from([*ASSURANCE, "", "HIGH", "certain"])
formats = st.sampled_from(["gguf", "safetensors", "external", "pickle", ""])
licences = st.sampled_from(["apache-2.0", "mit", "Apache-2.0", "proprietary", ""])
charters_ = st.builds(
    lambda **fields: replace(STARTER, **fields),
    country=codes,
    users=st.lists(codes, min_size=1, max_size=3, unique=True).map(tuple),
    operators=st.lists(codes, min_size=1, max_size=3, unique=True).map(tuple),
    assurance=st.sampled_from(ASSURANCE),
    formats=st.lists(formats.filter(bool), min_size=1, unique=True).map(tuple),
    licences=st.lists(licences.filter(bool), min_size=1, unique=True).map(tuple),
    signed=st.sampled_from([None, False, True]),
    sandbox=st.sampled_from(GRADES),
    canary=st.sampled_from(GRADES),
    external=st.sampled_from([None, *EXTERNAL]),
)
people = st.fixed_dictionaries(
    {
        "citizenship": st.one_of(countries, st.text(max_size=4)),
        "assurance": st.one_of(levels, st.text(max_size=8)),
        "roles": st.lists(
            st.one_of(st.sampled_from(["user", "operator", "User", " user"]), st.text(max_size=4)), max_size=3
        ),
    }
)
models = st.fixed_dictionaries(
    {
        "model": st.text(min_size=1, max_size=20),
        "digest": st.just("0" * 64),
        "format": formats,
        "licence": licences,
        "origin": st.text(max_size=5),
        "signed_by": st.one_of(st.none(), st.text(max_size=3)),
    }
)
evidence = st.dictionaries(
    st.sampled_from(["sandbox", "canary", "inventory", "site", "external", "more"]),
    st.one_of(st.builds(lambda grade: {"grade": grade}, grades), st.none(), st.text(max_size=2), st.just({})),
)


def data(charter: Charter) -> dict[str, Any]:
    """As `charter.toml` has it, as far as it decides anything."""
    people = {"users": charter.users, "operators": charter.operators, "assurance": charter.assurance}
    models = {"formats": charter.formats, "licences": charter.licences, "signed": bool(charter.signed)}
    nodes = {"sandbox": charter.sandbox, "canary": charter.canary, "external": charter.external or "none"}
    return {"jurisdiction": {"country": charter.country}, "people": people, "models": models, "nodes": nodes}


def check_use(charter: Charter, action: str, person: Any, model: Any, where: str, found: Any) -> bool:
    asked = inference_question(
        charter,
        action,
        tenant="t",
        person="p",
        attributes=person,
        model=model,
        lease={"jurisdiction": where, "evidence": found},
    )
    decision = DECIDER.decide(asked)
    assert decision.allowed == naive.may_use(data(charter), person, model, where, found), (
        decision,
        person,
        model,
        where,
        found,
    )
    assert decision.policies
    return decision.allowed


USE = {
    "charter": charters_,
    "action": st.sampled_from(INFERENCE_ACTIONS),
    "person": people,
    "model": models,
    "where": countries,
    "found": evidence,
}


@settings(max_examples=3000, derandomize=True, deadline=None)
@given(**USE)
def test_use_is_decided_as_the_naive_evaluator_does(**values: Any) -> None:
    check_use(**values)


@settings(max_examples=1500, derandomize=True, deadline=None)
@given(charter=charters_, changed=st.data())
def test_a_lawful_request_with_one_thing_changed(charter: Charter, changed: st.DataObject) -> None:
    """Random requests are nearly always refused; these start from one that is allowed."""
    values: dict[str, Any] = {
        "person": {"citizenship": charter.users[0], "assurance": charter.assurance, "roles": ["user"]},
        "model": {
            "model": "m",
            "digest": "",
            "format": charter.formats[0],
            "licence": charter.licences[0],
            "origin": "",
            "signed_by": "key sha256:00" if charter.signed else None,
        },
        "where": charter.country,
        "found": {"sandbox": {"grade": charter.sandbox}, "canary": {"grade": charter.canary}},
    }
    assert check_use(charter, "chat.completions", **values)
    field = changed.draw(st.sampled_from(["person", "model", "where", "found"]))
    values[field] = changed.draw(USE[field])
    check_use(charter, "chat.completions", **values)


@settings(max_examples=1000, derandomize=True, deadline=None)
@given(charter=charters_, where=countries, found=evidence)
def test_leases(charter: Charter, where: str, found: dict[str, Any]) -> None:
    decision = DECIDER.decide(lease_question(charter, "node", where, found))
    assert decision.allowed == naive.may_serve(data(charter), where, found)


@settings(max_examples=1000, derandomize=True, deadline=None)
@given(charter=charters_, citizenship=countries, model=models)
def test_admissions(charter: Charter, citizenship: str, model: dict[str, Any]) -> None:
    decision = DECIDER.decide(admission_question(charter, "operator", citizenship, model))
    assert decision.allowed == naive.may_admit(data(charter), citizenship, model)

"""Example cases: questions with the answers that the rules must give, as TOML.

    [[case]]
    name = "a foreigner asks"           # what the case shows
    action = "chat.completions"         # or another of core.decision's, keep, model.admit, node.lease
    expect = "deny"                     # or "allow"
    rules = ["use.citizenship"]         # the @id of the rules that decide; leave it out where it does not matter
    person = { citizenship = "SG" }     # only what differs from the usual; also model, lease, operator and charter

The usual is a national with the role `user`, an open model in GGUF, and a lease at home with evidence of grade G2.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Final

from daulat.core.charter import Charter
from daulat.core.decision import (
    INFERENCE_ACTIONS,
    KEEP,
    MODEL_ADMIT,
    NODE_LEASE,
    Decider,
    Decision,
    Question,
    admission_question,
    inference_question,
    keep_question,
    lease_question,
)
from daulat.core.principal import VOUCHED
from daulat.errors import ConfigError

_PARTS: Final = ("person", "model", "lease", "operator", "charter")
_KEYS: Final = frozenset({"name", "action", "expect", "rules", *_PARTS})
_MODEL: Final = {
    "model": "a-model",
    "digest": "0" * 64,
    "format": "gguf",
    "licence": "apache-2.0",
    "origin": "",
    "signed_by": None,
}


@dataclass(frozen=True, slots=True)
class Case:
    """One question, and what the rules must say to it; `rules` None: whichever decide."""

    name: str
    question: Question
    expect: str
    rules: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the rules said to a case; `wrong` is empty where that was expected."""

    case: Case
    decision: Decision
    wrong: str


def shipped() -> Mapping[str, str]:
    """The cases that come with Daulat, by file name."""
    folder = resources.files("daulat.policy").joinpath("examples")
    return {item.name: item.read_text() for item in folder.iterdir() if item.name.endswith(".toml")}


def parse(text: str, charter: Charter, *, location: str) -> list[Case]:
    """Read cases, to be asked under a charter.

    Raises:
        ConfigError: not TOML, no cases, or a case with an unknown key or value; says which and what is known.
    """
    try:
        top = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}", location=location) from None
    found = top.get("case")
    if not isinstance(found, list) or not found or set(top) != {"case"}:
        raise ConfigError("expected one or more [[case]] tables and nothing else", location=location)
    return [_case(values, charter, f"{location}, case {number}") for number, values in enumerate(found, 1)]


def run(cases: Iterable[Case], decider: Decider) -> list[Outcome]:
    """Ask every case."""
    return [_outcome(case, decider.decide(case.question)) for case in cases]


def question(charter: Charter, action: str, changes: Mapping[str, Mapping[str, Any]], *, location: str) -> Question:
    """The usual question of an action, with changes to `person`, `model`, `lease`, `operator` or `charter`.

    Raises:
        ConfigError: the action or a changed value's name is unknown.
    """
    usuals: dict[str, dict[str, Any]] = {
        "person": {
            "citizenship": charter.country,
            "assurance": "high",
            "roles": ["user"],
            "issuer": (charter.issuers or (VOUCHED,))[0],
        },
        "model": dict(_MODEL),
        "lease": {
            "jurisdiction": charter.country,
            "sandbox": "G2",
            "canary": "G2",
            "inventory": "G1",
            "site": "G1",
            "external": "",
        },
        "operator": {"citizenship": charter.operators[0]},
        "charter": {"signed": charter.signed, "external": charter.external, "issuers": charter.issuers},
    }
    asked: dict[str, dict[str, Any]] = {}
    for name, usual in usuals.items():
        given = changes.get(name, {})
        if not isinstance(given, Mapping) or not set(given) <= set(usual):
            raise ConfigError(f"{name} may have {', '.join(usual)}; found {given!r}", location=location)
        asked[name] = {**usual, **given}
    charter = replace(charter, **asked["charter"])
    where = asked["lease"].pop("jurisdiction")
    evidence = {kind: {"grade": grade} for kind, grade in asked["lease"].items() if grade or kind != "external"}
    if action in INFERENCE_ACTIONS:
        return inference_question(
            charter,
            action,
            tenant="a-tenant",
            person="a-person",
            attributes=asked["person"],
            model=asked["model"],
            lease={"jurisdiction": where, "evidence": evidence},
        )
    if action == KEEP:
        return keep_question(charter, tenant="a-tenant", person="a-person", attributes=asked["person"])
    if action == MODEL_ADMIT:
        return admission_question(charter, "an-operator", asked["operator"]["citizenship"], asked["model"])
    if action == NODE_LEASE:
        return lease_question(charter, "a-node", where, evidence)
    known = ", ".join((*INFERENCE_ACTIONS, KEEP, MODEL_ADMIT, NODE_LEASE))
    raise ConfigError(f"unknown action {action!r}; known are {known}", location=location)


def _case(values: Any, charter: Charter, location: str) -> Case:
    if not isinstance(values, dict) or not {"name", "action", "expect"} <= set(values) <= _KEYS:
        raise ConfigError(f"a case has name, action and expect, and may have {sorted(_KEYS)}", location=location)
    if values["expect"] not in {"allow", "deny"}:
        raise ConfigError(f"expect is {values['expect']!r}, expected 'allow' or 'deny'", location=location)
    rules = values.get("rules")
    if rules is not None and not (isinstance(rules, list) and all(isinstance(rule, str) for rule in rules)):
        raise ConfigError("rules is a list of rules' @id", location=location)
    changes = {name: values[name] for name in _PARTS if name in values}
    asked = question(charter, str(values["action"]), changes, location=location)
    return Case(str(values["name"]), asked, values["expect"], None if rules is None else tuple(sorted(rules)))


def _outcome(case: Case, decision: Decision) -> Outcome:
    wrong = ""
    if decision.effect != case.expect:
        wrong = f"expected {case.expect}, the rules say {decision.effect} by {', '.join(decision.policies)}"
    elif case.rules is not None and case.rules != decision.policies:
        wrong = f"expected {', '.join(case.rules)} to decide, {', '.join(decision.policies)} did"
    return Outcome(case, decision, wrong)

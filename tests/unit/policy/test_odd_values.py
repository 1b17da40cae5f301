"""Every attribute and every context value, missing or odd: what does not fit the schema is refused as an error.

The values include Cedar's own escapes in JSON (`__entity`, `__extn`, `__expr`), which must not become anything else.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import cedarpy
import pytest

from daulat.catalog import charters
from daulat.core import charter as charter_core
from daulat.core.decision import INFERENCE_ACTIONS, MODEL_ADMIT, NODE_LEASE, Question
from daulat.policy import bundle, cases
from daulat.policy.cedar import ERROR, CedarDecider

STARTER = charter_core.parse(charters.starter())
SHIPPED = bundle.load()
DECIDER = CedarDecider(SHIPPED.rules, SHIPPED.schema)
MISSING: Any = object()
ODD: list[Any] = [
    *(None, True, False, 0, -1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 1.0, 1.5, float("nan"), float("inf")),
    *("", "MY\0", "\ud800", "ＭＹ", "my", " MY", b"MY", "x" * 100_000),
    *([], ["MY"], ["user", 1], ["user", None], [["user"]], {"user"}, {}, {"MY": "MY"}, object(), MISSING),
    {"__entity": {"type": "Daulat::Person", "id": "p"}},
    {"__extn": {"fn": "decimal", "arg": "1.0"}},
    {"__expr": "true"},
]
Path = tuple[str, ...]
LATER: frozenset[Path] = frozenset(  # absent in charters of old logs
    {("charter", "signed"), ("charter", "external"), ("charter", "issuers"), ("issuer",)}
)


def fits(usual: Any, odd: Any) -> bool:
    """Whether a value is of the type that the schema gives the usual one."""
    if type(usual) is not type(odd):
        return False
    if isinstance(odd, int):
        return -(2**63) <= odd < 2**63
    if isinstance(odd, list):
        return all(isinstance(item, str) for item in odd)
    return "\ud800" not in odd if isinstance(odd, str) else not isinstance(odd, dict)


def leaves(values: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for name, value in values.items():
        yield (*path, name), value
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, name))


def changed(values: Mapping[str, Any], path: Path, odd: Any) -> dict[str, Any]:
    made: dict[str, Any] = copy.deepcopy(dict(values))
    inner = made
    for name in path[:-1]:
        inner = inner[name]
    if odd is MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = odd
    return made


def variants(good: Question) -> Iterator[tuple[str, bool, Question]]:
    """(what was changed, whether it fits the schema, the question)."""
    for part in ("principal", "resource"):
        entity = getattr(good, part)
        for path, usual in leaves(entity.attributes):
            for odd in ODD:
                attributes = changed(entity.attributes, path, odd)
                yield (
                    f"{part}.{path[0]}={odd!r:.40}",
                    fits(usual, odd) or (path in LATER and odd is MISSING),
                    replace(good, **{part: replace(entity, attributes=attributes)}),
                )
        yield (
            f"{part} more",
            False,
            replace(good, **{part: replace(entity, attributes={**entity.attributes, "more": 1})}),
        )
    for path, usual in leaves(good.context):
        for odd in ODD:
            context = changed(good.context, path, odd)
            fitting = fits(usual, odd) or (path in LATER and odd is MISSING)
            yield f"context.{'.'.join(path)}={odd!r:.40}", fitting, replace(good, context=context)
    if "lease" in good.context:  # an engine outside Daulat
        for odd in ODD:
            context = {**good.context, "lease": {**good.context["lease"], "external": odd}}
            if odd is not MISSING:
                yield f"context.lease.external={odd!r:.40}", fits(1, odd), replace(good, context=context)
    yield "context more", False, replace(good, context={**good.context, "more": 1})


@pytest.mark.parametrize("action", [*INFERENCE_ACTIONS, MODEL_ADMIT, NODE_LEASE])
def test_what_does_not_fit_the_schema_is_refused_as_an_error(action: str) -> None:
    good = cases.question(STARTER, action, {}, location="test")
    assert DECIDER.decide(good).allowed
    seen = 0
    for what, fitting, question in variants(good):
        decision = DECIDER.decide(question)
        seen += 1
        if not fitting:
            assert (decision.effect, decision.policies) == ("deny", (ERROR,)), what
        elif decision.allowed:
            assert decision.policies != (ERROR,), what
    assert seen > 200


STRICTEST = {
    "citizenship": ["", "MY\0", "ＭＹ", "my", " MY", "x" * 100_000],
    "assurance": [0, -1],
    "roles": [[], ["MY"]],
    "issuer": ["", "OPERATOR", "https://id.example"],
}


@pytest.mark.parametrize("attribute", STRICTEST)
def test_a_person_who_is_not_quite_one_is_refused_by_a_rule(attribute: str) -> None:
    good = cases.question(STARTER, "chat.completions", {}, location="test")
    for odd in STRICTEST[attribute]:
        attributes = {**good.principal.attributes, attribute: odd}
        decision = DECIDER.decide(replace(good, principal=replace(good.principal, attributes=attributes)))
        assert decision.effect == "deny"
        assert decision.policies != (ERROR,)


@pytest.mark.parametrize("id_", ["", "\0", '"', 'a"b\\', '"}, "x": {', "x" * 100_000])
def test_a_name_is_only_a_name(id_: str) -> None:
    for effect, changes in (("allow", {}), ("deny", {"person": {"citizenship": "SG"}})):
        asked = cases.question(STARTER, "chat.completions", changes, location="test")
        named = replace(asked, principal=replace(asked.principal, id=id_), resource=replace(asked.resource, id=id_))
        assert DECIDER.decide(named).effect == effect


@pytest.mark.parametrize("id_", ["\ud800", 1, None, b"x", ["p"]])
def test_what_is_no_name_is_refused_as_an_error(id_: Any) -> None:
    good = cases.question(STARTER, "chat.completions", {}, location="test")
    assert DECIDER.decide(replace(good, principal=replace(good.principal, id=id_))).policies == (ERROR,)


def test_without_the_schema_a_missing_attribute_allows_which_is_why_it_is_always_passed() -> None:
    """The measurement behind docs/adr/0006: should Cedar change this, the page is to be changed too."""
    rules = """permit (principal, action, resource);
    forbid (principal, action, resource) unless { principal.citizenship == "MY" };"""
    request = {"principal": 'P::"p"', "action": 'Action::"a"', "resource": 'R::"r"', "context": {}}
    result = cedarpy.is_authorized(request, rules, [{"uid": {"type": "P", "id": "p"}, "attrs": {}, "parents": []}])
    assert result.decision is cedarpy.Decision.Allow

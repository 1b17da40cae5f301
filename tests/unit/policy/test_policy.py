"""Rules, schema, cases, cache: what decides, and that whatever goes wrong is a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from daulat.catalog import charters
from daulat.core import charter as charter_core
from daulat.core.decision import Decision, Entity, Question
from daulat.errors import ConfigError
from daulat.policy import bundle, cases
from daulat.policy.cache import MAX_DECISIONS, CachedDecider
from daulat.policy.cedar import ERROR, NO_PERMIT, CedarDecider

STARTER = charter_core.parse(charters.starter())
SHIPPED = bundle.load()


def decider() -> CedarDecider:
    return CedarDecider(SHIPPED.rules, SHIPPED.schema)


@pytest.mark.parametrize(("name", "text"), cases.shipped().items())
def test_shipped_cases_hold(name: str, text: str) -> None:
    outcomes = cases.run(cases.parse(text, STARTER, location=name), decider())
    assert [(item.case.name, item.wrong) for item in outcomes if item.wrong] == []
    assert {item.decision.effect for item in outcomes} == {"allow", "deny"}


def test_every_shipped_rule_has_a_reason_and_a_case_where_it_decides() -> None:
    deciding = {
        rule
        for name, text in cases.shipped().items()
        for item in cases.run(cases.parse(text, STARTER, location=name), decider())
        for rule in item.decision.policies
    }
    reasons = decider().reasons
    assert all(reasons.values())
    assert set(reasons) <= deciding


def test_every_shipped_rule_stands_under_a_comment_that_says_why() -> None:
    rules = {name: text for name, text in SHIPPED.files.items() if name.endswith(".cedar")}
    assert len(rules) == 3
    for name, text in rules.items():
        assert text.startswith("// "), f"{name} does not say what it is about"
        lines = text.splitlines()
        for number, line in enumerate(lines):
            if line.startswith("@id("):
                assert lines[number - 1].startswith("// "), f"{name}: {line} has no comment"
                assert lines[number + 1].startswith("@reason("), f"{name}: {line} has no reason"


@pytest.mark.parametrize(
    "broken",
    [
        {"principal": Entity("Person", "p", {})},  # every attribute missing
        {"principal": Entity("Person", "p", {"citizenship": 7, "assurance": 2, "roles": ["user"]})},
        {"principal": Entity("Person", "p", {"citizenship": "MY", "assurance": "2", "roles": ["user"]})},
        {"principal": Entity("Person", "p", {"citizenship": "MY", "assurance": 2, "roles": "user"})},
        {"principal": Entity("Person", "p", {"citizenship": "MY", "assurance": 2, "roles": ["user"], "more": 1})},
        {"principal": Entity("Stranger", "p", {})},
        {"context": {}},
        {"context": {"charter": STARTER.context()}},
        {"context": {"charter": STARTER.context(), "lease": {"jurisdiction": "MY"}}},
        {"context": {"charter": STARTER.context(), "lease": None}},
        {"context": {"charter": {}, "lease": {}}},
        {"action": "teleport"},
        {"action": "chat.completions\0"},
        {"resource": Entity("Model", "m", {})},
    ],
)
def test_a_question_with_anything_missing_or_odd_is_refused(broken: dict[str, object]) -> None:
    good = cases.question(STARTER, "chat.completions", {}, location="test")
    fields = {name: getattr(good, name) for name in ("action", "principal", "resource", "context")}
    assert decider().decide(good).allowed
    decision = decider().decide(Question(**{**fields, **broken}))
    assert not decision.allowed
    assert decision.policies in {(ERROR,), (NO_PERMIT,)}


def test_rules_without_a_permit_refuse() -> None:
    asked = cases.question(STARTER, "chat.completions", {}, location="test")
    assert CedarDecider("", SHIPPED.schema).decide(asked) == Decision("deny", (NO_PERMIT,), "no rule permits this")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("permit (", "do not parse"),
        ("permit (principal, action, resource);", "@id"),
        ('@id("a") permit (principal, action, resource); @id("a") permit (principal, action, resource);', "@id"),
        ('@id("a") permit (principal, action, resource) when { principal.shoe == 44 };', "shoe"),
    ],
)
def test_rules_that_cannot_hold_are_refused_at_once(rules: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CedarDecider(rules, SHIPPED.schema)


def test_own_rules_join_the_shipped_ones_and_can_only_be_found_wrong_by_name(tmp_path: Path) -> None:
    own = tmp_path / "night.cedar"
    own.write_text('@id("own.none") @reason("closed") forbid (principal is Daulat::Person, action, resource);')
    joined = bundle.load(tmp_path)
    assert joined.version != SHIPPED.version
    asked = cases.question(STARTER, "chat.completions", {}, location="test")
    refused = CedarDecider(joined.rules, joined.schema).decide(asked)
    assert (refused.effect, refused.policies, refused.reason) == ("deny", ("own.none",), "closed")
    own.write_text("permit (principal, action")
    with pytest.raises(ConfigError, match=r"night\.cedar"):
        bundle.load(tmp_path)
    own.unlink()
    (tmp_path / "use.cedar").write_text("")
    with pytest.raises(ConfigError, match="shipped"):
        bundle.load(tmp_path)


def test_the_bundle_in_an_entry_leads_back_to_the_same_version() -> None:
    files = {item["name"]: item["text"] for item in SHIPPED.entry_files()}
    assert None not in files.values()
    assert bundle.from_files({str(name): str(text) for name, text in files.items()}) == SHIPPED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "one or more"),
        ("case = 3", "one or more"),
        ("[[case]]\nname='x'\naction='chat.completions'", "has name, action and expect"),
        ("[[case]]\nname='x'\naction='fly'\nexpect='deny'", "known are chat.completions"),
        ("[[case]]\nname='x'\naction='completions'\nexpect='maybe'", "allow"),
        ("[[case]]\nname='x'\naction='completions'\nexpect='deny'\nperson={shoe=44}", "citizenship"),
        ("[[case]]\nname='x'\naction='completions'\nexpect='deny'\nrules='use.permit'", "list"),
        ("][", "TOML"),
    ],
)
def test_malformed_cases_say_what_is_known(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cases.parse(text, STARTER, location="mine.toml")


def test_a_case_that_goes_wrong_says_what_was_decided() -> None:
    text = "[[case]]\nname='x'\naction='completions'\nexpect='deny'\n"
    text += "[[case]]\nname='y'\naction='completions'\nexpect='allow'\nrules=['use.citizenship']"
    first, second = cases.run(cases.parse(text, STARTER, location="mine"), decider())
    assert first.wrong == "expected deny, the rules say allow by use.permit"
    assert second.wrong == "expected use.citizenship to decide, use.permit did"


class Counting:
    def __init__(self) -> None:
        self.asked = 0

    def decide(self, question: Question) -> Decision:
        self.asked += 1
        return Decision("deny", (question.action,))


def test_the_cache_asks_once_for_each_key_and_stays_bounded() -> None:
    inner = Counting()
    cached = CachedDecider(inner)
    asked = cases.question(STARTER, "chat.completions", {}, location="test")
    for _ in range(3):
        assert cached.decide(("a", 1), lambda: asked).policies == ("chat.completions",)
    assert inner.asked == 1
    for number in range(MAX_DECISIONS + 10):
        cached.decide(("b", number), lambda: asked)
    assert len(cached._decisions) <= MAX_DECISIONS

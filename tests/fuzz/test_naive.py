"""The rules, and the whole way of a request, against an evaluator that is naive on purpose and knows the docs alone."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final

import pytest
from tests.support import naive, naive_cases, worlds
from tests.support.naive_cases import NOW, Case
from tests.support.request_path import Path

from daulat.core.decision import (
    INFERENCE_ACTIONS,
    Question,
    admission_question,
    inference_question,
    keep_question,
    lease_question,
)
from daulat.core.snapshot import CharterRef, LeaseRow, ModelRow, Snapshot
from daulat.errors import Unauthenticated
from daulat.gateway.app import App
from daulat.identity import directory
from daulat.pipeline import publish
from daulat.pipeline.world import World
from daulat.policy import bundle
from daulat.policy.cedar import CedarDecider

SHIPPED: Final = bundle.load()
CHARTERS: Final = 500
FORBIDS: Final = re.findall(r'@id\("([a-z_.]+)"\)\s*@reason\([^\n]*\)\s*forbid', SHIPPED.rules)


class Cases:
    """An endless supply, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311  reproducible, not secret
        self._charters = [naive_cases.charter(self.rng) for _ in range(CHARTERS)]

    def next(self) -> Case:
        """Half of them with nothing or one thing changed."""
        case = naive_cases.lawful(self.rng, self.rng.choice(self._charters))
        for _ in range(self.rng.choice([0, 1, 1, 1, 2, 3])):
            case = naive_cases.spoiled(self.rng, case)
        return case


def questions(case: Case, rng: random.Random) -> tuple[str, Question, bool]:
    """One of the four that rules decide, and what the naive evaluator says to it."""
    where, evidence = case.lease["jurisdiction"], case.lease["evidence"]
    kind = rng.choice(["use", "use", "use", "keep", "lease", "admit"])
    if kind == "lease":
        return kind, lease_question(case.parsed, "n", where, evidence), naive.may_serve(case.charter, where, evidence)
    if kind == "keep":
        asked = keep_question(case.parsed, tenant="t", person="p", attributes=case.person)
        return kind, asked, naive.may_keep(case.charter, case.person)
    if kind == "admit":
        asked = admission_question(case.parsed, "o", case.operator, case.model)
        return kind, asked, naive.may_admit(case.charter, case.operator, case.model)
    asked = inference_question(
        case.parsed,
        rng.choice(INFERENCE_ACTIONS),
        tenant="t",
        person="p",
        attributes=case.person,
        model=case.model,
        lease=case.lease,
    )
    return kind, asked, naive.may_use(case.charter, case.person, case.model, where, evidence)


def disagreements(decider: CedarDecider, count: int, *, seed: int = 20261128) -> tuple[Counter[str], list[str]]:
    """How many questions of each kind were allowed and denied; and the first few that were answered differently."""
    cases, told, wrong = Cases(seed), Counter[str](), list[str]()
    for _ in range(count):
        case = cases.next()
        kind, asked, expected = questions(case, cases.rng)
        decision = decider.decide(asked)
        told[f"{kind} {decision.effect}"] += 1
        if decision.allowed != expected:
            wrong.append(f"{decision.effect} by {decision.policies}: {asked}")
            if len(wrong) == 3:
                break
    return told, wrong


@pytest.mark.parametrize(
    ("count", "seed"), [(5_000, 0), *(pytest.param(25_000, seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))]
)
def test_the_rules_allow_what_the_naive_evaluator_allows_and_nothing_else(count: int, seed: int) -> None:
    told, wrong = disagreements(CedarDecider(SHIPPED.rules, SHIPPED.schema), count, seed=seed)
    assert wrong == []
    assert sum(told.values()) == count
    assert (
        min(told[f"{kind} {effect}"] for kind in ("use", "keep", "lease", "admit") for effect in ("allow", "deny"))
        > count // 60
    )


def without(rule: str) -> str:
    """The rules less one."""
    left, dropped = re.subn(rf'@id\("{re.escape(rule)}"\).*?;\n', "", SHIPPED.rules, flags=re.DOTALL)
    assert dropped == 1
    return left


def test_there_are_rules_to_be_dropped() -> None:
    assert len(FORBIDS) == SHIPPED.rules.count("\nforbid (")
    assert len(FORBIDS) >= 10


@pytest.mark.parametrize("rule", FORBIDS)
def test_a_rule_that_is_missing_is_noticed(rule: str) -> None:
    _, wrong = disagreements(CedarDecider(without(rule), SHIPPED.schema), 5_000)
    assert wrong, f"nobody would miss {rule}"
    assert all(said.startswith("allow by") for said in wrong)


@pytest.mark.parametrize(
    ("sound", "weakened"),
    [
        ('principal.roles.contains("user")', "true"),
        ("context.charter.issuers.contains(principal.issuer)", "true"),
        ("principal.assurance >= context.charter.assurance", "principal.assurance >= 0"),
        ("context.charter.users.contains(principal.citizenship)", 'principal.citizenship != ""'),
        ("context.lease.canary >= context.charter.canary) ||", "true) ||"),
        ("context.lease.external >= context.charter.external", "context.lease.external >= 1"),
        ("context.lease.jurisdiction == context.charter.country", 'context.lease.jurisdiction != ""'),
        ("context.charter has signed && context.charter.signed", "false"),
        ("context.lease.sandbox >= context.charter.sandbox", "context.lease.sandbox > context.charter.sandbox"),
        ("context.charter.users.contains(principal.citizenship)", "false"),
    ],
)
def test_a_rule_that_says_something_else_is_noticed(sound: str, weakened: str) -> None:
    assert sound in SHIPPED.rules
    _, wrong = disagreements(CedarDecider(SHIPPED.rules.replace(sound, weakened), SHIPPED.schema), 5_000)
    assert wrong


# The whole way: rows of the control database, the roll, the credential, the snapshot, the rules, the engine.

SECRETS: Final = ("sk-" + "n" * 43, "sk-" + "o" * 43)
EMPTY: Final = worlds.snapshot()
TENANT: Final = {"id": "tenant_1", "name": "house", "epoch_key": base64.b64encode(worlds.EPOCH_KEY).decode()}


def snapshot(case: Case) -> Snapshot:
    """As the control plane publishes it."""
    key = {**case.key, "digest": hashlib.sha256(SECRETS[0].encode()).hexdigest()}
    rows = {"tenants": [TENANT], "people": [case.person], "keys": [key], "auditors": [], "limits": []}
    lease, text = case.lease, naive_cases.toml(case.charter)
    entry = json.dumps({"type": "node.lease/v1", "jurisdiction": lease["jurisdiction"], "evidence": lease["evidence"]})
    seconds = 1000.0 + (lease["expires"] - NOW) / 1000
    return replace(
        EMPTY,
        charter=CharterRef(1, text),
        roll=publish.roll(1, rows.__getitem__, NOW),
        models=(ModelRow(case.model["model"], 3, json.dumps(case.model), 1_700_000_000, True, 4096),),
        leases=(LeaseRow(5, entry, "node_1", lease["jurisdiction"], lease["expires"], seconds),),
        replicas=(worlds.replica(1, model=case.model["model"]),),
    )


def asked_an_engine(case: Case, action: str, secret: str, *, later: int = 0) -> bool:
    """Whether a request went through everything that stands before an engine, `later` ms after the snapshot."""
    path: Any = Path(taken=snapshot(case))
    path.clock.pass_seconds(later / 1000)
    app: Any = SimpleNamespace(_service=path.service)  # of an app only what knows who asks
    try:
        principal = App.authenticate(app, {b"authorization": f"Bearer {secret}".encode()}, path.clock.now_ms())
    except Unauthenticated:
        return False
    path.ask(
        json.dumps({"model": case.asked, "messages": [], "input": "a", "prompt": "a"}).encode(), action, who=principal
    )
    return bool(path.engines.calls)


def disagreements_on_the_way(count: int) -> tuple[Counter[bool], list[Case]]:
    """How many requests reached an engine and how many did not; and the first where the naive evaluator differs."""
    cases, told = Cases(20261129), Counter[bool]()
    for _ in range(count):
        case = cases.next()
        later = cases.rng.choice([0, 0, 0, 1, 2])  # what expires meanwhile is over without a new snapshot
        secret = cases.rng.choice([SECRETS[0]] * 19 + [SECRETS[1]])
        expected = secret == SECRETS[0] and naive.may_ask(
            case.charter, case.person, case.key, case.model, case.lease, asked=case.asked, now=NOW + later
        )
        found = asked_an_engine(case, cases.rng.choice(INFERENCE_ACTIONS), secret, later=later)
        told[found] += 1
        if found != expected:
            return told, [case]
    return told, []


@pytest.mark.parametrize("count", [1_000, pytest.param(6_000, marks=pytest.mark.slow)])
def test_a_request_reaches_an_engine_where_the_naive_evaluator_allows_it_and_nowhere_else(count: int) -> None:
    told, wrong = disagreements_on_the_way(count)
    assert wrong == []
    assert min(told[True], told[False]) > count // 5


def _no_holder_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    made = directory._principal
    monkeypatch.setattr(
        directory, "_principal", lambda key, person, tenant: replace(made(key, person, tenant), expires=key.expires)
    )


def _nothing_is_revoked(monkeypatch: pytest.MonkeyPatch) -> None:
    made = publish.key_rows
    monkeypatch.setattr(
        publish, "key_rows", lambda keys, *more: made([{**key, "revoked": None} for key in keys], *more)
    )


def _keys_are_for_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    made = directory._principal
    monkeypatch.setattr(directory, "_principal", lambda *rows: replace(made(*rows), models=frozenset()))


def _leases_live_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "routes", lambda self, model, _now=None: self._reach[model][0])


@pytest.mark.parametrize(
    "blind", [_no_holder_expires, _nothing_is_revoked, _keys_are_for_all_models, _leases_live_for_ever]
)
def test_a_look_that_is_left_out_on_the_way_is_noticed(
    blind: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    blind(monkeypatch)
    assert disagreements_on_the_way(1_000)[1]

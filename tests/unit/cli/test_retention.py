"""`daulat retention`: what is signed is the whole rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.verbs import Shell
from tests.unit.cli.test_operate import Service, drafted, key, service  # noqa: F401  fixtures

from daulat.cli import retention as module

RULE = {"tenant": "agency", "files": 90, "completions": None}


def test_the_rule_that_was_asked_for_is_proposed(run: Shell, service: Service, key: tuple[str, ...]) -> None:  # noqa: F811
    draft = drafted(RULE, action="retention.set")
    service.answers["consent.draft"] = draft
    by = {"state": "done", "proposed_by": "ali", "approved_by": [], "needed": 0}
    service.answers["consent.propose"] = {**draft, **by}
    said = run("retention", "set", "agency", "--files", "90", "--completions", "none", *key, "--yes", "--json")
    assert said.value["state"] == "done", said
    (drafting, given), *_ = [asked for asked in service.asked if asked[0] == "consent.draft"]
    assert (drafting, given["action"], given["arguments"]) == ("consent.draft", "retention.set", RULE)
    service.answers["consent.draft"] = drafted({**RULE, "files": 9}, action="retention.set")
    assert run("retention", "set", "agency", "--files", "90", "--completions", "none", *key, "--yes").code == 1


@pytest.mark.parametrize("wrong", ["0", "-1", "36501", "soon", "1.5", "", "٣"])
def test_what_is_no_number_of_days_is_refused(run: Shell, wrong: str) -> None:
    said = run("retention", "set", "agency", f"--files={wrong}", "--completions", "none", "--key", "k")
    assert said.code == 2
    assert "a number of days from 1 to 36500" in said.err


def test_rules_are_listed_in_words(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = [{"tenant": "t", "name": "agency", "files": 90, "completions": None}]
    monkeypatch.setattr(module, "ask", lambda _home, _method: rows)
    said = run("retention", "list").out
    assert "90 days" in said
    assert "until deleted" in said
    assert json.loads(run("retention", "list", "--json").out) == rows

"""What the control process and the vault offer each other for retention and exports: the same names on both sides."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.pipeline.test_consent import House, run

from daulat.core.export import ACT
from daulat.core.retention import SET, Rule
from daulat.processes import keeping, retaining, rights
from daulat.processes.storing import Storing
from daulat.processes.vault import Vault
from daulat.settings import Home, Settings


class Site:
    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home")
        self.home.prepare()
        self.house = House(folder)
        charter = (0, self.house.charter)
        self.storing = Storing(
            self.house.rows,
            self.house.book,
            self.house.clock,
            charter,
            self.house.desk,
            self.home,  # type: ignore[arg-type]
        )
        self.house.acts.update(self.storing.acts())  # type: ignore[arg-type]
        self.control: dict[str, Any] = self.storing.handlers(lambda use_case: use_case)
        self.vault: dict[str, Any] = Vault(self.home, keeping.Asked.of(Settings())).handlers()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.house.rows.close()


def called(module: Any) -> set[str]:
    """The methods that a module calls on another process."""
    calls = (node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Call))
    texts = (arg.value for call in calls for arg in call.args if isinstance(arg, ast.Constant))
    return {text for text in texts if isinstance(text, str) and text.startswith(("retention.", "export.", "retain"))}


def test_what_one_calls_the_other_answers(site: Site) -> None:
    assert called(retaining) == {"retention.rules", "retention.deleted", "retain"}
    assert called(rights) == {"export.open"}
    assert {"retention.rules", "retention.deleted", "export.open", "export.held", "export.made"} <= set(site.control)
    assert {"retain", "export.list", "export.read"} <= set(site.vault)


def test_rules_and_exports_are_acts_that_others_agree_to(site: Site) -> None:
    run(site.house.desk.add_tenant("agency"))
    run(site.house.desk.add_person("aminah", "agency", "MY", "substantial", ["user"], days=30))
    for action, arguments in (
        (SET, {"tenant": "agency", "files": 3, "completions": None}),
        (ACT, {"person": "aminah"}),
    ):
        draft = site.house.draft(action, **arguments)
        site.house.propose(draft)
        assert site.house.approve(draft, "bina")["state"] == "open"
        assert site.house.approve(draft, "chong")["state"] == "done", "also while the vault is away"
    rules = {row["name"]: (row["files"], row["completions"]) for row in asyncio.run(site.control["retention.rules"]())}
    assert rules == {"operators": (None, None), "agency": (3, None)}
    assert asyncio.run(site.control["export.held"](person="aminah"))["rows"]["person"][0]["name"] == "aminah"
    tenant = site.house.rows.find("tenants", "agency")["id"]
    said = {"rule": Rule(3).as_dict(), "deleted": {"files": 1, "completions": 0}}
    asyncio.run(site.control["retention.deleted"](batch="batch_1", tenant=tenant, **said))
    assert site.house.audited() == []

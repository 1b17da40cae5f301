"""Nobody overrides a lease: it lasts what the charter says, and no setting, method or act makes it last longer."""

from __future__ import annotations

import ast
import asyncio
import inspect
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import logs
from tests.support.site import CHARTER, Site

import daulat
from daulat.core import charter as charters
from daulat.core.consent import ALONE
from daulat.core.glass import BREAKABLE
from daulat.errors import ConfigError
from daulat.processes.storing import Storing
from daulat.settings import Settings

SOURCES = {path: path.read_text() for path in Path(daulat.__file__).parent.rglob("*.py")}
HOUR_MS = 3_600_000


def calls(name: str) -> list[ast.Call]:
    """Every call in the product of what is called `name`."""
    nodes = (node for text in SOURCES.values() if name.partition(".")[0] in text for node in ast.walk(ast.parse(text)))
    return [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


@settings(derandomize=True, deadline=None, max_examples=20)
@given(seconds=st.integers(30, 3600), strict=st.booleans())
def test_a_lease_lasts_what_the_charter_says_by_both_clocks(seconds: int, strict: bool) -> None:
    async def use() -> None:
        site = Site(charter=replace(CHARTER, lease_seconds=seconds, strict=strict))
        await site.up("a", "b")
        (entry,) = (entry for entry in site.log if entry["type"] == "node.lease/v1")
        held = site.node.lease
        assert held is not None
        assert held.expires - entry["not_before"] == seconds * 1000
        assert held.expires == entry["expires"]

    asyncio.run(use())


def test_its_length_is_the_charters_wherever_one_is_granted() -> None:
    (length,) = (ast.unparse(call.args[2]) for call in calls("lease.term"))
    assert length == "ground.charter.lease_seconds"
    granted = {path.name for path, text in SOURCES.items() if '.write("node.lease/v1"' in text}
    stored = {path.name for path, text in SOURCES.items() if '.write("storage.lease/v1"' in text}
    assert (granted, stored) == ({"enrol.py"}, {"storing.py"})


@pytest.mark.parametrize("seconds", [0, 29, 3601, 10**9])
def test_no_charter_asks_for_more_than_an_hour(seconds: int) -> None:
    with pytest.raises(ConfigError, match="lease_seconds"):
        charters.parse(logs.charter_text().replace("lease_seconds = 300", f"lease_seconds = {seconds}"))


def test_no_setting_names_a_lease_and_no_act_or_method_grants_one() -> None:
    assert not [field.name for field in fields(Settings) if "lease" in field.name or "strict" in field.name]
    assert not [action for action in ALONE | BREAKABLE if "lease" in action]
    methods = {
        node.value
        for path, text in SOURCES.items()
        if path.parent.name in {"processes", "cli", "gateway"} and "lease" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".lease")
    }
    assert methods == {"vault.lease", "node.lease"} & methods
    assert "vault.lease" in methods
    asked = set(inspect.signature(Storing._lease).parameters) - {"self"}
    assert asked == {"kind", "place", "jurisdiction", "evidence"}, "whoever asks says where, and never for how long"

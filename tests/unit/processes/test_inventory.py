"""What a lease says of its node: counts and health by product, no serial numbers, and it fits into an entry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.__main__ import install

from daulat.adapters.accelerators import discover
from daulat.core import entries
from daulat.processes import inventory


def test_accelerators_are_counted_by_product_with_how_many_are_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{install(tmp_path, 'a3', ('ecc:3', 'die-lost:5'))}:{os.environ['PATH']}")
    found = inventory.accelerators(discover(root=tmp_path, deep=False))
    assert found == [
        {"vendor": "ascend", "product": "Ascend 910", "architecture": "A3", "count": 15, "fit": 14},
        {"vendor": "ascend", "product": "unknown", "architecture": "unknown", "count": 1, "fit": 0},
    ]


def test_a_machine_without_any_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    facts = inventory.facts(inventory.look())
    assert facts["accelerators"] == []
    assert facts["memory_mib"] > 0


def test_a_lease_with_them_is_an_entry_that_can_be_read_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{install(tmp_path, '8xh200')}:{os.environ['PATH']}")
    grade = {"grade": "G1"}
    evidence = {
        "sandbox": grade,
        "canary": grade,
        "inventory": {**grade, **inventory.facts(inventory.look())},
        "site": grade,
    }
    fields: dict[str, Any] = dict.fromkeys(entries.SHAPES["node.lease/v1"].fields[1:], 0)
    fields |= {"node": "node-1", "jurisdiction": "MY", "evidence": evidence, "canary": None, "replaces": None}
    fields |= {"decision": {"effect": "allow", "policies": [], "attributes": {}}}
    read = entries.decode(entries.encode("node.lease/v1", fields))
    assert read["evidence"]["inventory"]["accelerators"][0]["product"] == "NVIDIA H200"

"""A charter that asks for approvals comes into force only where there are operators to give them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import logs

from daulat.adapters.control_db import ControlDatabase
from daulat.catalog import charters
from daulat.core import charter as charters_core
from daulat.core.ceremony import Seat
from daulat.core.consent import naming
from daulat.errors import ConfigError
from daulat.pipeline.agreed import sha256
from daulat.pipeline.ceremony import Drawn, draw, parse
from daulat.policy.bundle import load
from daulat.processes.consenting import in_force
from daulat.settings import Home
from daulat.tlog.note import Signer


def operators(rows: ControlDatabase, count: int) -> None:
    rows.add("tenants", {"id": "t", "name": "operators", "epoch_key": ""})
    for number in range(count):
        who = {"name": str(number), "tenant": "t", "citizenship": "MY", "assurance": "high", "roles": ["operator"]}
        rows.add("people", {"id": f"p{number}", **who, "expires": 1 << 50, "version": 1})
        key = {"name": str(number), "person": f"p{number}", "vkey": "v", "origin": "log/1", "position": 0}
        rows.add("operator_keys", {"id": f"k{number}", **key, "revoked": None})


@pytest.mark.parametrize(("approvals", "there", "starts"), [(0, 0, True), (2, 0, False), (2, 2, False), (2, 3, True)])
def test_nobody_locks_themselves_out(tmp_path: Path, approvals: int, there: int, starts: bool) -> None:
    home, rows = Home(tmp_path), ControlDatabase(tmp_path / "control.db")
    home.charter.write_text(charters.starter().replace("approvals = 0", f"approvals = {approvals}"))
    operators(rows, there)
    if starts:
        assert in_force(rows, home).waiting == ()
    else:
        with pytest.raises(ConfigError, match=f"approvals = 2 needs 3 operators with keys, and there are {there}"):
            in_force(rows, home)
    rows.close()


@pytest.mark.parametrize(
    ("values", "charter"),
    [
        ({"expires": 1}, ('site = "not stated"', 'site = "here"')),
        ({}, ('assurance = "substantial"', 'assurance = "high"')),
        ({}, ('issuers = ["operator"]', 'issuers = ["https://id.example"]')),
    ],
    ids=str,
)
def test_only_those_count_whose_signature_the_new_charter_counts(
    tmp_path: Path, values: dict[str, Any], charter: tuple[str, str]
) -> None:
    home, rows = Home(tmp_path), ControlDatabase(tmp_path / "control.db")
    text = charters.starter().replace("approvals = 0", "approvals = 2")
    assert charter[0] in text
    operators(rows, 3)
    home.charter.write_text(text)
    assert in_force(rows, home).waiting == ()
    rows.change("people", "p0", assurance="substantial", **values)
    home.charter.write_text(text.replace(*charter))
    with pytest.raises(ConfigError, match="whose signature this charter counts: add or renew them first"):
        in_force(rows, home)
    rows.close()


PRODUCTION = logs.charter_text(approvals=2, profile="production")
NAMES = ("ali", "bina", "chong")
KEYS = {name: Signer(name, bytes([number] * 32)) for number, name in enumerate(NAMES, 1)}


def drawn(home: Home, text: str = PRODUCTION, *, rules: str = "", signers: tuple[str, ...] = NAMES) -> Drawn:
    seats = [(name, Seat(key.vkey, "MY", "high", 1 << 50)) for name, key in KEYS.items()]
    made = draw("ai.example/2026", 1, text, rules or load(home.policies).version, (), seats)
    for name in signers:
        made = made.signed(KEYS[name].vkey, KEYS[name].sign_bytes(made.ceremony.statement()))
    return made


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.charter.write_text(PRODUCTION)
    return made


@pytest.fixture
def rows(home: Home) -> Iterator[ControlDatabase]:
    made = ControlDatabase(home.control_db)
    yield made
    made.close()


def in_log(rows: ControlDatabase, text: str) -> None:
    read = charters_core.parse(text)
    value = {"text": text, "sha256": sha256(text), "approvals": read.approvals}
    rows.set_live("charter/v1", "", "ai.example/2026", 0, json.dumps(value))


def test_production_is_entered_by_a_ceremony_that_everybody_signed(home: Home, rows: ControlDatabase) -> None:
    with pytest.raises(ConfigError, match="entered by a key ceremony"):
        in_force(rows, home)
    home.ceremony.write_text(drawn(home, signers=NAMES[:2]).encode())
    with pytest.raises(ConfigError, match="is not signed by chong"):
        in_force(rows, home)
    home.ceremony.write_text(drawn(home).encode().replace('"bina"', '"devi"'))
    with pytest.raises(ConfigError, match="an operator has not signed"):
        in_force(rows, home)
    home.ceremony.write_text(drawn(home).encode())
    assert in_force(rows, home).ceremony == drawn_names(home)


def drawn_names(home: Home) -> Drawn:
    return parse(home.ceremony.read_text())


def test_what_stands_in_the_home_is_what_was_signed(home: Home, rows: ControlDatabase) -> None:
    home.ceremony.write_text(drawn(home).encode())
    home.charter.write_text(PRODUCTION.replace("300", "299"))
    with pytest.raises(ConfigError, match="another than the one that was signed"):
        in_force(rows, home)
    home.charter.write_text(PRODUCTION)
    home.ceremony.write_text(drawn(home, rules="0" * 64).encode())
    with pytest.raises(ConfigError, match="others than those that were signed"):
        in_force(rows, home)


def test_a_ceremony_replaces_nobody_who_had_to_agree(home: Home, rows: ControlDatabase) -> None:
    home.ceremony.write_text(drawn(home).encode())
    in_log(rows, logs.charter_text(approvals=1))
    with pytest.raises(ConfigError, match="operators have to agree here already"):
        in_force(rows, home)
    in_log(rows, logs.charter_text())
    assert in_force(rows, home).ceremony is not None
    in_log(rows, PRODUCTION)
    assert in_force(rows, home).ceremony is not None, "cut off between charter and ceremony, it goes on"


def test_once_it_took_place_its_file_is_only_kept(home: Home, rows: ControlDatabase) -> None:
    home.ceremony.write_text(drawn(home).encode())
    in_log(rows, PRODUCTION)
    said = drawn_names(home).ceremony
    held = {"begun": said.begun, "sha256": said.charter, "roster": said.roster}
    rows.set_live("ceremony/v1", "", "ai.example/2026", 3, json.dumps(held))
    assert in_force(rows, home).ceremony is None
    home.ceremony.write_text(drawn(home).encode())
    with pytest.raises(ConfigError, match="another than the key ceremony that took place"):
        in_force(rows, home)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (logs.charter_text(approvals=2), "production has left for good"),
        (PRODUCTION.replace("floor = 1\n", ""), "the floor is 1 for good"),
    ],
)
def test_not_even_an_agreement_leaves_production_or_the_floor(
    home: Home, rows: ControlDatabase, new: str, words: str
) -> None:
    in_log(rows, PRODUCTION)
    home.charter.write_text(new)
    operators(rows, 1)
    payload = naming(sha256(new)).decode()
    made = {"name": "x", "origin": "ai.example/2026", "action": "charter.change", "payload": payload, "prior": ""}
    rows.add("proposals", {"id": "x", **made, "expires": 1, "key": "k0", "position": 5, "done": 1})
    with pytest.raises(ConfigError, match=words):
        in_force(rows, home)

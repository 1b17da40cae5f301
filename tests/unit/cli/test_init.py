"""`daulat init`: drawn up, signed by everybody, finished; and whoever is missing or changes something is told so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.verbs import Shell

from daulat.adapters import sealed_key
from daulat.catalog import charters as catalog
from daulat.catalog.starter import STARTER
from daulat.cli.init import into_production
from daulat.core import charter as charters
from daulat.pipeline.ceremony import parse

PASSPHRASE = "a passphrase for tests alone"
NAMES = ("aminah", "bina", "chong")


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    monkeypatch.setattr("daulat.adapters.passphrase.COSTS", {"n": 2, "r": 8, "p": 1})
    (tmp_path / "passphrase").write_text(f"{PASSPHRASE}\n")
    for name in (*NAMES, "devi"):
        sealed_key.create(tmp_path / f"{name}.key", name, PASSPHRASE)
        (tmp_path / f"{name}.vkey").write_text(sealed_key.vkey(tmp_path / f"{name}.key"))
    return {name: tmp_path / f"{name}.key" for name in (*NAMES, "devi")}


def operators(keys: dict[str, Path], *names: str) -> list[Any]:
    return [word for name in names or NAMES for word in ("--operator", name, "MY", keys[name].with_suffix(".vkey"))]


def drafted(run: Shell, keys: dict[str, Path], *more: Any) -> Path:
    path = keys["bina"].with_name("ceremony.json")
    said = run("init", "draft", path, *operators(keys), *more, "--json")
    assert said.code == 0, said
    assert said.value["missing"] == list(NAMES)
    return path


def sign(run: Shell, keys: dict[str, Path], path: Path, name: str) -> Any:
    passphrase = keys[name].with_name("passphrase")
    return run("init", "sign", path, "--key", keys[name], "--passphrase-file", passphrase, "--yes", "--json")


def test_three_operators_begin_production_in_a_new_home(run: Shell, keys: dict[str, Path]) -> None:
    path = drafted(run, keys, "--name", "ai.agency.gov.my")
    refused = run("init", "finish", path)
    assert (refused.code, "aminah, bina, chong have not signed yet" in refused.err) == (1, True)
    left = [sign(run, keys, path, name).value["missing"] for name in NAMES]
    assert left == [["bina", "chong"], ["chong"], []]
    said = run("init", "finish", path, "--json")
    assert said.code == 0, said
    charter = charters.parse(run.home.charter.read_text())
    assert (charter.profile, charter.approvals, charter.floor) == ("production", 2, 2)
    assert said.value["origin"].startswith("ai.agency.gov.my/")
    assert said.value["models"] == [STARTER.sha256]
    assert parse(run.home.ceremony.read_text()).missing() == []
    assert run("init", "finish", path, "--json").code == 0, "again is nothing new"


def test_a_charter_that_is_there_stays_as_it_is_but_for_production(run: Shell, keys: dict[str, Path]) -> None:
    run.home.path.mkdir(parents=True, exist_ok=True)
    before = catalog.starter("ai.example").replace('site = "not stated"', 'site = "Cyberjaya"')
    run.home.charter.write_text(before)
    assert "leave --name out" in run("init", "draft", keys["bina"].with_name("c"), *operators(keys), "--name", "x").err
    path = drafted(run, keys)
    for name in NAMES:
        sign(run, keys, path, name)
    assert run("init", "finish", path).code == 0
    assert charters.parse(run.home.charter.read_text()).site == "Cyberjaya"
    assert run.home.charter.with_name("charter.before-the-ceremony.toml").read_text() == before


@pytest.mark.parametrize("text", [catalog.starter("x"), catalog.starter("x").replace("floor = 0", "# no floor")])
def test_production_is_made_of_any_charter(text: str) -> None:
    old, new = charters.parse(text), charters.parse(into_production(text, 3))
    assert (new.profile, new.approvals, new.floor) == ("production", 3, 3)
    assert (new.users, new.licences, new.name, new.review_days) == (old.users, old.licences, old.name, old.review_days)


def test_who_signs_sees_everything_first(run: Shell, keys: dict[str, Path]) -> None:
    path = drafted(run, keys)
    said = run("init", "sign", path, "--key", keys["bina"])
    assert said.code == 1
    for words in ("floor = 2", 'site = "not stated"', "chong, MY (high)", "know everybody named here?"):
        assert words in said.err
    assert parse(path.read_text()).missing() == list(NAMES)
    shown = run("init", "show", path)
    assert "Still to sign: aminah, bina, chong." in shown.out


def test_nobody_signs_who_is_not_named(run: Shell, keys: dict[str, Path]) -> None:
    path = drafted(run, keys)
    assert "none of those that the ceremony names" in sign(run, keys, path, "devi").err


def test_a_letter_changed_after_signing_is_found(run: Shell, keys: dict[str, Path]) -> None:
    path = drafted(run, keys)
    for name in NAMES:
        sign(run, keys, path, name)
    value = json.loads(path.read_text())
    value["charter"] = value["charter"].replace('"substantial"', '"low"')
    path.write_text(json.dumps(value))
    said = run("init", "finish", path)
    assert (said.code, "has not signed" in said.err) == (1, True)
    assert not run.home.ceremony.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"begun": 1}, "begun more than 31 days ago"),
        ({"rules": "0" * 64}, "for other rules"),
        ({"origin": "another.example/2026"}, "this home's log is"),
    ],
)
def test_a_ceremony_for_something_else_is_not_finished(
    run: Shell, keys: dict[str, Path], changes: dict[str, Any], words: str
) -> None:
    path = drafted(run, keys, "--name", "ai.example")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    for name in NAMES:
        sign(run, keys, path, name)
    said = run("init", "finish", path)
    assert (said.code, words in said.err) == (1, True), said


def test_too_few_or_strangers_draw_up_nothing(run: Shell, keys: dict[str, Path]) -> None:
    path = keys["bina"].with_name("few")
    assert "at least 3 are needed" in run("init", "draft", path, *operators(keys, "bina", "chong")).err
    stranger = ("--operator", "devi", "SG", keys["devi"].with_suffix(".vkey"))
    assert "the charter asks for MY" in run("init", "draft", path, *operators(keys), *stranger).err
    assert not path.exists()


def test_another_ceremony_does_not_take_the_first_ones_place(run: Shell, keys: dict[str, Path]) -> None:
    path = drafted(run, keys, "--name", "ai.example")
    for name in NAMES:
        sign(run, keys, path, name)
    run("init", "finish", path)
    path.unlink()
    again = drafted(run, keys)
    for name in NAMES:
        sign(run, keys, again, name)
    assert "another key ceremony was finished here" in run("init", "finish", again).err

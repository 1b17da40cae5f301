"""`daulat log fsck` holds what the log says of models against the files that are here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support import logs
from tests.support.model_folders import contents, write
from tests.support.verbs import Shell, publish

from daulat.adapters import model_import
from daulat.adapters.log_files import Blobs
from daulat.adapters.model_import import Wishes
from daulat.adapters.models import ModelStore
from daulat.adapters.seal import SqliteSeal
from daulat.ledger.sequencer import Sealed
from daulat.registry.model import ModelFacts
from daulat.registry.statement import stated
from daulat.settings import Home

JSON = dict[str, Any]


def admitted(home: Home, facts: ModelFacts, **changes: Any) -> logs.Published:
    """A log that has admitted this model, and which is sealed."""
    text = logs.charter_text().replace('["gguf"]', '["gguf", "safetensors", "external"]')
    charter = {"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    model = {**facts.admission(), **changes}
    log = publish(home, logs.write({"charter": charter, "model": model, "action": {"subject": model["digest"]}}))
    seal = SqliteSeal(home.sequencer_db, logs.ORIGIN)
    seal.advance(b"", Sealed(len(log.entries), log.signed, len(log.entries), log.signed, (), {}, {}))
    seal.close()
    return log


class Admitted:
    """A home whose log has admitted one imported model, and whose papers lie beside the log."""

    def __init__(self, home: Home, source: Path, **changes: Any) -> None:
        self.home, self.source, self.store = home, write(source, contents()), ModelStore(home.models)
        self.facts = model_import.add(self.store, self.source, Wishes(name="tiny"))
        for paper in self.store.papers(self.facts.digest).values():
            Blobs(home.log / "blob").put(paper)
        self.log = admitted(home, self.facts, **changes)

    @property
    def folder(self) -> Path:
        return self.store.folder / self.facts.digest

    def blob(self, name: str) -> Path:
        (paper,) = (paper for paper in self.facts.papers if paper.path == name)
        return self.home.log / "blob" / paper.sha256


@pytest.fixture
def site(home: Home, tmp_path: Path) -> Admitted:
    return Admitted(home, tmp_path / "source")


def problems(run: Shell, *options: str) -> tuple[int, list[tuple[bool, str]]]:
    """The exit code, and what was found: whether it is serious, and its words."""
    said = run("log", "fsck", *options, "--json")
    found = json.loads(said.out)["problems"]
    return said.code, [(item["serious"], item["what"]) for item in found]


def spoil(path: Path, change: Callable[[bytes], bytes] = lambda data: data[:-1] + b"\x07") -> None:
    path.chmod(0o600)
    path.write_bytes(change(path.read_bytes()))


def test_an_admitted_model_that_is_whole_has_no_problems(run: Shell, site: Admitted) -> None:
    assert problems(run) == (0, [])
    assert "0 serious problem(s), 0 note(s)" in run("log", "fsck").out


def _record(site: Admitted, change: Callable[[JSON], object]) -> None:
    path = site.folder / "model.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


WEIGHTS = "model/model-00002-of-00002.safetensors"
SERIOUS: Mapping[str, tuple[Callable[[Admitted], object], str]] = {
    "a byte of the weights": (lambda site: spoil(site.folder / WEIGHTS), "has changed since its model was imported"),
    "a byte of the template": (
        lambda site: spoil(site.folder / "model/tokenizer_config.json"),
        "tokenizer_config.json has changed since its model was imported",
    ),
    "a file that is gone": (lambda site: (site.folder / WEIGHTS).unlink(), "is gone; import it again"),
    "a file that is a link to another": (
        lambda site: ((site.folder / WEIGHTS).unlink(), (site.folder / WEIGHTS).symlink_to("/etc/passwd")),
        "is a link",
    ),
    "a bill of materials of other bytes": (
        lambda site: spoil(site.folder / "bom.cdx.json"),
        "bom.cdx.json has changed",
    ),
    "a bill of materials that is gone": (
        lambda site: (site.folder / "bom.cdx.json").unlink(),
        "bom.cdx.json has changed",
    ),
    "a manifest of other bytes": (lambda site: spoil(site.folder / "manifest"), "manifest has changed"),
    "a record of other files": (
        lambda site: _record(site, lambda value: value["files"][0].update(sha256="0" * 64)),
        "the record of model",
    ),
    "a record that is no JSON": (lambda site: (site.folder / "model.json").write_text("{"), "record is damaged"),
    "the log's bill of materials": (
        lambda site: spoil(site.blob("bom.cdx.json")),
        "(bom.cdx.json of model tiny) has other bytes",
    ),
    "the log's manifest": (lambda site: site.blob("manifest").unlink(), "(manifest of model tiny) is missing"),
}


@pytest.mark.parametrize("name", SERIOUS)
def test_damage_to_an_admitted_model_is_serious_and_said_in_words(run: Shell, site: Admitted, name: str) -> None:
    damage, words = SERIOUS[name]
    damage(site)
    code, found = problems(run)
    assert code == 1
    assert any(serious and words in what for serious, what in found), found


def test_the_model_and_its_entry_are_named(run: Shell, site: Admitted) -> None:
    spoil(site.folder / WEIGHTS)
    _, [(_, what)] = problems(run)
    index = site.log.names["model"]
    assert what.startswith(f"model 'tiny' ({site.facts.digest[:12]}, entry {index} of {logs.ORIGIN}): ")


def test_other_templates_than_were_admitted_are_serious(run: Shell, home: Home, tmp_path: Path) -> None:
    Admitted(home, tmp_path / "source", templates=[{"name": "default", "sha256": "1" * 64}])
    code, [(serious, what)] = problems(run)
    assert (code, serious) == (1, True)
    assert "its chat templates (default) are not those that were admitted" in what


def test_a_model_that_is_not_here_any_more_is_a_note(run: Shell, site: Admitted) -> None:
    site.folder.rename(site.store.folder / "elsewhere")
    code, [(serious, what)] = problems(run)
    assert (code, serious) == (0, False)
    assert "is not in the store: it cannot be served until it is imported again" in what


def test_a_claim_that_a_later_import_changed_is_a_note_until_it_is_admitted(run: Shell, site: Admitted) -> None:
    changed: ModelFacts = model_import.add(site.store, site.source, Wishes(name="tiny", licence="apache-2.0"))
    assert changed.digest == site.facts.digest
    code, found = problems(run)
    assert (code, {serious for serious, _ in found}) == (0, {False})
    assert any("its record says licence 'apache-2.0', and the log 'mit'" in what for _, what in found)
    assert any("bom.cdx.json beside it is another than was admitted" in what for _, what in found)


def test_models_are_left_out_on_demand_and_what_the_log_names_is_not(run: Shell, site: Admitted) -> None:
    spoil(site.folder / WEIGHTS)
    assert problems(run, "--without-models") == (0, [])
    site.blob("manifest").unlink()
    code, [(_, what)] = problems(run, "--without-models")
    assert (code, "is missing" in what) == (1, True)


def test_a_statement_about_a_model_elsewhere_is_checked_like_files(run: Shell, home: Home) -> None:
    store = ModelStore(home.models)
    said = stated("elsewhere", model="big", licence="mit", origin="https://example.org")
    facts = store.state(said)
    admitted(home, facts)
    assert problems(run) == (0, [])
    spoil(store.path(facts.digest), lambda data: data.replace(b"mit", b"gpl"))
    code, [(serious, what)] = problems(run)
    assert (code, serious) == (1, True)
    assert "has changed since its model was imported" in what

"""A new key of the log where others have to agree: what they signed is what begins, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import logs
from tests.support.logs import NAME, SIGNER, VERIFIER
from tests.unit.pipeline.test_consent import House

from daulat.adapters import log_files
from daulat.adapters.log_files import LogFiles, LogFolder
from daulat.audit import shards
from daulat.audit.log import Report, audit
from daulat.core import entries
from daulat.core.consent import ALONE, LOG_KEY
from daulat.core.glass import BREAKABLE
from daulat.errors import InvalidRequest, PermissionDenied
from daulat.pipeline.rekey import Rekeying
from daulat.processes import checking, log_keys
from daulat.processes import sequencer as process
from daulat.processes.sequencer import open_sequencer
from daulat.settings import Home
from daulat.tlog.note import Signer, Verifier

Make = Callable[..., tuple[House, Home]]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """An installation with operators, and its log in a home."""
    made: list[House] = []

    def begin(approvals: int = 2) -> tuple[House, Home]:
        home = Home(tmp_path / "home")
        home.prepare()
        (home.keys / "log.key").write_text(f"{SIGNER.export()}\n")
        (home.keys / "log.key").chmod(0o600)
        house = House(tmp_path, approvals)
        house.acts[LOG_KEY] = Rekeying(lambda: SIGNER.vkey, lambda period: checking.free(home, period))
        made.append(house)
        return house, home

    yield begin
    for house in made:
        assert house.audited() == []
        house.rows.close()


def new_key(home: Home, period: str = "2027") -> str:
    log_keys.make(home, NAME, period)
    return log_keys.load(home, NAME, [period]).vkey


def arguments(vkey: str) -> dict[str, Any]:
    return {"old": SIGNER.renamed(Verifier(vkey).name).vkey, "new": vkey}


def agree(house: House, vkey: str) -> dict[str, Any]:
    draft = house.draft(LOG_KEY, **arguments(vkey))
    house.propose(draft)
    house.approve(draft, "bina")
    return house.approve(draft, "chong")


def settle(house: House, home: Home) -> None:
    """What the log of the house has, the home's has."""
    sequencer = open_sequencer(home, NAME, "2026")
    if new := house.log[sequencer.size :]:
        sequencer.append(new)


def refused(home: Home, period: str = "2027") -> None:
    with pytest.raises(PermissionDenied, match="nobody does that alone: 2 others have to agree") as said:
        open_sequencer(home, NAME, period)
    assert said.value.code == "not_agreed"
    assert log_files.current_period(home.log) == "2026"
    assert not (home.log / period / "checkpoint").exists()


def test_it_is_neither_alone_nor_behind_glass() -> None:
    assert LOG_KEY not in ALONE | BREAKABLE


def test_a_key_rotated_alone_stays_out_of_force_and_the_log_goes_on(make: Make) -> None:
    house, home = make()
    settle(house, home)
    vkey = new_key(home)
    refused(home)
    draft = house.draft(LOG_KEY, **arguments(vkey))
    house.propose(draft)
    house.approve(draft, "bina")  # one of two
    settle(house, home)
    refused(home)
    settle(house, home)
    log_keys.of(home, "2027").unlink()
    assert open_sequencer(home, NAME, "2027").size == 0, "with the old key it begins as it always did"


def test_what_was_agreed_to_begins_with_that_very_key(make: Make) -> None:
    house, home = make()
    done = agree(house, new_key(home))
    assert done["state"] == "done"
    assert entries.decode(house.log[-1])["detail"] == done["result"] == arguments(new_key(home))
    settle(house, home)
    new_key(home, "2028")
    refused(home, "2028")  # agreed to for another shard
    kept = log_keys.of(home, "2027").read_text()
    log_keys.of(home, "2027").write_text(f"{Signer.generate(NAME).export()}\n")
    refused(home)  # another key in its place
    log_keys.of(home, "2027").write_text(kept)
    open_sequencer(home, NAME, "2027")
    assert LogFolder(home.log / "2027").vkey().strip() == new_key(home)
    assert open_sequencer(home, NAME, "2027").size == 0, "started again"


def test_an_agreement_is_good_for_the_next_shard_alone(make: Make) -> None:
    house, home = make()
    agree(house, new_key(home, "2028"))
    settle(house, home)
    open_sequencer(home, NAME, "2027").append([house.log[0].replace(b"/2026", b"/2027")])
    with pytest.raises(PermissionDenied, match="others have to agree"):
        open_sequencer(home, NAME, "2028")


def test_cut_off_between_agreement_and_beginning_it_is_done_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    house, home = make()
    agree(house, new_key(home))
    settle(house, home)
    with monkeypatch.context() as patched:
        patched.setattr(process.Sequencer, "_begin", lambda _self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            open_sequencer(home, NAME, "2027")
    assert log_files.current_period(home.log) == "2027"
    assert open_sequencer(home, NAME, "2027").size == 0


def test_where_nobody_else_has_to_agree_it_is_done_at_once(make: Make) -> None:
    house, home = make(0)
    settle(house, home)
    vkey = new_key(home)
    assert open_sequencer(home, NAME, "2027").size == 0
    assert LogFolder(home.log / "2027").vkey().strip() == vkey


def test_the_logs_key_exchanged_in_its_place_opens_no_shard(make: Make) -> None:
    house, home = make()
    settle(house, home)
    (home.keys / "log.key").write_text(f"{Signer.generate(NAME).export()}\n")
    for period in ("2026", "2027"):
        with pytest.raises(Exception, match="no signature of a known key"):
            open_sequencer(home, NAME, period)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"old": SIGNER.vkey}, "and not the old one that is given"),
        ({"new": SIGNER.vkey, "old": SIGNER.vkey}, "not one that exists"),
        ({"new": SIGNER.renamed(f"{NAME}/2027").vkey}, "is the one that the log has"),
        ({"new": Signer.generate("ai.other/2027").vkey}, "make it here"),
        ({"new": Signer.generate(f"{NAME}/../2027").vkey}, "make it here|letters, digits"),
        ({"new": Signer.generate(f"{NAME}/2027").vkey + "\n"}, "make it here"),
        ({"new": "no key"}, "the new key: vkey"),
        ({"new": 1}, "takes the old and the new vkey"),
        ({"more": ""}, "takes the old and the new vkey"),
    ],
)
def test_what_can_begin_no_shard_cannot_be_proposed(make: Make, changes: dict[str, Any], words: str) -> None:
    house, home = make()
    settle(house, home)
    with pytest.raises(InvalidRequest, match=words):
        house.consent.draft(LOG_KEY, {**arguments(new_key(home)), **changes})


@pytest.mark.parametrize(
    "payload", ["", "daulat/key-rotation/v1\na\nb", "daulat/key-rotation/v1\na\nb\nc\n", "x\na\nb\n"]
)
def test_a_payload_that_states_no_change_is_none(make: Make, payload: str) -> None:
    house, home = make()
    settle(house, home)
    draft = house.draft(LOG_KEY, **arguments(new_key(home)))
    with pytest.raises(InvalidRequest, match="stated in three lines"):
        house.propose({**draft, "payload": payload})


def shard(home: Home, period: str, verifier: Verifier) -> Report:
    return audit(LogFiles(LogFolder(home.log / period), home.log / "blob"), verifier, logs.terms())


@pytest.mark.parametrize("agreed", [True, False])
def test_an_audit_of_both_shards_tells_whether_it_was_agreed_to(
    make: Make, monkeypatch: pytest.MonkeyPatch, agreed: bool
) -> None:
    house, home = make()
    vkey = new_key(home)
    if agreed:
        agree(house, vkey)
    settle(house, home)
    monkeypatch.setattr(log_keys, "must_be_agreed", lambda *_: None)  # whoever has the files in their hands
    sequencer = open_sequencer(home, NAME, "2027")
    charter = {**entries.decode(house.log[0]), "origin": f"{NAME}/2027"}
    charter["restates"] = {"origin": f"{NAME}/2026", "index": 0}
    change = log_keys.rotation(home, NAME, ["2026", "2027"])
    assert change is not None
    old = {**logs.key(1, "log", change["old"]), "charter": 0}
    new = {**logs.key(2, "log", vkey), "charter": 0, "replaces": 1, "signatures": change["signatures"]}
    for type_, fields in (("charter/v1", charter), ("key/v1", old), ("key/v1", new)):
        sequencer.append([entries.encode(type_, {name: value for name, value in fields.items() if name != "type"})])
    before, after = shard(home, "2026", VERIFIER), shard(home, "2027", Verifier(vkey))
    assert (before.holds, after.holds) == (True, True), after.findings.kept
    assert before.closing is not None
    assert after.opening is not None
    found = [str(item) for item in shards.compare(before.closing, after.opening) if "log's key" in item.words]
    assert len(found) == (0 if agreed else 1), found

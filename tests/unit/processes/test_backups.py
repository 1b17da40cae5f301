"""A backup is a home again, which goes on with its log; and no home is set back by one without others' consent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import consents, logs
from tests.support.logs import NAME, ORIGIN, SIGNER, Step
from tests.support.verbs import Run

from daulat.adapters import archive_file
from daulat.adapters.control_db import ControlDatabase
from daulat.adapters.identity_key import identity_key
from daulat.adapters.journal_files import JournalFolder
from daulat.adapters.log_files import Blobs, LogFiles, LogFolder
from daulat.adapters.vault_folder import Folder
from daulat.adapters.vault_index import SqliteIndex
from daulat.adapters.vault_keys import SqliteKeys
from daulat.adapters.vault_root import PassphraseRoot
from daulat.audit.log import audit
from daulat.core.clock import SystemClock
from daulat.errors import (
    ConfigError,
    Conflict,
    DaulatError,
    IntegrityError,
    NotFound,
    PermissionDenied,
    SplitView,
    VerificationFailed,
)
from daulat.pipeline.agreed import Naming
from daulat.processes import backing_up, checking, restoring
from daulat.processes.backing_up import Target, back_up
from daulat.processes.lock import lock
from daulat.processes.sequencer import open_sequencer
from daulat.settings import Home
from daulat.vault import archive
from daulat.vault.archive import About, Member
from daulat.vault.keyring import Keyring
from daulat.vault.objects import Objects, Whose

ALI, BALA = Whose("t1", "ali"), Whose("t1", "bala")
SECRET, OTHER = "a passphrase for tests", "another passphrase for tests"
STORY = logs.story()[:9]  # until the replica has started: nothing that a journal would have brought
STOPPED = logs.stopped(13_000, counters=logs.counters(0, 0))
NAMES = {step.name: at for at, step in enumerate(STORY)}


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_file, "_COSTS", {"n": 16, "r": 8, "p": 1})


def append(home: Home, *steps: Step) -> None:
    """Add entries as the sequencer does."""
    sequencer = open_sequencer(home, NAME, "2026")
    names = {**NAMES, **{step.name: sequencer.size + at for at, step in enumerate(steps)}}
    sequencer.append([logs.encode(step, names) for step in steps])


def objects(home: Home) -> Objects:
    root = PassphraseRoot(home.keys / "vault.root", home.keys / "vault.passphrase")
    keys = Keyring(root, SqliteKeys(home.vault / "keys.db"), SystemClock())
    index, place = SqliteIndex(home.vault / "index.db"), Folder(home.vault / "objects")
    return Objects(keys, index, place, SystemClock(), lambda: None, 1 << 30)


def kept(home: Home, whose: Whose, id_: str) -> bytes:
    return b"".join(objects(home).content(whose, "file", id_))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """With a log, a control database, and a vault in which two people keep something."""
    made = Home(tmp_path / "home")
    made.prepare()
    key = made.keys / "log.key"
    key.write_text(f"{SIGNER.export()}\n")
    key.chmod(0o600)
    made.charter.write_text(logs.charter_text())
    made.settings.write_text("port = 8471\n")
    (made.policies / "own.cedar").write_text("// ours\n")
    Blobs(made.log / "blob").put(b"a paper of a model")
    append(made, *STORY)
    rows = ControlDatabase(made.control_db)
    rows.set_meta("node", "node_1")
    rows.close()
    vault = objects(made)
    vault.put(ALI, "file", "file-1", [b"of ali"], dict)
    vault.put(BALA, "file", "file-2", [b"of bala" * 30_000], dict)
    return made


def target(folder: Path, name: str = "backup", secret: str = SECRET) -> Target:
    return Target(folder / name, secret)


def restored(where: Path, backup: Target, keys: Target | None = None) -> tuple[Home, dict[str, Any]]:
    made = Home(where)
    return made, restoring.restore(made, backup, keys, lambda *_: None)


def tree(home: Home) -> dict[str, bytes]:
    """Everything of a home that is no database, journal or lock."""
    found = (path for path in home.path.rglob("*") if path.is_file())
    skipped = (".db", "-journal", "-wal", "-shm", "lock")
    return {str(p.relative_to(home.path)): p.read_bytes() for p in found if not p.name.endswith(skipped)}


def sound(home: Home) -> bool:
    return not any(item.serious for item in checking.problems(home, "2026"))


def test_a_home_comes_back_whole_and_its_log_goes_on(home: Home, tmp_path: Path) -> None:
    backup, keys = target(tmp_path), target(tmp_path, "keys", OTHER)
    said = back_up(home, backup, keys)
    assert said["digests"]["backup"] == hashlib.sha256(backup.path.read_bytes()).hexdigest()
    assert {stat.S_IMODE(each.path.stat().st_mode) for each in (backup, keys)} == {0o600}
    for hidden in (b"charter", b"smollm", b"of ali", SIGNER.export().encode(), b"file-1"):
        assert hidden not in backup.path.read_bytes() + keys.path.read_bytes()
    again, found = restored(tmp_path / "elsewhere" / "home", backup, keys)
    assert (found["standing"], found["heads"]) == ("empty", [[ORIGIN, 9, said["heads"][0]["root"]]])
    then, now = tree(home), tree(again)
    partial = {name for name in then if "/tile/" in f"/{name}" and name not in now}
    assert {name: data for name, data in then.items() if name not in partial} == now
    assert stat.S_IMODE(again.path.stat().st_mode) == stat.S_IMODE((again.keys / "log.key").stat().st_mode) | 0o100
    assert sound(again)
    assert ControlDatabase(again.control_db).meta("node") == "node_1"
    assert (kept(again, ALI, "file-1"), kept(again, BALA, "file-2")) == (b"of ali", b"of bala" * 30_000)
    append(again, Step("stopped", "replica.stopped/v1", STOPPED))
    report = audit(LogFiles(LogFolder(again.log / "2026"), again.log / "blob"), logs.VERIFIER, logs.terms())
    assert (report.size, report.holds) == (10, True)
    assert restoring._compare(again, home) == "behind"


def test_a_log_that_tells_of_something_bad_comes_back_and_goes_on_telling(home: Home, tmp_path: Path) -> None:
    append(home, Step("stopped", "replica.stopped/v1", logs.stopped(13_000)))
    back_up(home, target(tmp_path), None)
    again, found = restored(tmp_path / "again", target(tmp_path))
    assert ["behind the gateway's back" in words for words in found["problems"]] == [True, True]
    assert not sound(again)


@pytest.mark.parametrize("size", [10, 255, 256, 257, 600])
def test_logs_of_all_sizes_come_back_with_the_same_root(home: Home, tmp_path: Path, size: int) -> None:
    append(home, *[Step(f"stopped-{number}", "replica.stopped/v1", STOPPED) for number in range(size - 10)])
    append(home, Step("stopped", "replica.stopped/v1", STOPPED))
    said = back_up(home, target(tmp_path), target(tmp_path, "keys", OTHER))
    again, _ = restored(tmp_path / "again", target(tmp_path), target(tmp_path, "keys", OTHER))
    head = checking.head(LogFolder(again.log / "2026"))
    assert said["heads"] == [{"origin": ORIGIN, "size": size, "root": head.root.hex()}]
    assert head == checking.head(LogFolder(home.log / "2026"))
    append(again, Step("again", "replica.stopped/v1", STOPPED))
    assert restoring._compare(again, home) == "behind"


def members(source: Target, kind: archive_file.Kind) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    pieces = archive_file.contents(source.path, kind, source.passphrase)
    archive.read(pieces, 1 << 30, lambda name, content: found.update({name: b"".join(content)}))
    return found


def test_hashes_of_identities_and_their_key_lie_in_two_files(home: Home, tmp_path: Path) -> None:
    """Whoever has both can try out all numbers."""
    mine = identity_key(home.identity_key)
    back_up(home, target(tmp_path), target(tmp_path, "keys", OTHER))
    backup, keys = members(target(tmp_path), "backup"), members(target(tmp_path, "keys", OTHER), "keys")
    assert ("keys/identity.key" in backup, "control.db" in backup) == (True, False)
    assert ("keys/identity.key" in keys, "control.db" in keys) == (False, True)
    again, _ = restored(tmp_path / "again", target(tmp_path), target(tmp_path, "keys", OTHER))
    assert identity_key(again.identity_key) == mine
    assert stat.S_IMODE(again.identity_key.stat().st_mode) == 0o600


def test_keys_of_before_bring_the_identity_key_along(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both files it is in neither: nobody says which one counts."""
    mine = identity_key(home.identity_key)
    monkeypatch.setattr(backing_up, "IDENTITY", "")
    monkeypatch.setattr(backing_up, "FILES", tuple(name for name in backing_up.FILES if name != "keys/identity.key"))
    back_up(home, target(tmp_path), target(tmp_path, "keys", OTHER))
    assert "keys/identity.key" in members(target(tmp_path, "keys", OTHER), "keys")
    again, _ = restored(tmp_path / "again", target(tmp_path), target(tmp_path, "keys", OTHER))
    assert identity_key(again.identity_key) == mine
    monkeypatch.setattr(backing_up, "FILES", (*backing_up.FILES, "keys/identity.key"))
    back_up(home, target(tmp_path, "twice"), target(tmp_path, "keys-twice", OTHER))
    with pytest.raises(VerificationFailed, match="in the backup and in the keys"):
        restored(tmp_path / "third", target(tmp_path, "twice"), target(tmp_path, "keys-twice", OTHER))


def test_a_home_that_has_a_log_keeps_its_own_identity_key(home: Home, tmp_path: Path) -> None:
    identity_key(home.identity_key)
    back_up(home, target(tmp_path), None)
    home.identity_key.unlink()
    mine = identity_key(home.identity_key)
    restored(home.path, target(tmp_path))
    assert identity_key(home.identity_key) == mine


def test_without_the_keys_it_can_be_read_and_cannot_go_on(home: Home, tmp_path: Path) -> None:
    backup = target(tmp_path)
    back_up(home, backup, None)
    again, found = restored(tmp_path / "again", backup)
    assert not found["keys"]
    assert sound(again)
    assert not list(again.keys.iterdir())
    assert not again.control_db.exists()
    with pytest.raises(DaulatError):
        append(again, Step("stopped", "replica.stopped/v1", STOPPED))


def test_what_the_log_has_gained_while_the_backup_is_made_is_not_in_it(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = backing_up._shard

    def slowly(*given: Any) -> Iterator[Member]:
        append(home, Step("stopped", "replica.stopped/v1", STOPPED))
        yield from shard(*given)

    monkeypatch.setattr(backing_up, "_shard", slowly)
    back_up(home, target(tmp_path), target(tmp_path, "keys", OTHER))
    again, found = restored(tmp_path / "again", target(tmp_path), target(tmp_path, "keys", OTHER))
    assert found["heads"][0][1] == 9
    assert sound(again)


def test_nothing_is_kept_of_a_backup_in_which_somebody_was_erased_meanwhile(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = backing_up._private

    def erased(*given: Any) -> Iterator[Member]:
        fields = {"time": logs.T0 + 9000, "charter": logs.Ref("charter"), "scope": "person", "subject": "p" * 22}
        append(home, Step("erasure", "erasure/v1", {**fields, "keys": 1, "objects": 1, "rows": 1}))
        yield from private(*given)

    monkeypatch.setattr(backing_up, "_private", erased)
    with pytest.raises(Conflict, match="somebody was erased while"):
        back_up(home, target(tmp_path), target(tmp_path, "keys", OTHER))
    assert not (tmp_path / "backup").exists()
    assert not (tmp_path / "keys").exists()


def test_an_object_that_is_deleted_meanwhile_is_deleted(home: Home, tmp_path: Path) -> None:
    (row,) = SqliteIndex(home.vault / "index.db").owned("person", "ali")
    (home.vault / "objects" / row.name).unlink()
    back_up(home, target(tmp_path), target(tmp_path, "keys", OTHER))
    again, _ = restored(tmp_path / "again", target(tmp_path), target(tmp_path, "keys", OTHER))
    with pytest.raises(NotFound, match="no file with the id"):
        kept(again, ALI, "file-1")
    assert kept(again, BALA, "file-2")


def test_what_is_asked_wrongly_makes_no_file(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 12 characters"):
        back_up(home, Target(tmp_path / "a", "short"), None)
    with pytest.raises(Conflict, match="passphrase of their own"):
        back_up(home, target(tmp_path), target(tmp_path, "keys"))
    (tmp_path / "there").write_text("mine")
    with pytest.raises(Conflict, match="never written over"):
        back_up(home, target(tmp_path, "there"), None)
    with pytest.raises(NotFound, match="no log"):
        back_up(Home(tmp_path / "nowhere"), target(tmp_path), None)
    (home.policies / "a b.cedar").write_text("")
    with pytest.raises(ConfigError, match="no backup holds"):
        back_up(home, target(tmp_path), None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "there"]


def test_a_file_or_passphrase_that_is_another_restores_nothing(home: Home, tmp_path: Path) -> None:
    backup, keys = target(tmp_path), target(tmp_path, "keys", OTHER)
    back_up(home, backup, keys)
    second = target(tmp_path, "second")
    back_up(home, second, None)
    for files, words in (
        ((target(tmp_path, secret="wrong wrong wrong"), None), "passphrase is wrong"),
        ((keys, None), "holds keys, not backup"),
        ((backup, second), "holds backup, not keys"),
        ((second, keys), "not made together"),
        ((target(tmp_path, "home/charter.toml"), None), "no file that `daulat backup` made"),
        ((target(tmp_path, "nothing"), None), "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=words):
            restored(tmp_path / "again", *files)
    relabelled = backup.path.read_bytes().replace(b"daulat backup 1\n", b"daulat keys 1\n", 1)
    (tmp_path / "relabelled").write_bytes(relabelled)
    with pytest.raises(ConfigError, match="passphrase is wrong, or the file was changed"):
        restored(tmp_path / "again", backup, target(tmp_path, "relabelled"))
    assert not [path for path in tmp_path.iterdir() if "again" in path.name]


def test_the_file_changed_or_cut_off_anywhere_restores_nothing(home: Home, tmp_path: Path) -> None:
    backup = target(tmp_path)
    back_up(home, backup, None)
    whole = backup.path.read_bytes()

    @settings(derandomize=True, deadline=None, max_examples=24)
    @given(st.integers(0, len(whole) - 1), st.integers(0, 8))
    def try_it(at: int, bit: int) -> None:
        changed = whole[:at] if bit == 8 else whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :]
        (tmp_path / "changed").write_bytes(changed)
        with pytest.raises((ConfigError, VerificationFailed)):
            restored(tmp_path / "again", target(tmp_path, "changed"))
        assert not (tmp_path / "again").exists()

    try_it()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "name",
    [
        *("../outside", "/etc/passwd", "log/../../outside", "log/2026/../checkpoint", "keys/log.key", "control.db"),
        *("run/control.sock", "models/x", "policies/../x.cedar", "policies/.cedar", "vault/objects/A", "log/blob/x"),
        *("lock", "daulat.log", "charter.toml\n", "charter.toml/x", "log/2026/tile/0/000/x", "journal/w1-000000"),
    ],
)
def test_a_backup_puts_nothing_where_nothing_of_it_belongs(tmp_path: Path, name: str) -> None:
    about = About("a" * 32, "backup", 0, ())
    archive_file.create(tmp_path / "backup", "backup", SECRET, archive.written([Member.of(name, b"!")], about))
    with pytest.raises((VerificationFailed, OSError)):
        restored(tmp_path / "again", target(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["backup"]


def rewritten(home: Home, tmp_path: Path, change: Callable[[str, bytes], bytes]) -> Target:
    """A backup by somebody who has the passphrase, with members as `change` has them."""
    back_up(home, target(tmp_path, "honest"), None)
    found: list[Member] = []
    pieces = archive_file.contents(tmp_path / "honest", "backup", SECRET)
    about = archive.read(
        pieces, 1 << 30, lambda name, content: found.append(Member.of(name, change(name, b"".join(content))))
    )
    archive_file.create(tmp_path / "forged", "backup", SECRET, archive.written(found, about))
    return target(tmp_path, "forged")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("log/2026/tile/entries/000.p/9", "not sound|bundle"),
        ("log/2026/tile/0/000.p/9", "not sound"),
        ("log/2026/checkpoint", "signed|signature|verif|malformed|another"),
        ("log/blob/", "blob"),
        ("sequencer.db", "."),
    ],
)
def test_whoever_has_the_passphrase_cannot_make_another_log(home: Home, tmp_path: Path, part: str, words: str) -> None:
    def changed(name: str, data: bytes) -> bytes:
        return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:] if name.startswith(part) and len(data) > 8 else data

    if part == "sequencer.db":

        def changed(name: str, data: bytes) -> bytes:
            if name != part:
                return data
            (tmp_path / "seal").write_bytes(data)
            copy = sqlite3.connect(tmp_path / "seal", isolation_level=None)
            copy.execute("PRAGMA journal_mode=DELETE")
            copy.execute("UPDATE seal SET size = 5, checkpoint = x'00', base_checkpoint = x'00'")
            copy.close()
            return (tmp_path / "seal").read_bytes()

    forged = rewritten(home, tmp_path, changed)
    with pytest.raises(IntegrityError, match=words):
        restored(tmp_path / "again", forged)
    assert not (tmp_path / "again").exists()


def test_by_the_verbs(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(monkeypatch, capsys)
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "other").write_text(f"{OTHER}\n")
    one, two = tmp_path / "one", tmp_path / "two"
    secrets = ("--passphrase-file", tmp_path / "secret", "--keys-passphrase-file", tmp_path / "other")
    said = run("backup", one, "--keys", two, *secrets, "--home", home.path)
    assert said.code == 0, said.err
    assert hashlib.sha256(one.read_bytes()).hexdigest() in said.out
    assert "destroy it when somebody is erased" in said.out
    assert "conflict" in run("backup", one, *secrets, "--home", home.path, "--json").err
    assert (
        "log can be read and audited, and not go on" in run("backup", tmp_path / "3", *secrets, "--home", home.path).out
    )
    again = run("restore", one, "--keys", two, *secrets, "--home", tmp_path / "again")
    assert (again.code, "The home is there." in again.out) == (0, True), again.err
    later(home)
    refused = run("restore", one, *secrets, "--home", home.path, "--json")
    assert (refused.code, refused.value["error"]["code"]) == (1, "not_agreed")


def test_a_restore_that_was_cut_off_is_in_the_way_of_the_next(home: Home, tmp_path: Path) -> None:
    back_up(home, target(tmp_path), None)
    (tmp_path / "again" / ".restoring").mkdir(parents=True)
    with pytest.raises(Conflict, match="cut off: delete it"):
        restored(tmp_path / "again", target(tmp_path))


def test_what_operators_sign_is_what_a_restore_looks_for() -> None:
    act = Naming(lambda _: None)
    digest = "d" * 64
    assert hashlib.sha256(act.payload({"digest": digest}).encode()).hexdigest() == consents.named(digest)
    assert act.prepare({"digest": digest}).subject == digest


# Over a home that is there.


def agreed(home: Home, digest: str, number: int = 9, **changes: Any) -> None:
    """Others have agreed in the log to restoring this."""
    fields = {
        "action": "backup.restore",
        "payload": consents.named(digest),
        "expires": round(time.time() * 1000) + 60_000,
    }
    what = consents.proposed(number, **{**fields, **changes})
    steps = consents.steps(what)
    done = replace(steps[-1], fields={**steps[-1].fields, "subject": digest})
    append(home, *consents.keys(), *steps[:-1], done)


def later(home: Home) -> None:
    """What happens after a backup: the log goes on, and so does the rest."""
    append(home, Step("stopped", "replica.stopped/v1", STOPPED))
    home.settings.write_text("port = 9999\n")
    (home.policies / "new.cedar").write_text("// new\n")
    objects(home).delete(ALI, "file", "file-1")


def test_a_home_that_has_gone_on_is_set_back_by_consent_alone_and_once(home: Home, tmp_path: Path) -> None:
    backup = target(tmp_path)
    digest = back_up(home, backup, None)["digests"]["backup"]
    later(home)
    for wrong in (
        {},
        {"payload": consents.named("0" * 64)},
        {"action": "policy.change"},
        {"expires": round(time.time() * 1000) - 1},
    ):
        if wrong:
            agreed(home, digest, **wrong)
        with pytest.raises(PermissionDenied, match="nobody does that alone") as refused:
            restored(home.path, backup)
        assert digest in refused.value.message
    assert "9999" in home.settings.read_text()
    agreed(home, digest)
    published, private = LogFolder(home.log / "2026").published(), (home.keys / "log.key").read_bytes()
    _, found = restored(home.path, backup)
    assert found["standing"] == "behind"
    assert "8471" in home.settings.read_text()
    assert [path.name for path in home.policies.iterdir()] == ["own.cedar"]
    assert kept(home, ALI, "file-1") == b"of ali"
    # The log is not set back, and neither are keys and the control database.
    assert LogFolder(home.log / "2026").published() == published
    assert (home.keys / "log.key").read_bytes() == private
    append(home, Step("again", "replica.stopped/v1", {**STOPPED, "time": logs.T0 + 14_000}))
    with pytest.raises(PermissionDenied):  # each proposal is done once
        restored(home.path, backup)


def managed(home: Home) -> None:
    """Under a charter that asks for the approval of two others, in a new shard."""
    opening = {**STORY[0].fields, "origin": f"{NAME}/2027", **consents.PRODUCTION}
    open_sequencer(home, NAME, "2027").append([logs.encode(Step("charter", "charter/v1", opening), {})])


def test_where_others_have_to_agree_nobody_sets_back_what_people_keep_alone_behind_the_same_log(
    home: Home, tmp_path: Path
) -> None:
    managed(home)
    backup = target(tmp_path)
    digest = back_up(home, backup, None)["digests"]["backup"]
    objects(home).delete(ALI, "file", "file-1")
    with pytest.raises(PermissionDenied, match="the log here ends where the backup's does") as refused:
        restored(home.path, backup)
    assert (refused.value.code, digest in refused.value.message) == ("not_agreed", True)
    with pytest.raises(NotFound):
        kept(home, ALI, "file-1")
    again, found = restored(tmp_path / "again", backup)
    assert found["standing"] == "empty", "an empty home needs nobody's consent"
    assert checking.periods(again) == ["2026", "2027"]


def test_over_the_same_log_where_one_may_do_it_alone(home: Home, tmp_path: Path) -> None:
    backup = target(tmp_path)
    back_up(home, backup, None)
    objects(home).delete(ALI, "file", "file-1")
    assert restored(home.path, backup)[1]["standing"] == "ahead"
    assert kept(home, ALI, "file-1") == b"of ali"


def test_a_restore_that_was_cut_off_before_the_second_place_is_done_again(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also under a charter that asks for others: the log is the backup's already, and nothing could be proposed."""
    managed(home)
    older = tmp_path / "older"
    shutil.copytree(home.path, older, ignore=shutil.ignore_patterns("run"))
    managed(home)
    back_up(home, target(tmp_path), None)
    replace_ = Path.replace

    def cut_off(self: Path, other: Path) -> Path:
        if self.name == "sequencer.db":
            raise KeyboardInterrupt
        return replace_(self, other)

    monkeypatch.setattr(Path, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        restored(older, target(tmp_path))
    monkeypatch.setattr(Path, "replace", replace_)
    again, found = restored(older, target(tmp_path))
    assert found["standing"] == "ahead"
    assert open_sequencer(again, NAME, "2027").size == 2


def test_an_agreement_that_was_only_proposed_is_none(home: Home, tmp_path: Path) -> None:
    backup = target(tmp_path)
    digest = back_up(home, backup, None)["digests"]["backup"]
    what = consents.proposed(9, "backup.restore", consents.named(digest), expires=round(time.time() * 1000) + 60_000)
    append(home, *consents.keys(), *consents.steps(what)[:-1])
    with pytest.raises(PermissionDenied):
        restored(home.path, backup)


def test_glass_that_was_broken_for_it_is_consent_until_its_end(home: Home, tmp_path: Path) -> None:
    backup = target(tmp_path)
    digest = back_up(home, backup, None)["digests"]["backup"]
    (glass,) = (step for step in consents.broken() if step.name == "glass")
    fields = {**glass.fields, "action": "backup.restore", "payload": consents.named(digest)}
    act = {"time": logs.T0 + 46, "glass": logs.Ref("glass"), "subject": digest, "detail": {}}
    done = Step("done", "operator.action/v3", act)
    append(home, replace(glass, fields={**fields, "expires": round(time.time() * 1000) - 1}), done)
    with pytest.raises(PermissionDenied):
        restored(home.path, backup)
    append(home, replace(glass, fields={**fields, "expires": round(time.time() * 1000) + 60_000}), done)
    assert restored(home.path, backup)[1]["standing"] == "behind"


def test_whoever_was_erased_since_stays_erased(home: Home, tmp_path: Path) -> None:
    backup = target(tmp_path)
    digest = back_up(home, backup, None)["digests"]["backup"]
    assert objects(home).destroy("person", "ali") == (1, 1)
    agreed(home, digest)
    restored(home.path, backup)
    assert kept(home, BALA, "file-2") == b"of bala" * 30_000
    with pytest.raises(NotFound):
        kept(home, ALI, "file-1")
    (left,) = SqliteIndex(home.vault / "index.db").names()
    assert [path.name for path in (home.vault / "objects").iterdir()] == [left]


def test_newer_keys_do_not_open_what_was_erased_and_older_ones_are_not_taken(home: Home, tmp_path: Path) -> None:
    old = target(tmp_path, "old"), target(tmp_path, "old-keys", OTHER)
    back_up(home, *old)
    objects(home).destroy("person", "ali")
    append(home, Step("stopped", "replica.stopped/v1", STOPPED))
    new = target(tmp_path, "new"), target(tmp_path, "new-keys", OTHER)
    back_up(home, *new)
    for pair in ((old[0], new[1]), (new[0], old[1])):
        with pytest.raises(ConfigError, match="not made together"):
            restored(tmp_path / "again", *pair)
    again, _ = restored(tmp_path / "again", *new)
    with pytest.raises(NotFound):
        kept(again, ALI, "file-1")
    assert kept(again, BALA, "file-2")
    # The older objects, put under the newer keys by hand.
    bare, _ = restored(tmp_path / "bare", old[0])
    shutil.rmtree(again.vault / "objects")
    shutil.copytree(bare.vault / "objects", again.vault / "objects")
    (again.vault / "index.db").write_bytes((bare.vault / "index.db").read_bytes())
    with pytest.raises(NotFound, match="the key was destroyed"):
        kept(again, ALI, "file-1")
    assert kept(again, BALA, "file-2")


def test_a_home_that_was_set_back_is_brought_forward(home: Home, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(home.path, older, ignore=shutil.ignore_patterns("run"))
    append(home, Step("stopped", "replica.stopped/v1", STOPPED))
    back_up(home, target(tmp_path), None)
    again, found = restored(older, target(tmp_path))
    assert found["standing"] == "ahead"
    assert LogFolder(again.log / "2026").published() == LogFolder(home.log / "2026").published()
    assert sound(again)
    append(again, Step("again", "replica.stopped/v1", {**STOPPED, "time": logs.T0 + 14_000}))


def test_every_shard_is_in_it_and_a_new_one_is_going_on(home: Home, tmp_path: Path) -> None:
    older = target(tmp_path, "older")
    back_up(home, older, None)
    open_sequencer(home, NAME, "2027")
    both = target(tmp_path), target(tmp_path, "keys", OTHER)
    back_up(home, *both)
    again, found = restored(tmp_path / "again", *both)
    assert [(origin, size) for origin, size, _ in found["heads"]] == [(ORIGIN, 9), (f"{NAME}/2027", 0)]
    assert open_sequencer(again, NAME, "2027").size == 0
    with pytest.raises(PermissionDenied):
        restored(home.path, older)
    bare, _ = restored(tmp_path / "bare", older)
    assert restored(bare.path, both[0])[1]["standing"] == "ahead"
    assert checking.periods(bare) == ["2026", "2027"]


def test_an_audit_sees_who_agreed_and_who_did_not() -> None:
    what = consents.proposed(9, "backup.restore", consents.named("e" * 64))
    story = logs.after(consents.story(), "model-consent-done", *consents.steps(what))
    made = logs.write({"charter": consents.PRODUCTION}, story)
    assert audit(made, logs.VERIFIER, logs.terms()).holds
    alone = logs.write({"charter": consents.PRODUCTION, "it-done": {"approvals": [logs.Ref("it-two")]}}, story)
    (lie,) = [item.kind for item in audit(alone, logs.VERIFIER, logs.terms()).findings.kept if item.lie]
    assert lie == "approvals"


def test_two_histories_are_never_joined(home: Home, tmp_path: Path) -> None:
    fork = tmp_path / "fork"
    shutil.copytree(home.path, fork, ignore=shutil.ignore_patterns("run"))
    append(Home(fork), Step("one", "replica.stopped/v1", STOPPED))
    digest = back_up(Home(fork), target(tmp_path), None)["digests"]["backup"]
    append(home, Step("other", "replica.stopped/v1", {**STOPPED, "time": logs.T0 + 13_001}))
    agreed(home, digest)
    with pytest.raises(SplitView, match="two histories"):
        restored(home.path, target(tmp_path))


def test_neither_a_service_nor_somebodys_files_are_restored_over(home: Home, tmp_path: Path) -> None:
    back_up(home, target(tmp_path), target(tmp_path, "keys", OTHER))
    held = lock(home)
    try:
        with pytest.raises(Conflict, match="running already"):
            restored(home.path, target(tmp_path))
    finally:
        os.close(held)
    with pytest.raises(Conflict, match="into an empty home alone"):
        restored(home.path, target(tmp_path), target(tmp_path, "keys", OTHER))
    somebodys = tmp_path / "somebodys"
    somebodys.mkdir()
    (somebodys / "thesis.txt").write_text("mine")
    with pytest.raises(Conflict, match=r"not empty \(thesis.txt\)"):
        restored(somebodys, target(tmp_path))
    models = tmp_path / "again" / "models"
    models.mkdir(parents=True)
    (models / "weights").write_text("large")
    again, _ = restored(tmp_path / "again", target(tmp_path))
    assert (again.models / "weights").read_text() == "large"


def test_an_admission_that_was_open_is_ended_where_the_log_goes_on(home: Home, tmp_path: Path) -> None:
    """Journals are not in a backup: what they had open is said to be interrupted."""
    admission = json.loads(logs.write().entries[NAMES["started"] + 1])["admission"]
    db = sqlite3.connect(home.sequencer_db)
    db.execute(
        "INSERT INTO opened VALUES (?,?,?,?)",
        (NAMES["worker"], 1, json.dumps(admission, separators=(",", ":")).encode(), "[]"),
    )
    db.execute("INSERT INTO cursor VALUES (?,?,?,?)", (NAMES["worker"], 0, 100, 1))
    db.commit()
    db.close()
    back_up(home, target(tmp_path), target(tmp_path, "keys", OTHER))
    again, _ = restored(tmp_path / "again", target(tmp_path), target(tmp_path, "keys", OTHER))
    assert not JournalFolder(again.journal).workers()
    sequencer = open_sequencer(again, NAME, "2026")
    assert sequencer.tick() == 1
    report = audit(
        LogFiles(LogFolder(again.log / "2026"), again.log / "blob"),
        logs.VERIFIER,
        logs.terms(now=round(time.time() * 1000)),
    )
    assert report.holds, report.findings.kept
    assert (report.size, report.types["inference/v1"]) == (10, 1), (report.types, report.findings.kept)

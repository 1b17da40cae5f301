"""`daulat log`: looking at entries, keys, the index, the next shard."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.support import logs
from tests.support.logs import Published
from tests.support.verbs import PERIOD, Shell, publish

from daulat.adapters import request_index
from daulat.adapters.seal import SqliteSeal
from daulat.ledger.sequencer import Sealed
from daulat.processes.lock import lock
from daulat.tlog.note import Verifier


def test_the_last_entries_in_a_line_each(run: Shell) -> None:
    log = publish(run.home)
    said = run("log", "show", "--last", 3)
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines] == ["17", "18", "19"]
    assert f"{logs.request_id(6)} allow by use.permit, failed 502" in lines[1]
    everything = run("log", "show", "--last", 1000, "--json").value
    assert [item["index"] for item in everything] == list(range(len(log.entries)))
    assert everything[0]["type"] == "charter/v1"


def test_entries_of_one_type(run: Shell) -> None:
    log = publish(run.home)
    found = run("log", "show", "--type", "node.lease/v1", "--json").value
    assert [item["index"] for item in found] == [log.names["lease"], log.names["renewed"]]
    assert run("log", "show", "--type", "nothing/v1").out == "No such entries.\n"


def test_one_entry_whole(run: Shell) -> None:
    log = publish(run.home)
    index = log.names["answer"]
    assert run("log", "show", index, "--json").value == json.loads(log.entries[index])
    assert json.loads(run("log", "show", index).out) == json.loads(log.entries[index])
    assert "the log has entries 0 to 19" in run("log", "show", 20).err
    assert run("log", "show", 20).code == 1


def test_a_broken_checkpoint_is_not_shown_from(run: Shell) -> None:
    publish(run.home)
    path = run.home.log / PERIOD / "checkpoint"
    path.write_bytes(path.read_bytes().replace(b"\n20\n", b"\n19\n"))
    said = run("log", "show", "--json")
    assert (said.code, said.value["error"]["code"]) == (1, "verification_failed")


def test_the_public_key_of_every_shard(run: Shell) -> None:
    said = run("log", "key")
    assert (said.code, "daulat up" in said.err) == (1, True)
    publish(run.home)
    assert run("log", "key").out == f"{logs.SIGNER.vkey}\n"
    assert run("log", "key", "--json").value == {PERIOD: logs.SIGNER.vkey}


def test_the_index_can_be_made_anew(run: Shell) -> None:
    log = publish(run.home)
    request_index.drop(run.home.index_db)
    assert request_index.find(run.home.index_db, logs.request_id(2)) is None
    assert run("log", "reindex", "--json").value == {logs.ORIGIN: len(log.entries)}
    assert request_index.find(run.home.index_db, logs.request_id(2)) == (logs.ORIGIN, log.names["stream"])


@pytest.mark.parametrize("verb", [["reindex"], ["roll", "2027"]])
def test_what_needs_the_service_stopped_says_so(run: Shell, verb: list[str]) -> None:
    publish(run.home)
    held = lock(run.home)
    try:
        said = run("log", *verb, "--json")
    finally:
        os.close(held)
    assert (said.code, said.value["error"]["code"]) == (1, "conflict")
    assert "is running already" in said.value["error"]["message"]


@pytest.mark.parametrize("period", ["", "../x", "a b", PERIOD])
def test_a_period_is_a_name_of_its_own(run: Shell, period: str) -> None:
    publish(run.home)
    said = run("log", "roll", period)
    assert (said.code, "such as 2027" in said.err) == (1, True)


def test_a_new_key_is_made_once_and_used_where_it_is_asked_for(run: Shell) -> None:
    publish(run.home)
    run.home.charter.write_text(logs.charter_text())
    made = run("log", "new-key", "2027", "--json").value
    assert made["origin"] == f"{logs.NAME}/2027"
    assert Verifier(made["vkey"]).name == f"{logs.NAME}/2027"
    assert run("log", "new-key", "2027").out == f"{made['vkey']}\n"
    path = run.home.keys / "log-2027.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in made["vkey"]
    said = run("log", "roll", "2027", "--json")
    assert (said.code, said.value["error"]["code"]) == (1, "conflict")
    assert "say --new-key" in said.value["error"]["message"]
    assert "such as 2027" in run("log", "new-key", PERIOD).err


@pytest.mark.parametrize("verb", [["show"], ["roll", "2027"], ["new-key", "2027"], ["show", "--period", "1999"]])
def test_without_a_log_they_say_how_one_begins(run: Shell, verb: list[str]) -> None:
    said = run("log", *verb)
    assert (said.code, "`daulat up` begins it" in said.err) == (1, True)


def sealed(run: Shell, log: Published) -> None:
    """As the sequencer leaves it behind after some entries."""
    seal = SqliteSeal(run.home.sequencer_db, logs.ORIGIN)
    seal.advance(b"", Sealed(len(log.entries), log.signed, len(log.entries), log.signed, (), {}, {}))
    seal.close()


@pytest.mark.parametrize("lost", ["", "checkpoint", "vkey"])
def test_a_sealed_log_that_is_gone_from_its_folder_is_not_sound(run: Shell, lost: str) -> None:
    sealed(run, publish(run.home))
    assert json.loads(run("log", "fsck", "--without-models", "--json").out) == {"sound": True, "problems": []}
    folder = run.home.log / PERIOD
    shutil.rmtree(folder) if not lost else (folder / lost).unlink()
    said = run("log", "fsck", "--json")
    assert said.code == 1
    assert not said.value["sound"]
    (problem,) = [problem for problem in said.value["problems"] if "it is gone: sealed" in problem["what"]]
    assert (problem["log"], problem["serious"]) == (logs.ORIGIN, True)
    assert "BAD   ai.example/2026: it is gone" in run("log", "fsck").out
    assert run("log", "roll", PERIOD).code == 1, "and its name is no other's"


def test_a_log_that_was_sealed_and_not_yet_published_is_begun_by_the_next_start(run: Shell) -> None:
    log = logs.publish([])
    seal = SqliteSeal(run.home.sequencer_db, logs.ORIGIN)
    seal.advance(b"", Sealed(0, log.signed, 0, b"", (), {}, {}))
    seal.close()
    said = run("log", "fsck", "--json")
    assert said.code == 0
    assert [problem["serious"] for problem in said.value["problems"]] == [False]


def test_no_log_at_all_is_not_a_sound_one(run: Shell, tmp_path: Path) -> None:
    for home in (run.home.path, tmp_path / "nowhere"):
        for verb in (["fsck"], ["key"], ["show"]):
            said = run("log", *verb, "--home", home, "--json")
            assert (said.code, said.out) == (1, "")
            assert json.loads(said.err)["error"]["code"] == "not_found"
    assert not run.home.sequencer_db.exists(), "looking makes nothing"
    assert not (tmp_path / "nowhere").exists()

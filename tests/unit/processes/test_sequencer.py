"""The sequencer's process: alone at its log, the holder of its key; one shard after the other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.ledger import admission, answered, charter_entry, group_of, key_entry, request_id

from daulat.adapters import log_files, request_index, rpc
from daulat.adapters.journal_files import JournalFolder, WorkerSegments
from daulat.adapters.log_files import LogFolder
from daulat.core import entries
from daulat.errors import ConfigError, Conflict, SealBroken, Unavailable
from daulat.ledger import records
from daulat.ledger.reading import read_entries
from daulat.processes import log_keys
from daulat.processes import sequencer as process
from daulat.processes.sequencer import alone, open_sequencer
from daulat.settings import Home
from daulat.tlog.checkpoint import open_checkpoint
from daulat.tlog.note import Verifier


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.prepare()
    return made


def journal(home: Home, worker: int, *groups: list[tuple[int, int, bytes]]) -> WorkerSegments:
    segments = WorkerSegments(home.journal, worker, "test/1")
    for number, group in enumerate(groups):
        segments.commit(group_of(number, group))
    return segments


def shard(home: Home, period: str) -> list[dict[str, object]]:
    """Its entries, with the checkpoint verified by the shard's own public key."""
    folder = LogFolder(home.log / period)
    head = open_checkpoint(folder.published(), Verifier(folder.vkey()))
    assert head.origin == f"test/{period}"
    return [json.loads(entry) for entry in read_entries(folder, 0, head.size, head.size)]


class TestKey:
    """The log's private keys."""

    def test_it_is_made_once_and_has_another_name_in_each_shard(self, home: Home) -> None:
        first, again = log_keys.load(home, "test", ["1"]), log_keys.load(home, "test", ["1", "2"])
        assert (home.keys / "log.key").stat().st_mode & 0o777 == 0o600
        assert (first.name, again.name) == ("test/1", "test/2")
        assert Verifier(first.vkey).renamed("test/2").vkey == again.vkey
        assert log_keys.rotation(home, "test", ["1", "2"]) is None

    def test_one_that_others_may_read_is_not_used(self, home: Home) -> None:
        log_keys.load(home, "test", ["1"])
        (home.keys / "log.key").chmod(0o640)
        with pytest.raises(ConfigError, match="chmod 600"):
            log_keys.load(home, "test", ["1"])

    def test_what_is_no_key_is_not_repeated_in_words(self, home: Home) -> None:
        path = home.keys / "log.key"
        path.write_text("PRIVATE+KEY+secret+secret+secret\n")
        path.chmod(0o600)
        with pytest.raises(ConfigError) as caught:
            log_keys.load(home, "test", ["1"])
        assert "secret" not in str(caught.value)

    def test_a_period_may_begin_with_a_new_one_that_those_after_it_keep(self, home: Home) -> None:
        log_keys.load(home, "test", ["1"])
        path = log_keys.make(home, "test", "2")
        assert path.stat().st_mode & 0o777 == 0o600
        text = path.read_text()
        assert log_keys.make(home, "test", "2").read_text() == text  # repeated after a crash
        periods = ["1", "2", "3"]
        one, two, three = (log_keys.load(home, "test", periods[:count]) for count in (1, 2, 3))
        assert one.renamed("test/2").vkey != two.vkey
        assert two.renamed("test/3").vkey == three.vkey
        assert log_keys.rotation(home, "test", ["1"]) is None
        assert log_keys.rotation(home, "test", periods) is None
        rotation = log_keys.rotation(home, "test", ["1", "2"])
        assert rotation is not None
        assert rotation["old"] == one.renamed("test/2").vkey


class TestAlone:
    """One process writes a log."""

    def test_a_second_one_waits_for_the_first_to_end_and_then_gives_up(self, home: Home) -> None:
        with alone(home), pytest.raises(Conflict, match="another sequencer"), alone(home, seconds=0.05):
            pass
        with alone(home, seconds=0.05):
            pass

    def test_a_killed_one_holds_nothing(self, home: Home) -> None:
        program = (
            "import sys,signal; from pathlib import Path; from daulat.settings import Home;"
            "from daulat.processes.sequencer import alone\n"
            "with alone(Home(Path(sys.argv[1]))): print('held', flush=True); signal.pause()"
        )
        with subprocess.Popen([sys.executable, "-c", program, str(home.path)], stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(Conflict), alone(home, seconds=0.05):
                pass
            other.kill()
            other.wait(20)
            with alone(home, seconds=5):
                pass


class TestShards:
    """A log is closed, and the next one begins."""

    def test_the_next_shard_begins_when_the_one_before_has_taken_in_all_that_was_left_for_it(self, home: Home) -> None:
        first = open_sequencer(home, "test", "1")
        first.append([charter_entry()])
        journal(home, 4, list(answered(1, 1)), [(records.ADMISSION, 2, admission(2))]).close()
        second = open_sequencer(home, "test", "2")
        assert log_files.current_period(home.log) == "2"
        assert (
            second.size,
            open_checkpoint(LogFolder(home.log / "2").published(), Verifier(home.vkey.read_text())).size,
        ) == (0, 0)
        kinds = [entry["type"] for entry in shard(home, "1")]
        assert kinds == ["charter/v1", entries.INFERENCE, entries.INFERENCE]
        assert JournalFolder(home.journal).workers() == []
        final = LogFolder(home.log / "1").published()
        second.append([charter_entry(1, "test/2"), key_entry(0)])
        assert LogFolder(home.log / "1").published() == final
        assert len(shard(home, "2")) == 2
        found = request_index.find(home.index_db, request_id(1))
        assert found == ("test/1", 1)  # receipts of a closed shard are still found

    def test_a_closed_shard_stays_closed(self, home: Home) -> None:
        open_sequencer(home, "test", "1").append([charter_entry()])
        open_sequencer(home, "test", "2").append([charter_entry(1)])
        with pytest.raises(ConfigError, match="test/1 is closed; the log in force is test/2"):
            open_sequencer(home, "test", "1")
        assert open_sequencer(home, "test", "2").size == 1

    def test_nothing_goes_on_from_a_shard_that_has_not_begun(self, home: Home) -> None:
        open_sequencer(home, "test", "1")
        with pytest.raises(Conflict, match="test/1 has no entry yet"):
            open_sequencer(home, "test", "2")
        assert open_sequencer(home, "test", "1").append([charter_entry()]) == [0]

    def test_a_living_worker_keeps_its_shard_open(self, home: Home) -> None:
        open_sequencer(home, "test", "1")
        living = journal(home, 4, list(answered(1, 1)))
        with pytest.raises(ConfigError, match="still alive"):
            open_sequencer(home, "test", "2")
        living.close()
        assert open_sequencer(home, "test", "2").size == 0
        assert len(shard(home, "1")) == 1

    def test_a_crash_between_closing_and_beginning_is_taken_up_again(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        open_sequencer(home, "test", "1").append([charter_entry()])
        with monkeypatch.context() as patched:
            patched.setattr(process.Sequencer, "_begin", lambda _self: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                open_sequencer(home, "test", "2")
        assert open_sequencer(home, "test", "2").append([charter_entry(1)]) == [0]
        assert len(shard(home, "1")) == 1

    def test_a_shard_of_another_key_is_not_continued(self, home: Home) -> None:
        open_sequencer(home, "test", "1").append([charter_entry()])
        (home.keys / "log.key").unlink()
        with pytest.raises(Exception, match="no signature of a known key"):
            open_sequencer(home, "test", "1")


class Running:
    """The real process of a home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        command = [sys.executable, "-m", "daulat.processes.sequencer", "--home", str(home.path)]
        command += ["--name", "test", "--period", "1"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ready(self) -> bool:
        assert self.process.stdout is not None
        return self.process.stdout.readline() == "ready\n"

    def call(self, method: str, **params: object) -> dict[str, object]:
        return dict(rpc.call(self.home.sequencer_socket, method, **params))

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """The exit code, and what it said."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


@pytest.fixture
def running(home: Home) -> Iterator[Running]:
    made = Running(home)
    yield made
    made.end(signal.SIGKILL)


class TestProcess:
    """Behind its socket."""

    def test_it_lets_workers_on_its_core_go_first(self, running: Running) -> None:
        assert running.ready()
        assert os.sched_getscheduler(running.process.pid) == os.SCHED_BATCH

    def test_it_appends_flushes_and_takes_in_the_last_when_told_to_end(self, running: Running, home: Home) -> None:
        assert running.ready()
        entry = charter_entry().decode()
        assert running.call("append", entries=[entry, key_entry(0).decode()]) == {"indices": [0, 1]}
        with pytest.raises(Exception, match="points at 9"):
            running.call("append", entries=[key_entry(9).decode()])
        segments = journal(home, 1, list(answered(1, 1)))
        running.call("flush")
        status = running.call("status")
        assert (status["origin"], status["size"]) == ("test/1", 3)
        assert str(status["checkpoint"]).encode() == LogFolder(home.log / "1").published()
        segments.commit(group_of(1, list(answered(2, 2))))
        assert running.end() == (0, "")
        assert len(shard(home, "1")) == 4
        segments.close()

    def test_it_integrates_by_itself_within_a_second_or_so(self, running: Running, home: Home) -> None:
        assert running.ready()
        segments = journal(home, 1, list(answered(1, 1)))
        asyncio.run(asyncio.wait_for(self._grown(home), 30))
        segments.close()

    @staticmethod
    async def _grown(home: Home) -> None:
        while request_index.find(home.index_db, request_id(1)) is None:  # noqa: ASYNC110  a file tells of nothing
            await asyncio.sleep(0.05)

    def test_a_journal_that_was_changed_stops_it_before_it_is_ready(self, home: Home) -> None:
        segments = journal(home, 1, *(list(answered(number, number)) for number in range(1, 4)))
        segments.close()
        path = home.journal / "w1-000000"
        data = bytearray(path.read_bytes())
        data[150] ^= 1
        path.write_bytes(data)
        changed = Running(home)
        assert not changed.ready()
        code, said = changed.end()
        assert code == 1
        assert "the file was changed" in said

    def test_a_journal_changed_under_it_ends_it(self, running: Running, home: Home) -> None:
        assert running.ready()
        journal(home, 1, [(records.COMPLETION, 7, b"{}")]).close()
        code, said = running.process.wait(60), running.end()[1]
        assert code == 1
        assert "not admitted" in said
        with pytest.raises(Unavailable):
            running.call("status")

    def test_a_second_process_does_not_write(self, running: Running, home: Home) -> None:
        assert running.ready()
        os.kill(running.process.pid, signal.SIGSTOP)  # it hangs, and holds its log
        try:
            with pytest.raises(Conflict), alone(home, seconds=0.2):
                pass
        finally:
            os.kill(running.process.pid, signal.SIGCONT)


def test_two_sequencers_that_both_believe_themselves_alone_cannot_fork_the_log(home: Home) -> None:
    """The lock is one belt; the compare-and-swap of the second place is the other."""
    one, other = open_sequencer(home, "test", "1"), open_sequencer(home, "test", "1")
    assert one.append([charter_entry()]) == [0]
    with pytest.raises(SealBroken, match="another one is running"):
        other.append([charter_entry(1)])
    assert [entry["time"] for entry in shard(home, "1")] == [json.loads(charter_entry())["time"]]

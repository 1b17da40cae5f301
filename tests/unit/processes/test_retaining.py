"""Retention between the vault and the control plane: what goes is counted, wherever the two are cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.vaults import MemoryKeys, MemoryPlace, MemoryRoot
from tests.support.worlds import StillClock

from daulat.adapters import rpc
from daulat.adapters.vault_index import SqliteIndex
from daulat.core.retention import Rule
from daulat.errors import Unavailable
from daulat.processes import retaining
from daulat.processes.retaining import Sweeper
from daulat.vault.keyring import Keyring
from daulat.vault.objects import Objects, Whose
from daulat.vault.ports import Kind

DAY = 86_400
ALI, BALA = Whose("agency", "ali"), Whose("other", "bala")


class Site:
    """A vault whose index is on the disk, and a control process that may fail behind a given entry."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.place = folder, StillClock(), MemoryPlace()
        self.ring = Keyring(MemoryRoot(), MemoryKeys(), self.clock)
        self.rules = {"agency": Rule(files=30), "other": Rule()}
        self.entries: list[dict[str, Any]] = []
        self.fails_before, self.fails_behind = 0, 0
        self.start()

    def start(self) -> None:
        """As a process begins: nothing but the disk is left of what was before."""
        if hasattr(self, "index"):
            self.index.close()
        self.index = SqliteIndex(self.folder / "index.db")
        self.objects = Objects(self.ring, self.index, self.place, self.clock, lambda: None, 1 << 20)
        self.sweeper = Sweeper(lambda: self.objects, rpc.Client(self.folder / "control"))

    def put(self, whose: Whose, kind: Kind, *ids: str) -> None:
        for id_ in ids:
            self.objects.put(whose, kind, id_, [b"content"], lambda: {"name": "n"})

    def ids(self, whose: Whose, kind: Kind) -> list[str]:
        return [kept.id for kept in self.objects.list(whose, kind, limit=1000, newest_first=False).kept]

    async def _rules(self) -> list[dict[str, Any]]:
        return [{"tenant": tenant, "name": tenant, **rule.as_dict()} for tenant, rule in self.rules.items()]

    async def _deleted(self, **said: Any) -> None:
        if self.fails_before:
            self.fails_before -= 1
            raise Unavailable("the log cannot be written")
        noted = self.index.retired()
        assert noted is not None
        assert not {name for _, name in noted.objects} & set(self.place.objects), "gone before that is said"
        self.entries.append(said)
        if self.fails_behind:
            self.fails_behind -= 1
            raise Unavailable("the answer was lost")

    def run(self, what: Callable[[], Coroutine[Any, Any, Any]] | None = None) -> None:
        async def served() -> None:
            handlers: dict[str, rpc.Handler] = {"retention.rules": self._rules, "retention.deleted": self._deleted}
            server = await rpc.serve(self.folder / "control", handlers)
            try:
                await (what or self.sweeper.sweep)()
            finally:
                server.close()
                await self.sweeper._control.close()

        asyncio.run(served())

    def counts(self) -> dict[str, int]:
        """By batch, so that one that stands twice counts once."""
        batches = {said["batch"]: said["deleted"] for said in self.entries}
        return {name: sum(each[name] for each in batches.values()) for name in ("files", "completions")}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.index.close()


def test_what_is_over_goes_and_is_counted_and_nothing_else_does(site: Site) -> None:
    site.put(ALI, "file", "old-1", "old-2")
    site.put(ALI, "completion", "kept")
    site.put(BALA, "file", "other")
    site.clock.pass_seconds(29 * DAY)
    site.put(ALI, "file", "new")
    site.run()
    assert site.entries == []
    site.clock.pass_seconds(1 * DAY)
    site.run()
    assert site.ids(ALI, "file") == ["new"]
    assert site.ids(ALI, "completion") == ["kept"]
    assert site.ids(BALA, "file") == ["other"]
    assert len(site.place.objects) == 3
    (said,) = site.entries
    assert said["tenant"] == "agency"
    assert said["rule"] == {"files": 30, "completions": None}
    assert said["deleted"] == {"files": 2, "completions": 0}
    site.run()
    assert len(site.entries) == 1


def test_a_shorter_rule_reaches_what_is_there_and_a_longer_one_spares_it(site: Site) -> None:
    site.put(ALI, "file", "a")
    site.put(ALI, "completion", "b")
    site.clock.pass_seconds(10 * DAY)
    site.rules["agency"] = Rule(files=100, completions=5)
    site.run()
    assert (site.ids(ALI, "file"), site.ids(ALI, "completion")) == (["a"], [])
    site.rules["agency"] = Rule(files=10)
    site.run()
    assert site.ids(ALI, "file") == []
    assert site.counts() == {"files": 1, "completions": 1}


def test_many_go_in_batches(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daulat.vault.objects._BATCH", 3)
    site.put(ALI, "file", *(f"f-{number}" for number in range(8)))
    site.clock.pass_seconds(31 * DAY)
    site.run()
    assert [said["deleted"]["files"] for said in site.entries] == [3, 3, 2]
    assert site.place.objects == {}


def test_without_the_rules_nothing_is_deleted(site: Site) -> None:
    site.put(ALI, "file", "a")
    site.clock.pass_seconds(31 * DAY)
    with pytest.raises(Unavailable):
        asyncio.run(site.sweeper.sweep())
    assert site.ids(ALI, "file") == ["a"]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("cut", ["retired", "disposed", "before", "behind"])
def test_a_crash_loses_neither_the_deletion_nor_the_count(site: Site, cut: str, restart: bool) -> None:
    site.put(ALI, "file", "a", "b")
    site.clock.pass_seconds(31 * DAY)
    if cut in {"before", "behind"}:
        setattr(site, f"fails_{cut}", 1)
        with pytest.raises(Unavailable):
            site.run()
    else:
        assert site.objects.retire("agency", Rule(files=30))
        batch = site.objects.retired()
        assert batch is not None
        if cut == "disposed":
            site.objects.dispose(batch)
    assert site.ids(ALI, "file") == [], "whatever is left to do, nobody finds it any more"
    if restart:
        site.start()
        site.objects.tidy()
    site.run()
    assert site.counts() == {"files": 2, "completions": 0}
    assert len(site.entries) == (2 if cut == "behind" else 1)
    assert len({said["batch"] for said in site.entries}) == 1
    assert site.place.objects == {}
    assert site.objects.retired() is None


def test_bytes_that_cannot_be_deleted_yet_are_not_said_to_be_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_name: str) -> None:
        raise Unavailable("the bucket is away")

    site.put(ALI, "file", "a")
    site.clock.pass_seconds(31 * DAY)
    with monkeypatch.context() as patch:
        patch.setattr(site.place, "delete", away)
        with pytest.raises(Unavailable, match="bucket is away"):
            site.run()
    assert site.entries == []
    assert len(site.place.objects) == 1
    site.run()
    assert site.place.objects == {}
    assert site.counts() == {"files": 1, "completions": 0}


def test_it_looks_at_once_when_a_rule_has_changed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retaining, "SWEEP_SECONDS", 600.0)
    site.put(ALI, "file", "a")
    site.clock.pass_seconds(5 * DAY)

    async def changed() -> None:
        watching = asyncio.create_task(site.sweeper.watch())
        await asyncio.sleep(0.1)
        assert site.entries == []
        site.rules["agency"] = Rule(files=5)
        await site.sweeper.wake()
        async with asyncio.timeout(60):
            while not site.entries:  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0.02)
        watching.cancel()

    site.run(changed)
    assert site.counts() == {"files": 1, "completions": 0}

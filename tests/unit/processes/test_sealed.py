"""The model of a replica, held to what was admitted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support import gguf_files, virtual_time
from tests.support.model_folders import contents, write
from tests.unit.processes.test_supervisor import CANARY_SECONDS, WANTED, Heard, Machine

from daulat.adapters import model_import
from daulat.adapters.models import ModelStore
from daulat.adapters.reports import Reports
from daulat.errors import EngineDead, SealBroken
from daulat.processes.sealed import Sealed
from daulat.processes.supervisor import Supervisor
from daulat.registry.model import ModelFacts


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def facts(store: ModelStore, tmp_path: Path) -> ModelFacts:
    return model_import.add(store, write(tmp_path / "m", contents()))


def admitted(facts: ModelFacts) -> dict[str, str]:
    return {template.name: template.sha256 for template in facts.templates}


def spoil(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")


def test_a_model_as_it_was_admitted_may_start(store: ModelStore, facts: ModelFacts) -> None:
    asyncio.run(Sealed(store, facts.digest, admitted(facts)).before_start())


def test_a_template_that_differs_from_the_admitted_one_keeps_it_from_starting(
    store: ModelStore, facts: ModelFacts
) -> None:
    for templates in ({"default": "0" * 64}, {}, {**admitted(facts), "tool_use": "0" * 64}):
        with pytest.raises(EngineDead, match=r"the model changed: chat template '(default|tool_use)' is"):
            asyncio.run(Sealed(store, facts.digest, templates).before_start())


def test_a_template_changed_in_the_file_keeps_it_from_starting(store: ModelStore, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_files.make(gguf_files.KEYS))
    facts = model_import.add(store, path)
    stored = store.path(facts.digest)
    stored.chmod(0o600)
    stored.write_bytes(stored.read_bytes().replace(b"{{ messages }}", b"{{ messagez }}"))
    with pytest.raises(EngineDead, match="chat template 'default'"):
        asyncio.run(Sealed(store, facts.digest, admitted(facts)).before_start())


def test_a_file_changed_between_two_starts_keeps_it_from_starting_again(store: ModelStore, facts: ModelFacts) -> None:
    async def go() -> None:
        sealed = Sealed(store, facts.digest, admitted(facts))
        await sealed.before_start()
        spoil(store.path(facts.digest) / "model-00002-of-00002.safetensors")
        with pytest.raises(EngineDead, match="its files are not those"):
            await sealed.before_start()

    asyncio.run(go())


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "tokenizer_config.json"])
def test_a_file_changed_while_it_runs_is_found_and_no_path_is_told(
    store: ModelStore, facts: ModelFacts, name: str
) -> None:
    async def go() -> str:
        watching = asyncio.create_task(Sealed(store, facts.digest, admitted(facts), 0.001).broken())
        await asyncio.sleep(0)
        assert not watching.done()
        spoil(store.path(facts.digest) / name)
        return await asyncio.wait_for(watching, 20)

    said = asyncio.run(go())
    assert said.startswith("the model changed: ")
    assert "/" not in said


class Slow:
    """A store whose check takes as long as nobody ends it."""

    def __init__(self, facts: ModelFacts) -> None:
        self._facts = facts
        self.began, self.ended = threading.Event(), threading.Event()

    def facts(self, digest: str) -> ModelFacts:
        return self._facts

    def check(self, digest: str, *, pause: Callable[[], None] | None = None) -> None:
        assert pause is not None
        self.began.set()
        try:
            while True:
                pause()
        except SealBroken:
            self.ended.set()
            raise


def test_a_check_ends_with_its_replica(facts: ModelFacts) -> None:
    async def go() -> None:
        store = Slow(facts)
        watching = asyncio.create_task(Sealed(store, facts.digest, {}, 0.001).broken())
        await asyncio.to_thread(store.began.wait, 20)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        assert await asyncio.to_thread(store.ended.wait, 20)

    asyncio.run(go())


class Given:
    """A model whose change is decided by the test."""

    def __init__(self) -> None:
        self.reason = asyncio.Event()
        self.starts = 0

    async def before_start(self) -> None:
        self.starts += 1
        if self.reason.is_set():
            raise EngineDead("the model changed: its files are not those that were admitted")

    async def broken(self) -> str:
        await self.reason.wait()
        return "the model changed: its files are not those that were admitted"


def test_a_changed_model_stops_the_replica_and_it_does_not_come_back() -> None:
    heard = Heard()

    async def go() -> None:
        machine, model = Machine(), Given()
        supervisor = Supervisor(WANTED, cast("Reports", heard), machine, CANARY_SECONDS, 600.0, cast("Any", model))
        supervising = asyncio.create_task(supervisor.run())
        await heard.until("ready")
        model.reason.set()
        await heard.until("stopped", 3)
        supervisor.stop()
        await supervising
        assert len(machine.starts) == 1, "no engine was given the changed model"
        assert model.starts >= 3

    virtual_time.run(go())
    assert heard.first("stopped")["reason"] == "the model changed: its files are not those that were admitted"

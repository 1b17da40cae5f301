"""The reconciler's loop: supervisors are started, drained and ended as wished; the engines here are a test's words."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.fleet import Fleet
from tests.support.installation import FACTS

from daulat.core.deployment import Spec
from daulat.core.snapshot import ModelRow
from daulat.errors import Conflict, InvalidRequest, NotFound
from daulat.fleet import reconcile
from daulat.pipeline.deploy import Deployment
from daulat.processes import replicas as module
from daulat.processes import starting
from daulat.processes.plan import supervisor
from daulat.processes.roster import Prepared
from daulat.settings import Home, Settings


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(reconcile, "STEADY_SECONDS", 0.02)


def run(tmp_path: Path, use: Callable[[Fleet], Awaitable[None]]) -> None:
    async def limited() -> None:
        fleet = Fleet(tmp_path / "home")
        fleet.replicas.start()
        try:
            async with asyncio.timeout(60):
                await use(fleet)
        finally:
            await fleet.replicas.stop()
            fleet.database.close()
        assert all(child.stopped for child in fleet.children.values()), "nothing is left running"

    asyncio.run(limited())


def test_a_deployment_comes_to_run_and_says_so(tmp_path: Path) -> None:
    async def use(fleet: Fleet) -> None:
        await fleet.deploy(replicas=2)
        assert fleet.replicas.roster.reasons() == ["the engine is starting"]
        await fleet.until(lambda: fleet.phases() == ["starting", "starting"])
        await fleet.up()
        await fleet.until(lambda: fleet.wishes.find("m").good == 1)
        (row,) = fleet.replicas.roster.deployment_rows()
        assert [said["reason"] for said in row["status"]["conditions"]] == ["MinimumReplicasAvailable", "Complete"]
        assert [held["threads"] for held in fleet.rows()] == [3, 3]
        assert fleet.replicas.roster.reasons() == []
        assert fleet.acts == ["deployment.apply"]

    run(tmp_path, use)


def test_a_rollout_waits_for_the_workers_before_it_ends_an_old_replica(tmp_path: Path) -> None:
    async def use(fleet: Fleet) -> None:
        await fleet.serving()
        (old,) = fleet.children
        await fleet.deploy("b" * 64)
        await fleet.until(lambda: fleet.phases() == ["ready", "starting"])
        assert [row.index for row in fleet.replicas.roster.models()] == [10, 11], "both, the newer one last"
        await fleet.up()
        await fleet.until(lambda: fleet.phases() == ["draining", "ready"])
        fleet.workers_say(fleet.snapshot, **{old: 2})
        await asyncio.sleep(0.1)
        assert fleet.phases() == ["draining", "ready"], "two answers are running"
        fleet.workers_say(fleet.snapshot - 1)
        await asyncio.sleep(0.1)
        assert fleet.phases() == ["draining", "ready"], "a worker does not know of it yet"
        fleet.workers_say(fleet.snapshot)
        await fleet.until(lambda: fleet.phases() == ["ready"])
        assert fleet.children[old].stopped
        assert [row.index for row in fleet.replicas.roster.models()] == [11]

    run(tmp_path, use)


def test_a_bad_rollout_is_given_up_and_the_reason_is_kept(tmp_path: Path) -> None:
    async def use(fleet: Fleet) -> None:
        await fleet.serving()
        (old,) = fleet.children
        await fleet.deploy("b" * 64)
        await fleet.until(lambda: len(fleet.children) == 2)
        bad = next(id_ for id_ in fleet.children if id_ != old)
        for _ in range(3):
            await fleet.site.stopped(bad, "wrong answers: empty")
        await fleet.until(lambda: fleet.phases() == ["ready"])
        assert list(fleet.site.answering()) == [old]
        (row,) = fleet.replicas.roster.deployment_rows()
        said = row["status"]["conditions"][1]
        assert said["reason"] == "RolledBack"
        assert "its engine ended 3 times: wrong answers: empty" in said["message"]

    run(tmp_path, use)


def test_what_is_not_admitted_is_never_started(tmp_path: Path) -> None:
    async def use(fleet: Fleet) -> None:
        await fleet.serving()
        fleet.refuses = True
        await fleet.deploy("b" * 64)
        await fleet.until(lambda: fleet.wishes.find("m").failed)
        assert len(fleet.children) == 1
        assert "refused by models.licence" in fleet.wishes.find("m").failed
        fleet.refuses = False
        await fleet.deploy("b" * 64)
        await fleet.until(lambda: len(fleet.children) == 2)

    run(tmp_path, use)


def test_a_second_deployment_makes_the_first_ones_engines_smaller_one_by_one(tmp_path: Path) -> None:
    async def use(fleet: Fleet) -> None:
        await fleet.serving()
        assert fleet.rows()[0]["threads"] == 6
        await fleet.wish("c" * 64, "other", {})
        await fleet.until(lambda: fleet.phases() == ["ready", "starting"])
        assert fleet.rows()[1]["threads"] == 3
        await fleet.up()
        await fleet.until(lambda: fleet.phases() == ["draining", "ready"])
        fleet.workers_say(fleet.snapshot)
        await fleet.until(lambda: [row["threads"] for row in fleet.replicas.roster.replica_rows()] == [3, 3])

    run(tmp_path, use)


def test_a_replica_whose_supervisor_dies_is_left_at_once(tmp_path: Path) -> None:
    async def use(fleet: Fleet) -> None:
        await fleet.serving()
        (id_,) = fleet.children
        before = fleet.snapshot
        fleet.ends[id_]()
        await fleet.until(lambda: fleet.phases() == ["broken"])
        assert fleet.site.answering() == []
        assert fleet.snapshot > before
        why = fleet.replicas.roster.reasons()
        assert why == ["the engine stopped (its supervisor ended) and is being started again"]

    run(tmp_path, use)


def test_draining_one_replica_replaces_it(tmp_path: Path) -> None:
    async def use(fleet: Fleet) -> None:
        await fleet.serving()
        (old,) = fleet.children
        assert await fleet.deploying.drain(old[:6]) == {"id": old, "deployment": "m", "draining": True}
        with pytest.raises(Conflict):
            await fleet.deploying.drain(old)
        with pytest.raises(NotFound):
            await fleet.deploying.drain("nonsense")
        await fleet.until(lambda: fleet.phases() == ["ready", "starting"])
        await fleet.up()
        await fleet.until(lambda: fleet.phases() == ["draining", "ready"])
        fleet.workers_say(fleet.snapshot)
        await fleet.until(lambda: fleet.phases() == ["ready"])
        assert fleet.acts == ["deployment.apply", "replica.drain"]

    run(tmp_path, use)


def test_stopping_a_deployment_drains_and_ends_its_replicas(tmp_path: Path) -> None:
    async def use(fleet: Fleet) -> None:
        await fleet.serving(replicas=2)
        await fleet.deploying.stop("m")
        await fleet.until(lambda: fleet.phases() == ["draining", "draining"])
        fleet.workers_say(fleet.snapshot)
        await fleet.until(lambda: fleet.phases() == [])
        assert fleet.replicas.roster.deployment_rows() == []

    run(tmp_path, use)


def test_what_does_not_fit_is_blocked_with_the_figures(tmp_path: Path) -> None:
    async def use(fleet: Fleet) -> None:
        await fleet.deploy(replicas=64)
        await fleet.until(lambda: "64 replicas need 8256 MiB" in " ".join(fleet.replicas.roster.reasons()))
        assert fleet.children == {}
        await fleet.deploy(replicas=2)
        await fleet.until(lambda: len(fleet.rows()) == 2)

    run(tmp_path, use)


def test_a_model_or_a_field_that_is_not_there_is_refused_with_words(tmp_path: Path) -> None:
    async def use(fleet: Fleet) -> None:
        with pytest.raises(NotFound):
            await fleet.wish("nowhere", "", {})
        with pytest.raises(InvalidRequest, match="has the fields model, engine"):
            await fleet.deploy(replica=3)
        with pytest.raises(InvalidRequest, match="npu:0 is not here"):
            await fleet.deploy(devices=["npu:0"])

    run(tmp_path, use)


def test_the_log_of_a_replica_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    async def use(fleet: Fleet) -> None:
        (fleet.home.path / "replicas" / "abc123.log").write_text("one\ntwo\nthree\n")
        assert await fleet.deploying.logs("abc", 2) == ["two", "three"]
        for wrong in ("abd", "../../etc/passwd", "*"):
            with pytest.raises(NotFound):
                await fleet.deploying.logs(wrong, 2)

    run(tmp_path, use)


def test_a_supervisor_is_told_engine_share_and_options(tmp_path: Path) -> None:
    wish = Deployment("d", "m", Spec("a" * 64, options={"kv_cache_gib": 2}, context=512), 1, 1, None, None, "", 0)
    share = module.Share(3, 900)
    told = supervisor(Home(tmp_path), wish, Prepared(FACTS, Path("/x"), ModelRow("m", 1, "{}", 0, False, 1)), share)
    assert (told["--engine"], told["--threads"], told["--memory-mib"]) == ("llama.cpp", 3, 900)
    assert json.loads(told["--engine-options"]) == {"kv_cache_gib": 2}
    assert (told["--model-name"], told["--context"]) == ("m", 512)
    wish = replace(wish, spec=replace(wish.spec, engine="vllm", options={"arguments": ["--seed", "1"]}))
    of = replace(FACTS, name="ours", origin="deepseek-ai/DeepSeek-V3.1")
    told = supervisor(Home(tmp_path), wish, Prepared(of, Path("/x"), ModelRow("m", 1, "{}", 0, False, 1)), share)
    arguments = json.loads(told["--engine-options"])["arguments"]
    assert arguments[arguments.index("--tool-call-parser") + 1] == "deepseek_v31"
    assert arguments[-2:] == ["--seed", "1"], "what the operator says comes last, so it wins"


def test_up_makes_a_deployment_of_its_own_and_another_model_takes_its_place(tmp_path: Path) -> None:
    async def use(fleet: Fleet) -> None:
        def settings(**changes: Any) -> Settings:
            return replace(Settings(), **changes)

        async def ensure(name: str, digest: str, **changes: Any) -> Deployment:
            facts = replace(FACTS, name=name, digest=digest)
            return await starting.ensure(fleet.wishes, fleet.database, name, facts, settings(**changes))

        made = await ensure("first", "a" * 64)
        assert (made.spec.slots, made.generation) == (4, 1)
        assert await ensure("first", "a" * 64) == made
        await fleet.wishes.apply("first", replace(made.spec, slots=9, context=640, replicas=2))
        assert (await ensure("first", "a" * 64)).spec.slots == 9, "what an operator wished for stays"
        changed = await ensure("first", "a" * 64, slots=2)
        assert (changed.spec.slots, changed.spec.replicas) == (2, 2), "a setting that is new is meant"
        assert changed.spec.context == 640, "and no other"
        await fleet.wishes.apply("own", Spec("c" * 64))
        await ensure("second", "b" * 64, model="second")
        assert [one.name for one in fleet.wishes.all()] == ["own", "second"]
        fleet.database.close()
        assert starting.wished(fleet.home, Settings()) == ("second", "b" * 64)

    asyncio.run(_alone(tmp_path, use))


async def _alone(tmp_path: Path, use: Callable[[Fleet], Awaitable[None]]) -> None:
    """Without the loop: only wishes are looked at."""
    fleet = Fleet(tmp_path / "home")
    assert starting.wished(Home(tmp_path / "elsewhere"), Settings()) is None
    await use(fleet)
    fleet.database.close()


def test_what_is_stopped_gets_nothing_new_from_that_moment_and_as_long_as_it_said(tmp_path: Path) -> None:
    async def use(fleet: Fleet) -> None:
        await fleet.serving(replicas=2, drain_seconds=7)
        before, began = fleet.snapshot, time.monotonic()
        await fleet.deploying.stop("m")
        assert [row.draining for row in fleet.site.node.rows()] == [True, True], "before it is acknowledged"
        assert fleet.snapshot > before
        assert list(fleet.replicas.roster.models()) == []
        untils = [held.drain_until or 0.0 for held in fleet.replicas.roster.held.values()]
        assert all(began + 7 <= until <= time.monotonic() + 7 for until in untils), "its own --drain-seconds"

    run(tmp_path, use)


def test_a_deployment_that_fills_its_devices_is_recreated_and_comes_back_if_the_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "TRIES", 1)

    async def use(fleet: Fleet) -> None:
        wish = await fleet.wishes.apply("m", Spec("a" * 64, devices=("npu:0",)))
        await fleet.until(lambda: fleet.phases() == ["starting"])
        await fleet.up()
        await fleet.until(lambda: fleet.wishes.find("m").good == 1)
        (old,) = fleet.children
        await fleet.wishes.apply("m", replace(wish.spec, slots=2))
        await fleet.until(lambda: fleet.wishes.find("m").failed)
        assert "--strategy recreate" in fleet.wishes.find("m").failed
        await fleet.wishes.apply("m", replace(wish.spec, slots=2, strategy="recreate"))
        await fleet.until(lambda: fleet.phases() == ["draining"])
        (row,) = fleet.replicas.roster.deployment_rows()
        assert "the old ones end first" in row["status"]["conditions"][1]["message"]
        assert fleet.replicas.roster.reasons() == ["the engine is starting"]
        fleet.workers_say(fleet.snapshot)
        await fleet.until(lambda: fleet.phases() == ["starting"])
        (new,) = set(fleet.children) - {old}
        await fleet.site.stopped(new, "out of memory on npu:0")
        await fleet.until(lambda: fleet.wishes.find("m").failed)
        await fleet.until(lambda: fleet.phases() == ["starting"] and fleet.rows()[0]["revision"] == 1)
        await fleet.up()
        await fleet.until(lambda: fleet.phases() == ["ready"])
        (row,) = fleet.replicas.roster.deployment_rows()
        assert "out of memory on npu:0" in row["status"]["conditions"][1]["message"]

    run(tmp_path, use)

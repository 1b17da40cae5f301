"""Wishes: what is a new revision, what is refused, and what the log is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.worlds import StillClock

from daulat.adapters.control_db import ControlDatabase
from daulat.core.deployment import Spec
from daulat.errors import InvalidRequest, NotFound
from daulat.pipeline.deploy import Deployments

SPEC = Spec("a" * 64)


class House:
    """Deployments over a real database; acts are kept in a list."""

    def __init__(self, folder: Path) -> None:
        self.acts: list[tuple[str, str, Mapping[str, Any]]] = []
        self.database = ControlDatabase(folder / "control.db")
        self.wishes = Deployments(self.database, self._act, StillClock())

    async def _act(self, action: str, subject: str, detail: Mapping[str, Any]) -> None:
        self.acts.append((action, subject, detail))


@pytest.fixture
def house(tmp_path: Path) -> Any:
    made = House(tmp_path)
    yield made
    made.database.close()


def run(use: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(use())  # type: ignore[arg-type]


def test_a_wish_is_in_the_log_and_lasts(house: House, tmp_path: Path) -> None:
    async def use() -> None:
        made = await house.wishes.apply("small", SPEC)
        assert (made.generation, made.revision, made.good, made.failed) == (1, 1, None, "")
        assert house.acts == [("deployment.apply", "a" * 64, {"deployment": "small", **SPEC.as_dict()})]
        assert await house.wishes.apply("small", SPEC) == made
        assert len(house.acts) == 1, "the same wish changes nothing"
        again = ControlDatabase(tmp_path / "control.db")
        assert [row["name"] for row in again.rows("deployments")] == ["small"]
        again.close()

    run(use)


def test_the_log_has_the_names_of_an_engines_environment_and_no_values(house: House) -> None:
    async def use() -> None:
        await house.wishes.apply("small", replace(SPEC, options={"environment": {"TOKEN": "hush"}, "kv_cache_gib": 1}))
        assert house.acts[0][2]["options"] == {"environment": ["TOKEN"], "kv_cache_gib": 1}
        assert house.wishes.find("small").spec.options["environment"] == {"TOKEN": "hush"}

    run(use)


def test_more_replicas_are_no_new_revision_and_another_context_is() -> None:
    assert replace(SPEC, replicas=3).template == SPEC.template
    assert replace(SPEC, context=512).template != SPEC.template


def test_a_revision_that_was_given_up_can_be_tried_again_or_left(house: House) -> None:
    async def use() -> None:
        await house.wishes.apply("small", SPEC)
        house.wishes.promote("small", 1)
        other = replace(SPEC, model="b" * 64, replicas=2)
        await house.wishes.apply("small", other)
        house.wishes.promote("small", 1)
        assert house.wishes.find("small").good_spec == SPEC, "a promotion that comes too late changes nothing"
        house.wishes.roll_back("small", "its engine ended 3 times")
        failed = house.wishes.find("small")
        assert failed.target == SPEC
        assert failed.wanted().target == 1
        assert failed.wanted().replicas == 2
        retried = await house.wishes.apply("small", other)
        assert (retried.revision, retried.failed, retried.wanted().target) == (3, "", 3)
        house.wishes.roll_back("small", "again")
        back = await house.wishes.apply("small", SPEC)
        assert (back.revision, back.failed) == (1, ""), "back to what runs: nothing to roll out"

    run(use)


def test_a_wish_that_ends_is_gone_and_in_the_log(house: House) -> None:
    async def use() -> None:
        await house.wishes.apply("small", SPEC)
        await house.wishes.remove("small")
        assert house.wishes.all() == []
        assert house.acts[-1] == ("deployment.stop", "a" * 64, {"deployment": "small"})
        with pytest.raises(NotFound):
            await house.wishes.remove("small")

    run(use)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("A b", {}, "is no deployment's name"),
        ("", {}, "is no deployment's name"),
        ("a", {"replicas": 65}, "replicas is 65, expected a whole number from 0 to 64"),
        ("a", {"slots": 0}, "slots is 0"),
        ("a", {"context": -1}, "context is -1"),
        ("a", {"drain_seconds": 9999}, "drain_seconds is 9999"),
        ("a", {"devices": ("tpu:0",)}, "is no device: say npu:0"),
        ("a", {"devices": ("npu:0", "npu:0")}, "given twice"),
    ],
)
def test_what_is_out_of_bounds_is_refused_before_it_is_logged(
    house: House, name: str, changes: dict[str, Any], words: str
) -> None:
    async def use() -> None:
        with pytest.raises(InvalidRequest, match=words):
            await house.wishes.apply(name, replace(SPEC, **changes))
        assert house.acts == []

    run(use)


@given(
    st.builds(
        Spec,
        st.text("0123456789abcdef", min_size=64, max_size=64),
        devices=st.lists(st.sampled_from(["npu:0", "npu:1"]), unique=True).map(tuple),
        options=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
        replicas=st.integers(0, 64),
    )
)
def test_a_spec_survives_the_database(spec: Spec) -> None:
    assert Spec.of(spec.as_dict()) == spec

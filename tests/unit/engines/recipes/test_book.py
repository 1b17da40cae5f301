"""The catalogue's book of profiles: strict, in order, each with its source."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from daulat.catalog import recipes
from daulat.catalog.recipes import Situation
from daulat.errors import ConfigError

HERE = Situation(
    "mixed", "latent", "a3", None, heavy=True, plain=False, several=False, experts=True, shared_cache=False
)
SMALL: dict[str, Any] = {"role": "mixed", "source": "a page", "seqs": 4, "memory": 0.9}


def test_the_first_profile_whose_conditions_all_hold_is_taken() -> None:
    top = {"profile": {"long": {**SMALL, "beyond": 1000}, "plain": {**SMALL, "plain": True}, "any": SMALL}}
    book = recipes.parse("engine", top)
    assert book.profile(HERE).name == "any"
    assert book.profile(replace(HERE, context=1000)).name == "any"
    assert book.profile(replace(HERE, context=1001)).name == "long"
    assert book.profile(replace(HERE, plain=True)).name == "plain"
    with pytest.raises(ConfigError, match=r"engine has no recipe for latent attention on a3, role decode"):
        book.profile(replace(HERE, role="decode"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"memory": 1.5}, "memory is a share"),
        ({"memory": "much"}, "memory is 'much', expected a number"),
        ({"seqs": 0}, "seqs at least 1"),
        ({"additional": "[]"}, "must be a JSON object"),
        ({"additional": "{"}, "Expecting"),
        ({"unknown": 1}, r"unknown keys \['unknown'\]"),
        ({"environment": {"A": 1}}, "environment.A is 1, expected a text"),
    ],
)
def test_a_wrong_profile_is_refused_with_its_place(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        recipes.parse("engine", {"profile": {"mine": {**SMALL, **changed}}})
    assert "engine.toml, [profile], [mine]" in str(caught.value.location)


def test_every_profile_of_the_catalogue_names_its_source_and_can_be_reached() -> None:
    book = recipes.book("vllm-ascend")
    assert all(".yaml" in profile.source or ".md" in profile.source for profile in book.profiles)
    for number, profile in enumerate(book.profiles):
        situation = Situation(
            role=profile.role,
            attention=profile.attention or "grouped",
            soc=profile.soc[0] if profile.soc else "a3",
            context=profile.beyond + 1 if profile.beyond else None,
            heavy=bool(profile.heavy),
            plain=bool(profile.plain),
            several=bool(profile.several),
            experts=bool(profile.experts),
            shared_cache=bool(profile.shared_cache),
            linear=bool(profile.linear),
            family=profile.family[0] if profile.family else "",
        )
        assert book.profile(situation) is profile, f"{profile.name} ({number}) stands behind a more general one"
    with pytest.raises(ConfigError, match="no recipes for engine 'abacus'"):
        recipes.book("abacus")

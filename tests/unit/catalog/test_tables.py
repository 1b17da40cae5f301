"""TOML becomes typed values, or an error that names file, entry and key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from daulat.catalog import tables
from daulat.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    depth: int


@dataclass(frozen=True)
class Outer:
    name: str
    size: float
    names: tuple[str, ...]
    inner: Inner | None = None
    by_name: Mapping[str, Inner] | None = None
    on: bool = False

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size cannot be negative")


GOOD: dict[str, Any] = {"name": "a", "size": 1, "names": ["b"]}


def test_a_table_becomes_a_value_with_whole_numbers_taken_as_numbers() -> None:
    read = tables.read(Outer, {**GOOD, "inner": {"depth": 2}, "by_name": {"x": {"depth": 3}}, "on": True}, "f.toml")
    assert read == Outer("a", 1.0, ("b",), Inner(2), {"x": Inner(3)}, on=True)
    assert isinstance(read.size, float)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 1}, "f.toml: name is 1, expected a text"),
        ({"size": "1"}, "size is '1', expected a number"),
        ({"size": True}, "size is True, expected a number"),
        ({"size": -1}, "size cannot be negative"),
        ({"names": "b"}, "names is 'b', expected a list, each item a text"),
        ({"names": [1]}, "names is 1, expected a text"),
        ({"inner": {"depth": True}}, r"f.toml, \[inner\]: depth is True, expected a whole number"),
        ({"inner": 3}, r"f.toml, \[inner\]: is 3, expected a table"),
        ({"by_name": {"x": {}}}, r"f.toml, \[by_name.x\]: key 'depth' is missing"),
        ({"by_name": 3}, "by_name is 3, expected a table"),
        ({"colour": "red"}, r"unknown keys \['colour'\]; known here are \['by_name', 'inner'"),
        ({"on": 1}, "on is 1, expected true or false"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tables.read(Outer, {**GOOD, **change}, "f.toml")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"f\.toml: key 'size' is missing"):
        tables.read(Outer, {"name": "a", "names": []}, "f.toml")


def test_entries_name_the_table_they_stand_in() -> None:
    with pytest.raises(ConfigError, match=r"f.toml, \[chip\], \[x\]: key 'depth' is missing"):
        tables.entries(Inner, {"x": {}}, "f.toml, [chip]")
    with pytest.raises(ConfigError, match="expected a table of tables"):
        tables.entries(Inner, [1], "f.toml")


@pytest.mark.parametrize("text", ["a = ", "a = 1\na = 2", "a = " + "9" * 5000, "[" * 3000])
def test_text_that_is_no_toml_is_an_error_with_its_file(text: str) -> None:
    with pytest.raises(ConfigError, match=r"x\.toml: not valid TOML"):
        tables.parsed(text, "x.toml")

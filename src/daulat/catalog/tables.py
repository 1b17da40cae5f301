"""Strict reading of the catalogue's TOML into frozen dataclasses.

Every field's type is demanded, an unknown or missing key is an error, and every error names file, entry and key. A
field with a default may be left out. Known types: str, int, float, bool, tuples of str or int, other dataclasses,
mappings from str, and any of these or None.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Hashable, Mapping
from functools import cache
from importlib import resources
from typing import Any, TypeVar, cast

from daulat.errors import ConfigError

T = TypeVar("T")
_WORDS: Mapping[type, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def files(folder: str) -> dict[str, dict[str, Any]]:
    """The parsed TOML files of one folder of the catalogue, by file name.

    Raises:
        ConfigError: one is not TOML.
    """
    found = {}
    for item in sorted(resources.files("daulat.catalog").joinpath(folder).iterdir(), key=lambda item: item.name):
        if item.name.endswith(".toml"):
            found[item.name] = parsed(item.read_text(encoding="utf-8"), item.name)
    return found


def parsed(text: str, location: str) -> dict[str, Any]:
    """TOML text as tables.

    Raises:
        ConfigError: it is not TOML; says where.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits is no TOMLDecodeError
        raise ConfigError(f"not valid TOML: {error}", location=location) from None


def entries(kind: type[T], tables: object, location: str) -> dict[str, T]:
    """A table of tables, each read as `kind`.

    Raises:
        ConfigError: anything is missing, unknown or of another type.
    """
    if not isinstance(tables, dict):
        raise ConfigError(f"is {tables!r}, expected a table of tables", location=location)
    return {key: read(kind, value, f"{location}, [{key}]") for key, value in tables.items()}


def read(kind: type[T], table: object, location: str) -> T:
    """One table as a frozen dataclass `kind`; its own `ValueError`s become errors with a place.

    Raises:
        ConfigError: anything is missing, unknown, of another type, or refused by the dataclass itself.
    """
    if not isinstance(table, dict):
        raise ConfigError(f"is {table!r}, expected a table", location=location)
    wanted = _fields(cast("Hashable", kind))
    unknown = sorted(set(table) - set(wanted))
    if unknown:
        raise ConfigError(f"unknown keys {unknown}; known here are {sorted(wanted)}", location=location)
    values = {}
    for name, (hint, required) in wanted.items():
        if name in table:
            values[name] = _value(hint, table[name], name, location)
        elif required:
            raise ConfigError(f"key {name!r} is missing", location=location)
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(str(error), location=location) from None


@cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Name to (type, whether it must be given)."""
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(kind)
    }


def _value(hint: Any, value: object, key: str, location: str) -> Any:
    if isinstance(hint, types.UnionType):  # X | None: TOML has no null, so what stands there is an X
        (hint,) = (item for item in typing.get_args(hint) if item is not type(None))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(key, value, f"a list, each item {_WORDS[arguments[0]]}", location)
        return tuple(_value(arguments[0], item, key, location) for item in value)
    if origin is Mapping:
        if not isinstance(value, dict):
            raise _wrong(key, value, "a table", location)
        return {name: _value(arguments[1], item, f"{key}.{name}", location) for name, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return read(cast("type[Any]", hint), value, f"{location}, [{key}]")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(key, value, _WORDS[hint], location)
    return value


def _wrong(key: str, value: object, expected: str, location: str) -> ConfigError:
    return ConfigError(f"{key} is {value!r}, expected {expected}", location=location)

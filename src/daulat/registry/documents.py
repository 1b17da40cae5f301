"""JSON that came with a model, read strictly: `config.json`, indices of weights, the tokenizer's settings.

A key that stands twice, a NaN, a document too large or too deep is refused, because two readers could make two things
of it. So is every request for code of the model's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from daulat.registry.gguf import BadModel

MOST_BYTES: Final = 64 * 1024 * 1024  # the largest tokenizer.json and index seen have 33 and 9 MB
MOST_CONFIG_BYTES: Final = 4 * 1024 * 1024
_DEEPEST: Final = 32
_CODE: Final = frozenset({"auto_map", "trust_remote_code", "custom_pipelines"})


def parse(data: bytes, what: str, *, most: int = MOST_BYTES) -> Any:
    """Any JSON document.

    Raises:
        BadModel: it is no strict JSON, or exceeds a bound.
    """
    if len(data) > most:
        raise BadModel(f"{len(data)} bytes; at most {most} are read", location=what)
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        _bounded(value)
    except (ValueError, RecursionError) as error:
        raise BadModel(f"is no strict JSON: {error}", location=what) from None
    return value


def table(data: bytes, what: str, *, most: int = MOST_BYTES) -> dict[str, Any]:
    """A JSON object. Raises BadModel."""
    value = parse(data, what, most=most)
    if not isinstance(value, dict):
        raise BadModel("is no JSON object", location=what)
    return value


def refuse_code(value: Any, what: str) -> None:
    """Refuse a document that asks for Python of the model's own.

    Raises:
        BadModel: names the key, and says what would be right.
    """
    for key, asked in _keys(value):
        if key in _CODE and asked:
            raise BadModel(
                f"asks for code of the model's own ({key!r}); nothing that comes with a model is run here. Engines "
                "know most architectures themselves: import with --without-code, which removes this key and the code",
                location=what,
            )


def without_code(value: Any) -> Any:
    """The same document without the keys that ask for code, at any depth."""
    if isinstance(value, dict):
        return {key: without_code(item) for key, item in value.items() if key not in _CODE}
    return [without_code(item) for item in value] if isinstance(value, list) else value


def string(document: Mapping[str, Any], *path: str) -> str:
    """The string at a path of keys, or "" where there is none."""
    found = _at(document, path)
    return found if isinstance(found, str) else ""


def count(document: Mapping[str, Any], *path: str) -> int:
    """The positive whole number at a path of keys, or 0."""
    found = _at(document, path)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 < found < 2**53 else 0


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in value if keys.count(key) > 1)
        raise ValueError(f"key {twice[:64]!r} stands there twice")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _bounded(value: Any) -> None:
    """Not too deep; without recursion, so that depth itself can do no harm."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} levels deep")
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, (dict, list))
        ]


def _keys(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys(inner)

"""Known models: what they are, how large, how they are switched, asked and licensed. Data: `model/*.toml`.

A file holds `[shape.NAME]` tables, which several models may share, and `[model.ID]` tables. Every table that holds a
number names its source beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from daulat.catalog import tables
from daulat.catalog.precision import PRECISIONS, Precision
from daulat.catalog.shape import Shape
from daulat.errors import ConfigError, NotFound

_WORDS: Final = {"w8a8sc": "w8a8", "w8a8c8": "w8a8", "w4a8c8": "w4a8", "awq": "int4", "gptq": "int4", "int8": "w8a8"}
_QUANTISED: Final = re.compile(r"[-_.](?:w\d+a\d+|quantized|fp8|nvfp4|mxfp[48]|bf16|awq|gptq|int[48]|gguf).*")
THINKING: Final = ("never", "always", "switch")


@dataclass(frozen=True, slots=True)
class Parameters:
    """Published counts, in thousands of millions."""

    total: float
    active: float
    source: str


@dataclass(frozen=True, slots=True)
class Weights:
    """One published checkpoint of a model. `kv`: the KV cache's precision it was calibrated for, "" where free."""

    checkpoint: str
    source: str
    kv: str = ""


@dataclass(frozen=True, slots=True)
class Parsers:
    """Names that an engine's flags take; "" where it has none."""

    source: str
    reasoning: str = ""
    tools: str = ""
    tokenizer_mode: str = ""


@dataclass(frozen=True, slots=True)
class Thinking:
    """Whether the model reasons before it answers.

    `kind`: never, always, or switch: then `argument` of `chat_template_kwargs` turns it, and `default` says which way
    it stands unasked. `efforts`: values of `reasoning_effort`, least first, where the model has them. `opened`: the
    template itself writes the opening tag, so an answer begins inside the reasoning: only its end is generated.
    """

    kind: str
    source: str
    argument: str = ""
    default: bool = False
    opened: bool = False
    efforts: tuple[str, ...] = ()
    begin: str = "<think>"
    end: str = "</think>"

    def __post_init__(self) -> None:
        if self.kind not in THINKING:
            raise ValueError(f"kind is {self.kind!r}, expected one of {', '.join(THINKING)}")
        if (self.kind == "switch") != bool(self.argument):
            raise ValueError("argument names the switch, and stands there exactly where kind is 'switch'")


@dataclass(frozen=True, slots=True)
class Template:
    """Rules of the chat template. `ships`: with the checkpoint; else `rule` says what renders messages instead."""

    ships: bool
    source: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A `[model.ID]` table as written."""

    title: str
    family: str
    architecture: str
    shape: str
    aliases: tuple[str, ...]
    licence: str
    context: int
    native: str
    source: str
    parameters: Parameters
    weights: Mapping[str, Weights]
    thinking: Thinking
    template: Template
    parsers: Mapping[str, Parsers] = field(default_factory=dict)
    confidence: str = "published"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model. `aliases`: repository names of its checkpoints; `architecture`: the class its config.json names.

    `context`: most tokens of prompt and answer. `native`: the precision it was published in. `weights`: published
    checkpoints by precision (keys of `PRECISIONS`). `parsers`: by engine (`vllm`, `sglang`). `licence`: SPDX or the
    licence's own name. `confidence`: "published", or a word on what is not sure. `measured`: the mean bits of the
    one file a spec was read from, where it was.
    """

    id: str
    title: str
    family: str
    architecture: str
    shape: Shape
    aliases: tuple[str, ...]
    licence: str
    context: int
    native: str
    parameters: Parameters | None
    weights: Mapping[str, Weights]
    thinking: Thinking | None
    template: Template | None
    parsers: Mapping[str, Parsers]
    source: str
    confidence: str
    measured: Precision | None = None

    def precision(self, name: str) -> Precision:
        """What a precision means for this model.

        Raises:
            ConfigError: no such precision.
        """
        if self.measured is not None and name == self.measured.name:
            return self.measured
        if name not in PRECISIONS:
            raise ConfigError(f"unknown precision {name!r}; known are {', '.join(PRECISIONS)}")
        return PRECISIONS[name]

    @property
    def sources(self) -> tuple[str, ...]:
        """Every source its numbers come from, once each."""
        parts: list[Any] = [self, self.shape, self.shape.attention, self.shape.experts, self.shape.linear]
        parts += [self.parameters, self.thinking, self.template, *self.weights.values(), *self.parsers.values()]
        return tuple(dict.fromkeys(part.source for part in parts if part is not None))


def parse(files: Mapping[str, Mapping[str, Any]]) -> dict[str, ModelSpec]:
    """Models out of parsed TOML files, by id; shapes may be used across files.

    Raises:
        ConfigError: a table is not as it should be, a name is unknown or stands there twice; names file, entry, key.
    """
    shapes: dict[str, Shape] = {}
    written: dict[str, tuple[str, _Entry]] = {}
    for name, top in files.items():
        unknown = sorted(set(top) - {"shape", "model"})
        if unknown:
            raise ConfigError(f"unknown tables {unknown}; known are shape and model", location=name)
        for key, shape in tables.entries(Shape, top.get("shape", {}), f"{name}, [shape]").items():
            _once(shapes, key, name)
            shapes[key] = shape
        for key, entry in tables.entries(_Entry, top.get("model", {}), f"{name}, [model]").items():
            _once(written, key, name)
            written[key] = (f"{name}, [model.{key}]", entry)
    found = {key: _model(key, entry, shapes, location) for key, (location, entry) in written.items()}
    _check_names(found)
    return found


@cache
def models() -> Mapping[str, ModelSpec]:
    """The catalogue's models, by id."""
    return MappingProxyType(parse(tables.files("model")))


def known(*names: str) -> ModelSpec | None:
    """The first model of the catalogue that is called so; None where none is."""
    for name in names:
        try:
            return find(name)
        except NotFound:
            continue
    return None


def find(name: str) -> ModelSpec:
    """The model of that id, title or repository name; capitals do not matter.

    A repository that is not known is taken for quantised weights of a model whose name it begins with, as
    `Eco-Tech/Qwen3-32B-w8a8c8` does.

    Raises:
        NotFound: none is; names some that are near.
    """
    wanted = name.strip().lower()
    for spec in models().values():
        if wanted in _names(spec):
            return spec
    base = _QUANTISED.sub("", wanted.rpartition("/")[2])
    for spec in models().values():
        if "/" in wanted and base in {known.rpartition("/")[2] for known in _names(spec)}:
            return spec
    words = set(re.split(r"[^a-z0-9]+", wanted.rpartition("/")[2])) - {""}
    ranked = sorted(models(), key=lambda key: (-len(words & set(re.split(r"[^a-z0-9]+", key))), key))
    raise NotFound(
        f"no model {name!r} in the catalogue; near it: {', '.join(ranked[:4])}. `daulat model catalog` lists all; "
        "a path to a config.json or a GGUF file does as well"
    )


def implied_precision(name: str) -> str:
    """The precision of the checkpoint that a repository name means: of its entry, else by the name's words; "" if open.

    W8A8SC, the 310P's compressed form, and W8A8C8, with an 8-bit KV cache, hold w8a8 weights.
    """
    wanted = name.strip().lower()
    for spec in models().values():
        for precision, weights in spec.weights.items():
            if wanted == weights.checkpoint.lower() and precision != spec.native:
                return precision
    if "/" not in wanted:
        return ""
    words = re.split(r"[^a-z0-9]+", wanted.rpartition("/")[2])
    return next((precision for word in words for precision in PRECISIONS if _WORDS.get(word, word) == precision), "")


def _names(spec: ModelSpec) -> set[str]:
    return {spec.id, spec.title.lower(), *(alias.lower() for alias in spec.aliases)} | {
        weights.checkpoint.lower() for weights in spec.weights.values() if weights.checkpoint
    }


def _once(known: Mapping[str, object], key: str, name: str) -> None:
    if key in known:
        raise ConfigError(f"{key!r} stands there twice", location=name)


def _model(key: str, entry: _Entry, shapes: Mapping[str, Shape], location: str) -> ModelSpec:
    if entry.shape not in shapes:
        raise ConfigError(f"shape {entry.shape!r} is not defined; defined are {sorted(shapes)}", location=location)
    unknown = sorted({entry.native, *entry.weights} - set(PRECISIONS))
    if unknown:
        raise ConfigError(f"unknown precisions {unknown}; known are {sorted(PRECISIONS)}", location=location)
    if entry.native not in entry.weights:
        raise ConfigError(f"weights has no checkpoint in the native precision {entry.native!r}", location=location)
    return ModelSpec(
        id=key,
        title=entry.title,
        family=entry.family,
        architecture=entry.architecture,
        shape=shapes[entry.shape],
        aliases=entry.aliases,
        licence=entry.licence,
        context=entry.context,
        native=entry.native,
        parameters=entry.parameters,
        weights=entry.weights,
        thinking=entry.thinking,
        template=entry.template,
        parsers=entry.parsers,
        source=entry.source,
        confidence=entry.confidence,
    )


def _check_names(found: Mapping[str, ModelSpec]) -> None:
    owners: dict[str, str] = {}
    for spec in found.values():
        for name in _names(spec):
            if owners.setdefault(name, spec.id) != spec.id:
                raise ConfigError(f"{name!r} names both {owners[name]} and {spec.id}", location="models")

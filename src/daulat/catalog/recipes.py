"""What launch recipes are made of beside a model and hardware: profiles of flags, and releases. Data: `recipe/*.toml`.

A file is named after its engine and holds `[profile.NAME]` tables, in the order in which they are tried, and
`[release.NAME]` tables. Each names its source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any

from daulat.catalog import tables
from daulat.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Profile:
    """Numbers and switches of one role, and the conditions under which they hold; an empty condition always does.

    Conditions: `attention`, `role`, `family` (of models), `soc` (generations of chips), `beyond` (tokens of context),
    `heavy` (the weights take much of the memory), `plain` (16-bit weights), `several` (nodes), `experts`, `linear`
    (some layers' state does not grow with the context), `shared_cache` (decode context parallel).

    `context`: tokens by default, 0 the model's whole. `batched`: tokens a step, 0 as many as `seqs` answers draft
    together; `batched_apart`: where prompts share no prefix. `seqs`: answers at once in a data-parallel rank. `memory`:
    share of a device's. `drafts`: MTP tokens. `buffer`: MB of HCCL's. `block`: tokens of a KV block, 0 the engine's;
    `block_shared`: where prompts share prefixes. `prefix`: cache them unless told otherwise. `eager`: no graphs at all;
    `eager_drafts`: none for the drafts. `overlap`: scheduling beside execution. `graph`: the mode; `sizes`: those
    captured, or with `sizes_of_drafts` every multiple of a drafting step. `words`: further arguments.
    """

    role: str
    source: str
    seqs: int
    memory: float
    context: int = 0
    batched: int = 0
    batched_apart: int = 0
    drafts: int = 0
    buffer: int = 0
    threads: int = 0
    block: int = 0
    block_shared: int = 0
    prefix: bool = True
    eager: bool = False
    eager_drafts: bool = False
    overlap: bool = False
    graph: str = ""
    sizes: tuple[int, ...] = ()
    sizes_of_drafts: bool = False
    additional: str = "{}"
    words: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    shared_environment: Mapping[str, str] = field(default_factory=dict)
    attention: str = ""
    family: tuple[str, ...] = ()
    soc: tuple[str, ...] = ()
    beyond: int = 0
    heavy: bool | None = None
    plain: bool | None = None
    several: bool | None = None
    experts: bool | None = None
    linear: bool | None = None
    shared_cache: bool | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.memory <= 1 or self.seqs < 1:
            raise ValueError("memory is a share above 0 and at most 1, seqs at least 1")
        if not self.additional.startswith("{"):
            raise ValueError("additional must be a JSON object")
        json.loads(self.additional)

    @property
    def options(self) -> dict[str, Any]:
        """`additional` as an object of its own."""
        found: dict[str, Any] = json.loads(self.additional)
        return found


@dataclass(frozen=True, slots=True)
class Release:
    """A tested image. `suffixes`: of its tag, by generation of chips; `versions`: what it holds and needs, by name."""

    image: str
    source: str
    suffixes: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Situation:
    """What a profile's conditions are held against."""

    role: str
    attention: str
    soc: str
    context: int | None  # None: unsaid
    heavy: bool
    plain: bool
    several: bool
    experts: bool
    shared_cache: bool
    linear: bool = False
    family: str = ""


@dataclass(frozen=True, slots=True)
class Book:
    """One engine's profiles, in order, and releases."""

    engine: str
    profiles: tuple[Profile, ...]
    releases: Mapping[str, Release]

    def profile(self, situation: Situation) -> Profile:
        """The first profile whose conditions all hold.

        Raises:
            ConfigError: none does.
        """
        for found in self.profiles:
            if _holds(found, situation):
                return found
        raise ConfigError(
            f"{self.engine} has no recipe for {situation.attention} attention on {situation.soc}, role {situation.role}"
        )


def parse(engine: str, top: Mapping[str, Any]) -> Book:
    """A book out of one parsed TOML file.

    Raises:
        ConfigError: a table is not as it should be; names file, entry and key.
    """
    location = f"{engine}.toml"
    unknown = sorted(set(top) - {"profile", "release"})
    if unknown:
        raise ConfigError(f"unknown tables {unknown}; known are profile and release", location=location)
    found = tables.entries(Profile, top.get("profile", {}), f"{location}, [profile]")
    releases = tables.entries(Release, top.get("release", {}), f"{location}, [release]")
    profiles = tuple(replace(profile, name=name) for name, profile in found.items())
    return Book(engine, profiles, MappingProxyType(releases))


@cache
def book(engine: str) -> Book:
    """The catalogue's book of an engine.

    Raises:
        ConfigError: it has none.
    """
    files = tables.files("recipe")
    if f"{engine}.toml" not in files:
        raise ConfigError(f"no recipes for engine {engine!r}")
    return parse(engine, files[f"{engine}.toml"])


def _holds(profile: Profile, situation: Situation) -> bool:
    exact = ("heavy", "plain", "several", "experts", "linear", "shared_cache")
    return (
        profile.role == situation.role
        and profile.attention in ("", situation.attention)
        and (not profile.family or situation.family in profile.family)
        and (not profile.soc or situation.soc in profile.soc)
        and (not profile.beyond or (situation.context or 0) > profile.beyond)
        and all(getattr(profile, name) in (None, getattr(situation, name)) for name in exact)
    )

"""What `daulat deploy` is told of a server that runs outside Daulat: where it is, and what is stated of its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from daulat.adapters.models import ModelStore
from daulat.engines import address as addresses
from daulat.errors import ConfigError
from daulat.registry import statement
from daulat.registry.model import check_name

_F = TypeVar("_F", bound=Callable[..., Any])
_OPTIONS: Final = (
    ("--address", "URL", "External: http(s)://host:port, # and the certificate's SHA-256 after it, or unix:/path."),
    ("--licence", "SPDX", "External: the licence of its model."),
    ("--origin", "TEXT", "External: which weights those are, and where they come from."),
    ("--country", "CC", "External: where it stands, such as MY,"),
    ("--site", "TEXT", "and in words."),
    ("--vouched-by", "ORG", "External: another organisation that vouches for all this (grade G3 instead of G1)."),
    ("--served-as", "NAME", "External: what it calls the model (default: as the deployment is called)."),
    ("--api-key-file", "FILE", "External: holds the API key that it asks for; mode 600."),
    ("--metrics", "ENGINE", "External: the engine whose metrics and checks it has; when nobody else uses it."),
)
_NEEDED: Final = ("address", "licence", "origin", "country", "site")


def external_options(command: _F) -> _F:
    """The options of an external engine."""
    for flag, value, words in reversed(_OPTIONS):
        command = click.option(flag, default="", metavar=value, help=words)(command)
    return command


def state(store: ModelStore, name: str, stated: Mapping[str, str]) -> str:
    """Keep what is stated of its model; the statement's digest.

    Raises:
        ConfigError: something that has to be stated is not.
    """
    if missing := [f"--{option}" for option in _NEEDED if option not in stated]:
        raise ConfigError(f"of an external engine must be stated: {', '.join(missing)}. See `daulat deploy --help`")
    said = statement.stated(
        check_name(name), model=stated.get("served_as", ""), licence=stated["licence"], origin=stated["origin"]
    )
    return store.state(said).digest


def options(stated: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's options. Raises ConfigError: the address is none."""
    made = {name: stated[name] for name in ("country", "site", "served_as", "metrics", "vouched_by") if name in stated}
    if "address" in stated:
        made["address"] = addresses.plain(stated["address"])
    if "vouched_by" in stated:
        made["grade"] = "G3"
    if "api_key_file" in stated:
        made["api_key_file"] = str(Path(stated["api_key_file"]).resolve())
    return {**given, **made}

"""What an operator says of one engine beyond slots and context, as a JSON object such as `{"kv_cache_gib": 8}`.

A pure, strict reading: unknown names and wrong types are refused with what would be right.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from daulat.engines import address as addresses
from daulat.engines import tuning
from daulat.engines.address import Address
from daulat.errors import ConfigError

_LOCATION: Final = "--engine-options"
_LONGEST: Final = 65_536  # characters
_MOST: Final = 256  # members of one list or object
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SANDBOXS: Final = ("/model", "/engine", "/daulat")  # where the model, the scratch folder and Daulat's own files stand
_GRADES: Final = ("G1", "G3")
_COUNTRY: Final = re.compile(r"[A-Z]{2}")
_LONGEST_WORDS: Final = 256


@dataclass(frozen=True, slots=True)
class Options:
    """Empty where the operator said nothing."""

    python: str = ""  # the engine's own interpreter: /path/of/venv/bin/python
    arguments: tuple[str, ...] = ()  # added to the engine's command line
    environment: Mapping[str, str] = field(default_factory=dict)  # over Daulat's own
    devices: tuple[str, ...] = ()  # device files that the sandbox shows: /dev/davinci0, /dev/nvidia0
    read_only: tuple[str, ...] = ()  # folders that it shows beside the model: drivers, CANN, a compiler
    device: Mapping[str, Any] = field(default_factory=dict)  # what they are, for `replica.started/v1`
    kv_cache_gib: int = 0
    # Of an engine that runs already (`external`):
    address: str = ""  # as in `engines.address`
    metrics: str = ""  # the engine whose metric names it has
    grade: str = "G1"  # of what is known about it: G1, or G3 when another organisation vouches
    vouched_by: str = ""
    country: str = ""  # where it stands, ISO 3166-1 alpha-2, and in words
    site: str = ""
    served_as: str = ""  # what it calls the model; "": as the deployment is called
    api_key_file: str = ""  # the file that holds the key it asks for


def parse(text: str, engine: str = "") -> Options:
    """What `text` says, for the engine of that name; "": for whichever it will be.

    Raises:
        ConfigError: no JSON object, an unknown name, a value of the wrong shape, or an argument or variable that may do
            more than tune the engine (`engines.tuning`).
    """
    if len(text) > _LONGEST:
        raise ConfigError(f"{len(text)} characters; at most {_LONGEST} are read", location=_LOCATION)
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is no JSON: {error}", location=_LOCATION) from None
    if not isinstance(value, dict):
        raise ConfigError('expected a JSON object such as {"python": "/opt/vllm/bin/python"}', location=_LOCATION)
    known = {entry.name: entry for entry in fields(Options)}
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"unknown option {name!r}: {meant}known are {', '.join(known)}", location=_LOCATION)
    said = {name: _READERS[str(known[name].type)](name, item) for name, item in value.items()}
    return _consistent(Options(**said), engine)


def _wrong(name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"{name} is {str(value)[:80]!r}, expected {expected}", location=_LOCATION)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _wrong(name, value, "a text")
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MOST or not all(isinstance(item, str) for item in value):
        raise _wrong(name, value, f"a list of at most {_MOST} texts")
    return tuple(_text(name, item) for item in value)


def _pairs(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > _MOST or not all(_VARIABLE.fullmatch(key) for key in value):
        raise _wrong(name, value, 'an object of variables, such as {"OMP_NUM_THREADS": "8"}')
    return {key: _text(f"{name}.{key}", item) for key, item in value.items()}


def _facts(name: str, value: Any) -> dict[str, Any]:
    good = isinstance(value, dict) and len(value) <= _MOST
    if not good or not all(isinstance(item, str | int) for item in value.values()):
        raise _wrong(name, value, 'an object of facts, such as {"kind": "npu", "product": "Ascend910B3", "count": 8}')
    return dict(value)


def _number(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1_048_576:  # noqa: PLR2004
        raise _wrong(name, value, "a whole number of zero or more")
    return value


_READERS: Final[Mapping[str, Any]] = {
    "str": _text,
    "int": _number,
    "tuple[str, ...]": _texts,
    "Mapping[str, str]": _pairs,
    "Mapping[str, Any]": _facts,
}


def _safe(address: Address, options: Options) -> None:
    """A key is sent nowhere in clear but on this machine."""
    if not options.api_key_file:
        return
    if not options.api_key_file.startswith("/"):
        raise _wrong("api_key_file", options.api_key_file, "an absolute path")
    if not address.path and not address.tls and not address.local:
        raise ConfigError(
            f"an API key would go to {address.host} in clear: use an https address, with its certificate pinned",
            location=_LOCATION,
        )


def _consistent(options: Options, engine: str) -> Options:
    tuning.check(engine, options.arguments, options.environment)
    for name in ("devices", "read_only"):
        for path in getattr(options, name):
            if not path.startswith("/") or ".." in path.split("/"):
                raise _wrong(name, path, "absolute paths without `..`")
    if any(path.rstrip("/") == own or path.startswith(f"{own}/") for path in options.read_only for own in _SANDBOXS):
        raise _wrong("read_only", options.read_only, f"none of the sandbox's own folders: {', '.join(_SANDBOXS)}")
    if any(not path.startswith("/dev/") for path in options.devices):
        raise _wrong("devices", options.devices, "files under /dev")
    _outside(options)
    return options


def _outside(options: Options) -> None:
    """What is said of an engine that runs already."""
    if options.address:
        _safe(addresses.parse(options.address), options)
    if options.country and not _COUNTRY.fullmatch(options.country):
        raise _wrong("country", options.country, "an ISO 3166-1 alpha-2 code such as 'MY'")
    for name in ("site", "vouched_by", "served_as"):
        if len(getattr(options, name)) > _LONGEST_WORDS or not getattr(options, name).isprintable():
            raise _wrong(name, getattr(options, name), f"at most {_LONGEST_WORDS} printable characters")
    if options.grade not in _GRADES:
        raise _wrong("grade", options.grade, "G1 (the operator says so) or G3 (another organisation vouches)")
    if (options.grade == "G3") != bool(options.vouched_by):
        raise ConfigError("grade G3 and vouched_by go together: say who vouches", location=_LOCATION)

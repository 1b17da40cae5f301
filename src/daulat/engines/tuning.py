"""Whether what an operator adds to an engine's command line and environment tunes it, and does nothing else. Pure.

What is admitted is a model: weights, tokenizer, template, in its digest's name. An argument or a variable that could
put another model, code, name or address in their place is refused, by listing what may pass (`engines.allowed`):
everything else may not. Names must stand whole, since engines' parsers take abbreviations, and a value where one is
expected, since what is left over they take for a model. Nothing that is refused is quoted beyond its name: it may hold
a secret.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from daulat.engines.allowed import ALLOWED, LOADING, NUMBER, VENDORS, VENDORS_ROOTS, WORD, Allowed
from daulat.errors import ConfigError

_LOCATION: Final = "--engine-options"
_NAME: Final = re.compile(r"--?[A-Za-z][A-Za-z0-9_-]*")
_PLAIN: Final = re.compile(rf"{NUMBER}|{WORD}")
_VALUE: Final = re.compile(r"[A-Za-z0-9_.,:;|=^%+ -]{0,256}")  # of a variable: no path, no address of a site
_DEEPEST: Final = 8
_QUOTED: Final = 40  # characters of a refused name
_TEMPLATES: Final = ("--chat-template", "--trust-remote-code", "--trust-request-chat-template")
_SHORTEST: Final = 4  # of an abbreviation that could only mean one of them
_WHY: Final[tuple[tuple[str, str], ...]] = (
    (r"api-key|token$|password|secret", "holds a secret, and arguments stand in the log"),
    (
        r"host|port|uds|address|addr|ssl|root-path|headless|node-rank|nnodes",
        "says where an engine listens: Daulat does",
    ),
    (r"served-model-name", "is the deployment's name: Daulat gives it, as in `daulat deploy --as NAME`"),
    (r"plugin|processor|middleware|cls|class|extension|module-path|remote|hook|tool-server", "loads code"),
    (r"lora|adapter|prompt-adapter", "adds weights to those that were admitted"),
    (r"model|tokenizer|revision|override|config|download|load-format|generation", "may bring in what nobody admitted"),
    (r"log-|log$|dump|trace|profil", "may write prompts down"),
)


def check(engine: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """`engine`: a name of `engines.known`, or "" for whichever: then one of them must take all of it.

    Raises:
        ConfigError: an argument or variable is not known to tune this engine alone; says which, and why.
    """
    if engine:
        _check(engine, ALLOWED.get(engine, Allowed()), arguments, environment)
        return
    refused: ConfigError | None = None
    for name in ("vllm", "sglang", "mindie"):  # the others take a part of what vLLM does
        try:
            _check(name, ALLOWED[name], arguments, environment)
        except ConfigError as error:
            refused = refused or error
        else:
            return
    if refused is not None:
        raise refused


def _check(engine: str, allowed: Allowed, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    words = list(arguments)
    while words:
        name, joined, value = words.pop(0).partition("=")
        given = [value] if joined else []
        while not joined and words and not _is_flag(words[0]):
            given.append(words.pop(0))
        _argument(engine, allowed, name, given)
    for name, value in environment.items():
        _variable(engine, allowed, name, value)


def _is_flag(word: str) -> bool:
    """Whether an engine's parser takes it for a name; a negative number is a value."""
    return word.startswith("-") and re.fullmatch(NUMBER, word) is None


def _argument(engine: str, allowed: Allowed, name: str, given: Sequence[str]) -> None:
    if _NAME.fullmatch(name) is None:
        raise _refused(engine, allowed, name)
    plain = name if not name.startswith("--") else name.replace("_", "-")
    switch = plain if plain in allowed.switches else f"--{plain.removeprefix('--no-')}"
    if switch in allowed.switches:
        if given:
            raise _wrong(name, "takes no value; what follows it would be taken for a model")
        return
    if plain in allowed.many:
        if not given or not all(_PLAIN.fullmatch(value) for value in given):
            raise _wrong(name, "takes words or numbers")
        return
    if plain not in allowed.values and plain not in allowed.objects:
        raise _refused(engine, allowed, name)
    if len(given) != 1:
        raise _wrong(name, "takes one value")
    if plain in allowed.values:
        if re.fullmatch(allowed.values[plain], given[0]) is None:
            raise _wrong(name, f"must match {allowed.values[plain]}: no path, no name of code")
    else:
        _object(name, allowed.objects[plain], given[0])


def _object(name: str, keys: frozenset[str], text: str) -> None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise _wrong(name, "takes a JSON object, written whole") from None
    if not isinstance(value, dict):
        raise _wrong(name, "takes a JSON object, written whole")
    for key, leaf in _leaves(name, value, 0):
        if key not in keys:
            raise _wrong(name, f"may not say {key[:_QUOTED]!r}; it may say {', '.join(sorted(keys))}")
        if isinstance(leaf, str) and _PLAIN.fullmatch(leaf) is None:
            raise _wrong(
                name, f"says of {key!r} what may be a path or a name of code: a word or a number may stand there"
            )


def _leaves(name: str, value: Any, depth: int, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with what it holds; what a list holds belongs to the list's key."""
    if depth > _DEEPEST:
        raise _wrong(name, f"is deeper than {_DEEPEST} objects")
    if isinstance(value, dict):
        for inner, one in value.items():
            yield inner, None
            yield from _leaves(name, one, depth + 1, inner)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(name, one, depth + 1, key)
    else:
        yield key, value


def _variable(engine: str, allowed: Allowed, name: str, value: str) -> None:
    if name in VENDORS and allowed.variables:
        parts = [part for part in value.split(":") if part]
        if not all(part.startswith(VENDORS_ROOTS) and ".." not in part.split("/") for part in parts):
            raise _wrong(
                f"environment.{name}", f"may name folders below {', '.join(VENDORS_ROOTS)} alone: it loads code"
            )
        return
    if allowed.written.get(name) == value:
        return
    known = any(re.fullmatch(pattern, name) for pattern in allowed.variables)
    if known and LOADING.isdisjoint(name.split("_")):
        if _VALUE.fullmatch(value) is None:
            raise _wrong(f"environment.{name}", "may hold letters, digits and .,:;|=^%+- but no path")
        return
    why = "may load code or weights, or hold a secret" if known else "is not known to do so"
    raise ConfigError(
        f"environment.{name[:_QUOTED]} is refused: only variables that tune {engine} alone pass, and it {why}",
        location=_LOCATION,
    )


def _wrong(name: str, said: str) -> ConfigError:
    return ConfigError(f"{name[:_QUOTED]} {said}", location=_LOCATION)


def _refused(engine: str, allowed: Allowed, name: str) -> ConfigError:
    """Why, as far as the name tells; the value is never said."""
    plain = name.partition(".")[0].replace("_", "-").lower()
    if len(plain) > _SHORTEST and any(code.startswith(plain) for code in _TEMPLATES):
        return ConfigError(
            f"{name[:_QUOTED]!r} would bring in code that nobody admitted; import the model with what it needs: "
            "daulat model import --chat-template FILE, or a version that needs no code",
            location=_LOCATION,
        )
    known = [*allowed.switches, *allowed.values, *allowed.many, *allowed.objects]
    if not known:
        return ConfigError(
            f"{engine} takes no arguments of an operator: Daulat writes all that it reads", location=_LOCATION
        )
    if not plain.startswith("-"):
        return ConfigError(
            "a word that belongs to no argument: the engine would take it for a model", location=_LOCATION
        )
    if "." in name and plain in allowed.objects:
        return _wrong(plain, "takes a JSON object, written whole")
    why = next((said for pattern, said in _WHY if re.search(pattern, plain)), "is not known to tune it alone")
    near = difflib.get_close_matches(plain, known, 1)
    meant = f"; did you mean {near[0]}?" if near and near[0] != plain else ""
    return ConfigError(
        f"{name[:_QUOTED]} is refused for {engine}: it {why}. Arguments that are known to tune pass, by their whole "
        f"names (docs/engines.md){meant}",
        location=_LOCATION,
    )

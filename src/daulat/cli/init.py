"""`daulat init`: the key ceremony, from which the first operators come and with which production begins.

Everybody is in one room. One draws it up, everybody reads and signs it with their own key, on this machine or on their
own, and one finishes it. It is in force, and in the log, with the next `daulat up`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from daulat.audit import ceremony as ceremonies
from daulat.audit.words import when
from daulat.cli import emit
from daulat.cli.options import home_option, json_option
from daulat.cli.signing import FILE, Signing, signing_options
from daulat.cli.verify import key as key_of
from daulat.core import charter as charters
from daulat.core.ceremony import Seat
from daulat.core.files import text_of
from daulat.errors import ConfigError, Conflict, IntegrityError
from daulat.pipeline.ceremony import LONGEST, Drawn, draw, parse
from daulat.settings import Home, load

_DAY_MS: Final = 86_400_000
_OURS: Final = "   # by the key ceremony"


@click.group("init")
def init() -> None:
    """Hold the key ceremony: the first operators, and production for good."""


@init.command("draft")
@click.argument("path", metavar="FILE", type=FILE)
@click.option(
    "--operator", "operators", type=(str, str, str), multiple=True, metavar="NAME CC VKEY",
    help="Name, citizenship and public key (or a file with it) of one operator; once for each. Left out: asked for.",
)  # fmt: skip
@click.option(
    "--approvals", default=2, show_default=True, help="How many others must agree; no charter asks for fewer."
)
@click.option("--assurance", default="high", show_default=True, help="How well citizenships are known in this room.")
@click.option("--days", default=365, show_default=True, help="How long that is good for.")
@click.option("--charter", type=FILE, help="A whole charter of production (default: charter.toml, made one).")
@click.option("--name", help="The log's name, where there is no charter yet, such as ai.agency.gov.my. For good.")
@click.option("--model", "models", multiple=True, help="A model that may be admitted; may be given again.")
@home_option
@json_option
def draft(
    path: Path,
    operators: tuple[tuple[str, str, str], ...],
    approvals: int,
    assurance: str,
    days: int,
    charter: Path | None,
    name: str | None,
    models: tuple[str, ...],
    home: Home,
    as_json: bool,
) -> None:
    """Draw up the ceremony: the charter that comes into force, its rules and models, and the operators' keys.

    \b
    Example:
        daulat init draft ceremony.json --operator aminah MY aminah.vkey --operator bina MY bina.vkey \\
            --operator chong MY chong.vkey
    """
    if path.exists():
        raise Conflict(f"{path} exists already: give another name, or remove it")
    now = round(time.time() * 1000)
    text = _charter(home, charter, approvals, name)
    origin, fresh = _origin(home, charters.parse(text, location=str(charter or "the charter")).name)
    seats = [
        (who, Seat(key_of(vkey).vkey, citizenship, assurance, now + days * _DAY_MS))
        for who, citizenship, vkey in operators or _asked()
    ]
    drawn = draw(origin, now, text, _rules(home), _models(home, models, fresh=fresh), seats)
    _write(path, drawn)
    signs = "\n".join(f"  daulat init sign {path} --key FILE      ({each})" for each in drawn.names)
    emit(_value(drawn, path), as_json=as_json, text=f"{path} is drawn up. Read it, then each signs:\n{signs}")


@init.command("sign")
@click.argument("path", metavar="FILE", type=FILE)
@signing_options
@json_option
def sign(path: Path, signing: Signing, as_json: bool) -> None:
    """Read the whole ceremony and sign it with your own key.

    \b
    Example:
        daulat init sign ceremony.json --key ~/operator.key
    """
    drawn = _read(path)
    signing.confirm(_shown(drawn), "Do you agree to all of this, and know everybody named here?")
    vkey, signature = signing.sign(drawn.ceremony.statement())
    drawn = drawn.signed(vkey, signature)
    _write(path, drawn)
    emit(_value(drawn, path), as_json=as_json, text=_left(drawn, path))


@init.command("show")
@click.argument("path", metavar="FILE", type=FILE)
@json_option
def show(path: Path, as_json: bool) -> None:
    """Show a ceremony: everything that is signed, and who has signed it.

    \b
    Example:
        daulat init show ceremony.json
    """
    drawn = _read(path)
    emit(_value(drawn, path), as_json=as_json, text=f"{_shown(drawn)}\n{_left(drawn, path)}")


@init.command("finish")
@click.argument("path", metavar="FILE", type=FILE)
@home_option
@json_option
def finish(path: Path, home: Home, as_json: bool) -> None:
    """Put a ceremony that everybody has signed into this home: in force, and for good, with the next `daulat up`.

    \b
    Example:
        daulat init finish ceremony.json
    """
    drawn = _read(path)
    if drawn.missing():
        raise ConfigError(f"{', '.join(drawn.missing())} have not signed yet: daulat init sign", location=str(path))
    charter = charters.parse(drawn.charter, location=f"the charter in {path}")
    now = round(time.time() * 1000)
    if wrong := [*ceremonies.unsigned(drawn.ceremony, drawn.raw()), *drawn.ceremony.wrong(charter)]:
        raise IntegrityError("; ".join(wrong))
    if not 0 <= now - drawn.ceremony.begun <= 31 * _DAY_MS:
        raise ConfigError("was begun more than 31 days ago, or in the future: draw it up again", location=str(path))
    home.prepare()
    if (origin := _origin(home, charter.name)[0]) != drawn.ceremony.origin:
        raise ConfigError(f"is for {drawn.ceremony.origin}, and this home's log is {origin}", location=str(path))
    if (version := _rules(home)) != drawn.ceremony.rules:
        raise ConfigError(f"was held for other rules than those here ({version[:16]})", location=str(path))
    if home.ceremony.exists() and text_of(home.ceremony) != drawn.encode():
        raise Conflict(f"another key ceremony was finished here: {home.ceremony}")
    _write(home.ceremony, drawn)
    if home.charter.exists() and text_of(home.charter) != drawn.charter:
        home.charter.replace(home.charter.with_name("charter.before-the-ceremony.toml"))
    _text(home.charter, drawn.charter)
    said = f"The ceremony is in {home.path}. Start the service anew (`daulat up`): production begins, for good."
    first = when(min(seat.expires for seat in drawn.ceremony.seats))[:10]
    said += f"\nRenew each other long before {first} (`daulat operate renew-operator`): after it there is no way back."
    emit(_value(drawn, home.ceremony), as_json=as_json, text=said)


def into_production(text: str, approvals: int) -> str:
    """A charter's text with profile production, so many approvals, and these as the floor."""
    for name, value in (("profile", '"production"'), ("approvals", approvals), ("floor", approvals)):
        text = re.sub(rf"^{name}\s*=.*\n", "", text, count=1, flags=re.MULTILINE)
        text = re.sub(r"(?m)^(?=[^#\s])", f"{name} = {value}{_OURS}\n", text, count=1)
    return text


def _charter(home: Home, given: Path | None, approvals: int, name: str | None) -> str:
    from daulat.catalog.charters import starter

    if given is not None:
        return text_of(given)
    if home.charter.exists() and name is not None:
        raise ConfigError(
            "has the log's name already, which never changes: leave --name out", location=str(home.charter)
        )
    return into_production(text_of(home.charter) if home.charter.exists() else starter(name), approvals)


def _origin(home: Home, name: str) -> tuple[str, bool]:
    """The origin that the next start writes to, and whether there is no log yet."""
    from daulat.cli.before import published

    if origin := published(home):
        if origin.rpartition("/")[0] != name:
            raise ConfigError(f"the log here is {origin}, the charter is for {name!r}: a log's name never changes")
        return origin, False
    period = load(home, {}).log_period if home.path.exists() else ""
    return f"{name}/{period or time.strftime('%Y')}", True


def _rules(home: Home) -> str:
    from daulat.policy.bundle import load as load_rules

    return load_rules(home.policies).version


def _models(home: Home, named: tuple[str, ...], *, fresh: bool) -> list[str]:
    from daulat.adapters.models import ModelStore
    from daulat.catalog.starter import STARTER

    if not named:
        return [STARTER.sha256] if fresh else []
    return [ModelStore(home.models).find(model).digest for model in named]


def _asked() -> list[tuple[str, str, str]]:
    """The operators, one after the other, from whoever types."""
    count = click.prompt("How many operators are in the room", type=click.IntRange(2), err=True)
    return [
        (
            click.prompt(f"Operator {number}: name", err=True),
            click.prompt("  citizenship, as you all vouch for it", default="MY", err=True),
            click.prompt("  public key, or a file with it", err=True),
        )
        for number in range(1, count + 1)
    ]


def _read(path: Path) -> Drawn:
    with path.open() as stream:
        return parse(stream.read(LONGEST + 1), str(path))


def _write(path: Path, drawn: Drawn) -> None:
    _text(path, drawn.encode())


def _text(path: Path, text: str) -> None:
    """Whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


def _shown(drawn: Drawn) -> str:
    held = drawn.ceremony
    lines = [f"A key ceremony for the log {held.origin}, begun {when(held.begun)}", "", "The charter:", ""]
    lines += [f"    {line}" for line in drawn.charter.splitlines()]
    lines += ["", f"SHA-256 of the charter  {held.charter}", f"Version of the rules    {held.rules}"]
    lines += [f"A model to be admitted  {model}" for model in held.models]
    lines += ["", "The operators, for whom all of them vouch:", ""]
    for name, seat, signature in zip(drawn.names, held.seats, drawn.signatures, strict=True):
        mark = "signed" if signature is not None else "not signed yet"
        until = when(seat.expires)[:10]
        lines += [f"  {name}, {seat.citizenship} ({seat.assurance}), until {until}: {mark}", f"      {seat.vkey}"]
    return "\n".join(lines)


def _left(drawn: Drawn, path: Path) -> str:
    if missing := drawn.missing():
        return f"Still to sign: {', '.join(missing)}."
    return f"Everybody has signed. Then: daulat init finish {path}"


def _value(drawn: Drawn, path: Path) -> Mapping[str, Any]:
    held = drawn.ceremony
    return {
        "path": str(path),
        "origin": held.origin,
        "charter": held.charter,
        "rules": held.rules,
        "models": list(held.models),
        "operators": list(drawn.names),
        "missing": drawn.missing(),
    }

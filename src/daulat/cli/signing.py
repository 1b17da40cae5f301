"""Signing with an operator's own key: what every verb shares that proposes, approves, or takes part in a ceremony.

The key stays where it is: it is opened here, signs here, and only the signature goes to the service. What is signed is
made here again out of what was shown, so nobody signs bytes that they did not see.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import click

from daulat.adapters import operator_key
from daulat.cli import emit
from daulat.cli.admin import ask
from daulat.cli.status import day
from daulat.core import rotation
from daulat.core.consent import CHARTER, LOG_KEY, MODEL, POLICY, RESTORE, Kind, Proposed
from daulat.core.glass import CAUSES, Broken
from daulat.core.glass import reason as reason_of
from daulat.errors import ConfigError, Conflict, IntegrityError
from daulat.settings import Home

FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, slots=True)
class Emergency:
    """Why an operator breaks the glass, and for how long."""

    cause: str
    words: str
    hours: int


@dataclass(frozen=True, slots=True)
class Signing:
    """Whose key signs, where its passphrase or PIN comes from, and whether to ask before."""

    key: Path
    passphrase: Path | None
    yes: bool
    emergency: Emergency | None = None  # do it now and alone, instead of proposing it

    def confirm(self, shown: str, question: str) -> None:
        """Show what would be signed; raises click.Abort where that is not wished for."""
        if not self.yes:
            click.echo(shown, err=True)
            click.confirm(question, abort=True, err=True)

    def sign(self, data: bytes) -> tuple[str, bytes]:
        """The key's vkey, and its signature.

        Raises:
            ConfigError: the key cannot be opened.
        """
        secret = secret_of(self.passphrase, operator_key.secret_name(self.key))
        with operator_key.opened(self.key, secret) as key:
            return key.vkey, key.sign_bytes(data)


def signing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of whoever signs, handed to the verb as `signing`."""

    @wraps(command)
    def called(*args: Any, key: Path, passphrase_file: Path | None, yes: bool, **params: Any) -> Any:
        return command(*args, signing=Signing(key, passphrase_file, yes), **params)

    found: Callable[..., Any] = called
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask before signing."),
        click.option("--passphrase-file", type=FILE, help="Read passphrase or PIN from its first line, for scripts."),
        click.option("--key", type=FILE, required=True, help="Your key's file."),
    ):
        found = option(found)
    return found


def emergency_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """For what may be done by breaking glass (`core.glass.BREAKABLE`). Below `signing_options`."""

    @wraps(command)
    def called(
        *args: Any, signing: Signing, break_glass: str | None, reason: str | None, hours: int, **params: Any
    ) -> Any:
        if (break_glass is None) != (reason is None):
            raise click.UsageError("--break-glass and --reason belong together")
        urgent = None if break_glass is None or reason is None else Emergency(break_glass, reason, hours)
        return command(*args, signing=replace(signing, emergency=urgent), **params)

    found: Callable[..., Any] = called
    for option in (
        click.option("--hours", default=1, show_default=True, help="With --break-glass: for how long, at most 24."),
        click.option("--reason", help="With --break-glass: why, in words that the others will read."),
        click.option("--break-glass", type=click.Choice(CAUSES), help="Do it now and alone. Everybody is told."),
    ):
        found = option(found)
    return found


def secret_of(path: Path | None, name: str = "Passphrase", *, confirm: bool = False) -> str:
    """A passphrase or PIN: from the first line of a file, else from a prompt. Never from the command line.

    Raises:
        ConfigError: the file cannot be read.
    """
    if path is None:
        said: str = click.prompt(name, hide_input=True, confirmation_prompt=confirm, err=True)
        return said
    try:
        with path.open() as stream:
            return stream.readline().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the {name.lower()} cannot be read: {error}", location=str(path)) from None


def propose(home: Home, action: str, arguments: Mapping[str, Any], signing: Signing, *, as_json: bool) -> None:
    """Have an act drafted by the service, look at it, sign it and send it, and print what came of it.

    Raises:
        IntegrityError: the service drafted something else than what was asked.
        DaulatError: whatever the service refuses.
    """
    if signing.emergency is not None:
        _break_glass(home, action, arguments, signing, signing.emergency, as_json=as_json)
        return
    drafted = ask(home, "consent.draft", action=action, arguments=arguments, days=7)
    if (drafted["action"], arguments_of(drafted)) != (action, dict(arguments)):
        raise IntegrityError("the service drafted something else than what was asked: nothing is signed")
    found = ask(home, "consent.propose", drafted=drafted, **signature("proposal", drafted, signing))
    emit(found, as_json=as_json, text=state_of(found))


def _break_glass(
    home: Home, action: str, arguments: Mapping[str, Any], signing: Signing, why: Emergency, *, as_json: bool
) -> None:
    asked = {"cause": why.cause, "words": why.words}
    drafted = ask(home, "glass.draft", action=action, arguments=arguments, **asked, hours=why.hours)
    said = {name: drafted[name] for name in asked}
    if (drafted["action"], arguments_of(drafted), said) != (action, dict(arguments), asked):
        raise IntegrityError("the service drafted something else than what was asked: nothing is signed")
    broken = broken_of(drafted)
    shown = f"In {broken.made.origin}, NOW AND ALONE ({why.cause}: {json.dumps(why.words)}):\n{act_of(drafted)}"
    signing.confirm(shown, "Everybody will be told, and two others will review it. Break the glass?")
    vkey, signed = signing.sign(broken.statement())
    found = ask(home, "glass.break", drafted=drafted, vkey=vkey, signature=base64.b64encode(signed).decode())
    text = f"Done. Two others review it until {day(found['due'])}: daulat operate review {found['proposal']} --key FILE"
    emit(found, as_json=as_json, text=text)


def broken_of(shown: Mapping[str, Any]) -> Broken:
    """What is signed of broken glass, made again out of what was shown.

    Raises:
        IntegrityError: it can be none.
    """
    broken = Broken(made_of(shown), shown["cause"], reason_of(shown["words"], shown["nonce"]))
    if wrong := list(broken.wrong()):
        raise IntegrityError(f"{'; '.join(wrong)}: nothing is signed")
    return broken


def signature(kind: Kind, shown: Mapping[str, Any], signing: Signing) -> dict[str, str]:
    """Public key and signature over what was shown, as the service takes them.

    Raises:
        IntegrityError: what was shown can be no proposal; Conflict: whom it was about has been erased.
    """
    made = made_of(shown)
    signing.confirm(f"In {made.origin}, until {day(made.expires)}:\n{act_of(shown)}", f"Sign this {kind}?")
    vkey, signed = signing.sign(made.statement(kind))
    return {"vkey": vkey, "signature": base64.b64encode(signed).decode()}


def made_of(shown: Mapping[str, Any]) -> Proposed:
    """What is to be signed, made again out of what was shown.

    Raises:
        IntegrityError: it can be no proposal; Conflict: whom it was about has been erased.
    """
    origin, id_, action, prior = (shown[name] for name in ("origin", "proposal", "action", "prior"))
    made = Proposed.of(origin, id_, action, prior, shown["payload"], shown["expires"])
    if words := made.wrong():
        raise IntegrityError(f"{words}: nothing is signed")
    if not shown["payload"]:
        raise Conflict(f"{id_} is void: whom it was about has been erased. Nothing is signed", code="void")
    return made


def arguments_of(shown: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in a proposal's payload.

    Raises:
        IntegrityError: it has none that such an act takes.
    """
    if shown["action"] in {CHARTER, POLICY, MODEL, RESTORE}:
        return {"digest": shown["payload"].removesuffix("\n")}
    if shown["action"] == LOG_KEY:
        try:
            return dict(zip(("old", "new"), rotation.parse(shown["payload"]), strict=True))
        except ValueError as error:
            raise IntegrityError(f"{error}: nothing is signed") from None
    return dict(json.loads(shown["payload"])["arguments"])


def act_of(shown: Mapping[str, Any]) -> str:
    """What would be done, in ASCII: nothing that a proposer wrote can look like something else on a terminal."""
    if not shown["payload"]:
        return f"{shown['action']}\n  (whom it was about has been erased, and its text with them)"
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in arguments_of(shown).items())
    return "\n".join((shown["action"], *lines))


def state_of(found: Mapping[str, Any]) -> str:
    """Where a proposal stands, for people."""
    if found["state"] == "done":
        return f"{found['proposal']} is done."
    if found["state"] == "over":
        return f"{found['proposal']} is over: nothing was done."
    if found["state"] == "void":
        return f"{found['proposal']} is void: whom it was about has been erased."
    return f"{found['proposal']} needs {found['left']} more: daulat operate approve {found['proposal']} --key FILE"

"""`daulat operator|operate`: operators' own keys, and what several of them have to agree to.

The key stays in its file: it is opened here, signs here, and only the signature goes to the service. What is signed is
made here again out of what was shown, so nobody signs bytes that they did not see.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from daulat.adapters import sealed_key
from daulat.cli import emit
from daulat.cli.admin import ask, table
from daulat.cli.options import home_option, json_option
from daulat.cli.status import day
from daulat.core.consent import CHARTER, MODEL, POLICY, Kind, Proposed
from daulat.errors import ConfigError, IntegrityError
from daulat.settings import Home

_F = TypeVar("_F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)


def _signing(command: _F) -> _F:
    """The options of whoever signs."""
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask before signing."),
        click.option("--passphrase-file", type=_FILE, help="Read the passphrase from its first line, for scripts."),
        click.option("--key", "key_file", type=_FILE, required=True, help="Your key's file."),
    ):
        command = option(command)
    return command


def _passphrase(path: Path | None, *, confirm: bool = False) -> str:
    if path is None:
        said: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
        return said
    try:
        with path.open() as stream:
            return stream.readline().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the passphrase cannot be read: {error}", location=str(path)) from None


@click.group()
def operator() -> None:
    """Make and register operators' keys."""


@operator.command("key")
@click.argument("path", metavar="FILE", type=_FILE)
@click.option("--name", default="operator", show_default=True, help="What the key is called until it is registered.")
@click.option("--passphrase-file", type=_FILE, help="Read the passphrase from its first line, for scripts.")
@json_option
def make_key(path: Path, name: str, passphrase_file: Path | None, as_json: bool) -> None:
    """Make your own key, sealed with a passphrase. Give its public half to whoever adds you.

    \b
    Example:
        daulat operator key ~/operator.key --name aminah
    """
    vkey = sealed_key.create(path, name, _passphrase(passphrase_file, confirm=True))
    text = f"{vkey}\n\nThe key is in {path}. Without its passphrase it is lost: there is no other way to open it."
    emit({"path": str(path), "vkey": vkey}, as_json=as_json, text=text)


@operator.command("vkey")
@click.argument("path", metavar="FILE", type=_FILE)
@json_option
def show_vkey(path: Path, as_json: bool) -> None:
    """Show the public half of a key.

    \b
    Example:
        daulat operator vkey ~/operator.key
    """
    vkey = sealed_key.vkey(path)
    emit({"path": str(path), "vkey": vkey}, as_json=as_json, text=vkey)


@operator.command("first")
@click.argument("path", metavar="FILE", type=_FILE)
@home_option
@json_option
def first(path: Path, home: Home, as_json: bool) -> None:
    """Register the key of the first operator: once, in an evaluation, before others have one.

    \b
    Example:
        daulat operator first ~/operator.key
    """
    found = ask(home, "operator.first", vkey=sealed_key.vkey(path))
    emit(found, as_json=as_json, text=f"{found['name']} signs with {found['vkey']} from now on.")


@operator.command("list")
@home_option
@json_option
def list_operators(home: Home, as_json: bool) -> None:
    """List operators and their keys.

    \b
    Example:
        daulat operator list
    """
    rows = ask(home, "operators")
    columns = ("name", "citizenship", "expires", "revoked", "vkey")
    emit(rows, as_json=as_json, text=table(rows, columns, "No operator has a key. Begin: daulat operator first FILE"))


@click.group()
def operate() -> None:
    """Propose and approve what one operator may not do alone."""


@operate.command("add-operator")
@click.argument("name")
@click.option("--vkey", required=True, help="The public half of their key: `daulat operator vkey`.")
@click.option("--citizenship", required=True, help="ISO 3166-1 alpha-2, as you vouch for it.")
@click.option("--assurance", default="high", show_default=True, help="How well that is known: low|substantial|high.")
@click.option("--days", default=365, show_default=True, help="How long the vouching is good for.")
@_signing
@home_option
@json_option
def add_operator(
    name: str,
    vkey: str,
    citizenship: str,
    assurance: str,
    days: int,
    key_file: Path,
    passphrase_file: Path | None,
    yes: bool,
    home: Home,
    as_json: bool,
) -> None:
    """Propose another operator.

    \b
    Example:
        daulat operate add-operator bina --vkey "$VKEY" --citizenship MY --key ~/operator.key
    """
    arguments = {"name": name, "vkey": vkey, "citizenship": citizenship, "assurance": assurance, "days": days}
    _propose(home, "operator.add", arguments, (key_file, passphrase_file, yes), as_json=as_json)


@operate.command("revoke-operator")
@click.argument("name")
@click.option("--reason", required=True, help="Why. It stays in this installation.")
@_signing
@home_option
@json_option
def revoke_operator(
    name: str, reason: str, key_file: Path, passphrase_file: Path | None, yes: bool, home: Home, as_json: bool
) -> None:
    """Propose that an operator's key sign nothing any more.

    \b
    Example:
        daulat operate revoke-operator bina --reason "has left the agency" --key ~/operator.key
    """
    arguments = {"name": name, "reason": reason}
    _propose(home, "operator.revoke", arguments, (key_file, passphrase_file, yes), as_json=as_json)


@operate.command("change-charter")
@_signing
@home_option
@json_option
def change_charter(key_file: Path, passphrase_file: Path | None, yes: bool, home: Home, as_json: bool) -> None:
    """Propose that charter.toml, as it stands, come into force at the next start.

    \b
    Example:
        daulat operate change-charter --key ~/operator.key
    """
    _propose_digest(home, CHARTER, _charter_here(home), (key_file, passphrase_file, yes), as_json=as_json)


@operate.command("change-rules")
@_signing
@home_option
@json_option
def change_rules(key_file: Path, passphrase_file: Path | None, yes: bool, home: Home, as_json: bool) -> None:
    """Propose that the rules, your own in policies/ and those that ship, come into force at the next start.

    \b
    Example:
        daulat operate change-rules --key ~/operator.key
    """
    _propose_digest(home, POLICY, _rules_here(home), (key_file, passphrase_file, yes), as_json=as_json)


@operate.command("admit-model")
@click.argument("model")
@_signing
@home_option
@json_option
def admit_model(model: str, key_file: Path, passphrase_file: Path | None, yes: bool, home: Home, as_json: bool) -> None:
    """Propose that an imported model may be served.

    \b
    Example:
        daulat operate admit-model deepseek-r1-1.5b --key ~/operator.key
    """
    from daulat.adapters.models import ModelStore

    digest = ModelStore(home.models).find(model).digest
    _propose_digest(home, MODEL, digest, (key_file, passphrase_file, yes), as_json=as_json)


@operate.command("erase-person")
@click.argument("person")
@_signing
@home_option
@json_option
def erase_person(
    person: str, key_file: Path, passphrase_file: Path | None, yes: bool, home: Home, as_json: bool
) -> None:
    """Propose that a person's keys be destroyed, and everything here that says who they are. There is no way back.

    \b
    Example:
        daulat operate erase-person aminah --key ~/operator.key
    """
    _propose(home, "person.erase", {"person": person}, (key_file, passphrase_file, yes), as_json=as_json)


@operate.command("erase-tenant")
@click.argument("tenant")
@_signing
@home_option
@json_option
def erase_tenant(
    tenant: str, key_file: Path, passphrase_file: Path | None, yes: bool, home: Home, as_json: bool
) -> None:
    """Propose that a tenant's keys be destroyed, its people's with them. There is no way back.

    \b
    Example:
        daulat operate erase-tenant ministry-of-health --key ~/operator.key
    """
    _propose(home, "tenant.erase", {"tenant": tenant}, (key_file, passphrase_file, yes), as_json=as_json)


@operate.command("approve")
@click.argument("proposal")
@_signing
@home_option
@json_option
def approve(proposal: str, key_file: Path, passphrase_file: Path | None, yes: bool, home: Home, as_json: bool) -> None:
    """Look at a proposal and sign it. With the last approval that is needed, it is done.

    \b
    Example:
        daulat operate approve proposal_0123456789abcdef0123456789abcdef --key ~/operator.key
    """
    shown = ask(home, "consent.show", proposal=proposal)
    _is_here(home, shown)
    signature = _signature("approval", shown, (key_file, passphrase_file, yes))
    found = ask(home, "consent.approve", proposal=shown["proposal"], **signature)
    emit(found, as_json=as_json, text=_words(found))


@operate.command("show")
@click.argument("proposal")
@home_option
@json_option
def show(proposal: str, home: Home, as_json: bool) -> None:
    """Show a proposal: what would be done, who proposed it and who agreed.

    \b
    Example:
        daulat operate show proposal_0123456789abcdef0123456789abcdef
    """
    found = ask(home, "consent.show", proposal=proposal)
    emit(found, as_json=as_json, text=f"{_act(found)}\n{_words(found)}")


@operate.command("list")
@home_option
@json_option
def list_proposals(home: Home, as_json: bool) -> None:
    """List all proposals.

    \b
    Example:
        daulat operate list
    """
    rows = ask(home, "consent.all")
    columns = ("proposal", "action", "state", "proposed_by", "approved_by", "needed", "expires")
    emit(rows, as_json=as_json, text=table(rows, columns, "No proposals."))


_Signer = tuple[Path, Path | None, bool]


def _propose(home: Home, action: str, arguments: Mapping[str, Any], signer: _Signer, *, as_json: bool) -> None:
    drafted = ask(home, "consent.draft", action=action, arguments=arguments, days=7)
    if (drafted["action"], _arguments(drafted)) != (action, dict(arguments)):
        raise IntegrityError("the service drafted something else than what was asked: nothing is signed")
    found = ask(home, "consent.propose", drafted=drafted, **_signature("proposal", drafted, signer))
    emit(found, as_json=as_json, text=_words(found))


def _propose_digest(home: Home, action: str, digest: str, signer: _Signer, *, as_json: bool) -> None:
    _propose(home, action, {"digest": digest}, signer, as_json=as_json)


def _charter_here(home: Home) -> str:
    return hashlib.sha256(home.charter.read_text().encode()).hexdigest()


def _rules_here(home: Home) -> str:
    from daulat.policy.bundle import load

    return load(home.policies).version


def _is_here(home: Home, shown: Mapping[str, Any]) -> None:
    """Whoever approves of a charter or of rules has them before their eyes, and no others.

    Raises:
        IntegrityError: what stands here is something else than what was proposed.
    """
    here = {CHARTER: _charter_here, POLICY: _rules_here}.get(shown["action"])
    if here is not None and here(home) != _arguments(shown)["digest"]:
        what = "charter.toml is" if shown["action"] == CHARTER else "the rules here are"
        raise IntegrityError(f"{what} another than what was proposed: nothing is signed")


def _arguments(shown: Mapping[str, Any]) -> dict[str, Any]:
    if shown["action"] in {CHARTER, POLICY, MODEL}:
        return {"digest": shown["payload"].removesuffix("\n")}
    return dict(json.loads(shown["payload"])["arguments"])


def _signature(kind: Kind, shown: Mapping[str, Any], signer: _Signer) -> dict[str, str]:
    key_file, passphrase_file, yes = signer
    origin, id_, action, prior = (shown[name] for name in ("origin", "proposal", "action", "prior"))
    digest = hashlib.sha256(shown["payload"].encode()).hexdigest()
    made = Proposed(origin, id_, action, prior, digest, shown["expires"])
    if words := made.wrong():
        raise IntegrityError(f"{words}: nothing is signed")
    if not yes:
        click.echo(f"In {made.origin}, until {day(made.expires)}:\n{_act(shown)}", err=True)
        click.confirm(f"Sign this {kind}?", abort=True, err=True)
    key = sealed_key.unseal(key_file, _passphrase(passphrase_file))
    return {"vkey": key.vkey, "signature": base64.b64encode(key.sign_bytes(made.statement(kind))).decode()}


def _act(shown: Mapping[str, Any]) -> str:
    """What would be done, in ASCII: nothing that a proposer wrote can look like something else on a terminal."""
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in _arguments(shown).items())
    return "\n".join((shown["action"], *lines))


def _words(found: Mapping[str, Any]) -> str:
    if found["state"] == "done":
        return f"{found['proposal']} is done."
    if found["state"] == "over":
        return f"{found['proposal']} is over: nothing was done."
    left = found["needed"] - len(found["approved_by"])
    return f"{found['proposal']} needs {left} more: daulat operate approve {found['proposal']} --key FILE"

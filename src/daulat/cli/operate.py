"""`daulat operator|operate`: operators' own keys, and what several of them have to agree to."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from daulat.adapters import operator_key, sealed_key, token_key
from daulat.cli import emit
from daulat.cli.admin import ask, table
from daulat.cli.options import home_option, json_option
from daulat.cli.signing import (
    FILE,
    Signing,
    act_of,
    arguments_of,
    broken_of,
    emergency_options,
    propose,
    secret_of,
    signature,
    signing_options,
    state_of,
)
from daulat.core.consent import CHARTER, LOG_KEY, MODEL, POLICY, RESTORE
from daulat.core.export import ACT as EXPORT
from daulat.core.files import text_of
from daulat.core.glass import VERDICTS
from daulat.errors import IntegrityError, NotFound
from daulat.settings import Home
from daulat.tlog.note import Verifier


@click.group()
def operator() -> None:
    """Make and register operators' keys."""


@operator.command("key")
@click.argument("path", metavar="FILE", type=FILE)
@click.option("--name", default="operator", show_default=True, help="What the key is called until it is registered.")
@click.option("--passphrase-file", type=FILE, help="Read passphrase or PIN from its first line, for scripts.")
@click.option("--pkcs11", "module", metavar="LIBRARY", help="Make it inside a token, through this PKCS#11 library.")
@click.option("--token", help="The token's label, with --pkcs11.")
@json_option
def make_key(
    path: Path, name: str, passphrase_file: Path | None, module: str | None, token: str | None, as_json: bool
) -> None:
    """Make your own key, sealed with a passphrase, or inside a PKCS#11 token. Give its public half to whoever adds you.

    \b
    Example:
        daulat operator key ~/operator.key --name aminah
        daulat operator key ~/operator.key --name aminah --pkcs11 /usr/lib/softhsm/libsofthsm2.so --token aminah
    """
    if (module is None) != (token is None):
        raise click.UsageError("--pkcs11 and --token belong together")
    if module is not None and token is not None:
        vkey = token_key.create(path, name, module, token, secret_of(passphrase_file, "PIN of the token"))
        text = f"{vkey}\n\nThe key is in the token {token!r} and never leaves it; {path} says where."
    else:
        vkey = sealed_key.create(path, name, secret_of(passphrase_file, confirm=True))
        text = f"{vkey}\n\nThe key is in {path}. Without its passphrase it is lost: there is no other way to open it."
    emit({"path": str(path), "vkey": vkey}, as_json=as_json, text=text)


@operator.command("vkey")
@click.argument("path", metavar="FILE", type=FILE)
@json_option
def show_vkey(path: Path, as_json: bool) -> None:
    """Show the public half of a key.

    \b
    Example:
        daulat operator vkey ~/operator.key
    """
    vkey = operator_key.vkey(path)
    emit({"path": str(path), "vkey": vkey}, as_json=as_json, text=vkey)


@operator.command("first")
@click.argument("path", metavar="FILE", type=FILE)
@home_option
@json_option
def first(path: Path, home: Home, as_json: bool) -> None:
    """Register the key of the first operator: once, in an evaluation, before others have one.

    \b
    Example:
        daulat operator first ~/operator.key
    """
    found = ask(home, "operator.first", vkey=operator_key.vkey(path))
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
@signing_options
@home_option
@json_option
def add_operator(
    name: str,
    vkey: str,
    citizenship: str,
    assurance: str,
    days: int,
    signing: Signing,
    home: Home,
    as_json: bool,
) -> None:
    """Propose another operator.

    \b
    Example:
        daulat operate add-operator bina --vkey "$VKEY" --citizenship MY --key ~/operator.key
    """
    arguments = {"name": name, "vkey": vkey, "citizenship": citizenship, "assurance": assurance, "days": days}
    propose(home, "operator.add", arguments, signing, as_json=as_json)


@operate.command("renew-operator")
@click.argument("name")
@click.option("--days", default=365, show_default=True, help="How long from now on the vouching is good for.")
@click.option("--citizenship", help="ISO 3166-1 alpha-2, as you vouch for it.  [default: as it stands]")
@click.option("--assurance", help="How well that is known: low|substantial|high.  [default: as it stands]")
@signing_options
@home_option
@json_option
def renew_operator(
    name: str, days: int, citizenship: str | None, assurance: str | None, signing: Signing, home: Home, as_json: bool
) -> None:
    """Propose that an operator stay for longer, with the key that they have. The others vouch for them again.

    \b
    Example:
        daulat operate renew-operator bina --days 365 --key ~/operator.key
    """
    held = next((row for row in ask(home, "operators") if row["name"] == name and row["revoked"] is None), None)
    if held is None:
        raise NotFound(f"no operator {name!r} has a key here: daulat operator list")
    vouched = {"citizenship": citizenship or held["citizenship"], "assurance": assurance or held["assurance"]}
    propose(home, "operator.renew", {"name": name, **vouched, "days": days}, signing, as_json=as_json)


@operate.command("revoke-operator")
@click.argument("name")
@click.option("--reason", required=True, help="Why. It stays in this installation.")
@signing_options
@home_option
@json_option
def revoke_operator(name: str, reason: str, signing: Signing, home: Home, as_json: bool) -> None:
    """Propose that an operator's key sign nothing any more.

    \b
    Example:
        daulat operate revoke-operator bina --reason "has left the agency" --key ~/operator.key
    """
    arguments = {"name": name, "reason": reason}
    propose(home, "operator.revoke", arguments, signing, as_json=as_json)


@operate.command("change-charter")
@signing_options
@home_option
@json_option
def change_charter(signing: Signing, home: Home, as_json: bool) -> None:
    """Propose that charter.toml, as it stands, come into force at the next start.

    \b
    Example:
        daulat operate change-charter --key ~/operator.key
    """
    propose(home, CHARTER, {"digest": _charter_here(home)}, signing, as_json=as_json)


@operate.command("change-rules")
@signing_options
@emergency_options
@home_option
@json_option
def change_rules(signing: Signing, home: Home, as_json: bool) -> None:
    """Propose that the rules, your own in policies/ and those that ship, come into force at the next start.

    \b
    Example:
        daulat operate change-rules --key ~/operator.key
        daulat operate change-rules --break-glass security --reason "a rule lets strangers in" --key ~/operator.key
    """
    propose(home, POLICY, {"digest": _rules_here(home)}, signing, as_json=as_json)


@operate.command("admit-model")
@click.argument("model")
@signing_options
@emergency_options
@home_option
@json_option
def admit_model(model: str, signing: Signing, home: Home, as_json: bool) -> None:
    """Propose that an imported model may be served.

    \b
    Example:
        daulat operate admit-model deepseek-r1-1.5b --key ~/operator.key
    """
    from daulat.adapters.models import ModelStore

    digest = ModelStore(home.models).find(model).digest
    propose(home, MODEL, {"digest": digest}, signing, as_json=as_json)


@operate.command("restore-backup")
@click.argument("path", metavar="FILE", type=FILE)
@signing_options
@emergency_options
@home_option
@json_option
def restore_backup(path: Path, signing: Signing, home: Home, as_json: bool) -> None:
    """Propose that this backup may be restored over this home, once and until the proposal ends: `daulat restore`.

    \b
    Example:
        daulat operate restore-backup /media/safe/monday.backup --key ~/operator.key
    """
    from daulat.adapters import archive_file

    propose(home, RESTORE, {"digest": archive_file.digest(path)}, signing, as_json=as_json)


@operate.command("rotate-log-key")
@click.argument("vkey")
@signing_options
@home_option
@json_option
def rotate_log_key(vkey: str, signing: Signing, home: Home, as_json: bool) -> None:
    """Propose that the log's next shard begin with the new key VKEY: `daulat log new-key`, `daulat log roll --new-key`.

    \b
    Example:
        daulat operate rotate-log-key "$(daulat log new-key 2027)" --key ~/operator.key
    """
    new = Verifier(vkey)
    old = Verifier(home.vkey.read_text()).renamed(new.name)
    propose(home, LOG_KEY, {"old": old.vkey, "new": new.vkey}, signing, as_json=as_json)


@operate.command("erase-person")
@click.argument("person")
@signing_options
@home_option
@json_option
def erase_person(person: str, signing: Signing, home: Home, as_json: bool) -> None:
    """Propose that a person's keys be destroyed, and everything here that says who they are. There is no way back.

    \b
    Example:
        daulat operate erase-person aminah --key ~/operator.key
    """
    propose(home, "person.erase", {"person": person}, signing, as_json=as_json)


@operate.command("erase-tenant")
@click.argument("tenant")
@signing_options
@home_option
@json_option
def erase_tenant(tenant: str, signing: Signing, home: Home, as_json: bool) -> None:
    """Propose that a tenant's keys be destroyed, its people's with them. There is no way back.

    \b
    Example:
        daulat operate erase-tenant ministry-of-health --key ~/operator.key
    """
    propose(home, "tenant.erase", {"tenant": tenant}, signing, as_json=as_json)


@operate.command("export-person")
@click.argument("person")
@signing_options
@home_option
@json_option
def export_person(person: str, signing: Signing, home: Home, as_json: bool) -> None:
    """Propose that everything held about a person be given out, once. Then: daulat pdpa access PERSON -o FILE.

    \b
    Example:
        daulat operate export-person aminah --key ~/operator.key
    """
    propose(home, EXPORT, {"person": person}, signing, as_json=as_json)


@operate.command("approve")
@click.argument("proposal")
@signing_options
@home_option
@json_option
def approve(proposal: str, signing: Signing, home: Home, as_json: bool) -> None:
    """Look at a proposal and sign it. With the last approval that is needed, it is done.

    \b
    Example:
        daulat operate approve proposal_0123456789abcdef0123456789abcdef --key ~/operator.key
    """
    shown = ask(home, "consent.show", proposal=proposal)
    _is_here(home, shown)
    found = ask(home, "consent.approve", proposal=shown["proposal"], **signature("approval", shown, signing))
    emit(found, as_json=as_json, text=state_of(found))


@operate.command("review")
@click.argument("proposal")
@click.option("--verdict", type=click.Choice(VERDICTS), required=True, help="Whether it had to be done so.")
@signing_options
@home_option
@json_option
def review(proposal: str, verdict: str, signing: Signing, home: Home, as_json: bool) -> None:
    """Look at what another operator did by breaking glass, and sign what you think of it. Two close the review.

    \b
    Example:
        daulat operate review proposal_0123456789abcdef0123456789abcdef --verdict justified --key ~/operator.key
    """
    shown = ask(home, "glass.show", proposal=proposal)
    broken = broken_of(shown)
    why = f"{shown['by']} did this alone ({shown['cause']}: {json.dumps(shown['words'])}):\n{act_of(shown)}"
    signing.confirm(why, f"Sign that this was {verdict}?")
    vkey, signed = signing.sign(broken.review(verdict))
    given = {"verdict": verdict, "vkey": vkey, "signature": base64.b64encode(signed).decode()}
    found = ask(home, "glass.review", proposal=shown["proposal"], **given)
    emit(found, as_json=as_json, text=f"The review of {found['proposal']} is {found['state']}.")


@operate.command("reviews")
@home_option
@json_option
def reviews(home: Home, as_json: bool) -> None:
    """List what was done by breaking glass, and how its reviews stand.

    \b
    Example:
        daulat operate reviews
    """
    rows = ask(home, "glass.all")
    columns = ("proposal", "action", "cause", "by", "state", "expires")
    emit(rows, as_json=as_json, text=table(rows, columns, "No glass was ever broken."))


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
    emit(found, as_json=as_json, text=f"{act_of(found)}\n{state_of(found)}")


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


def _charter_here(home: Home) -> str:
    return hashlib.sha256(text_of(home.charter).encode()).hexdigest()


def _rules_here(home: Home) -> str:
    from daulat.policy.bundle import load

    return load(home.policies).version


def _is_here(home: Home, shown: Mapping[str, Any]) -> None:
    """Whoever approves of a charter or of rules has them before their eyes, and no others.

    Raises:
        IntegrityError: what stands here is something else than what was proposed.
    """
    here = {CHARTER: _charter_here, POLICY: _rules_here}.get(shown["action"])
    if here is not None and here(home) != arguments_of(shown)["digest"]:
        what = "charter.toml is" if shown["action"] == CHARTER else "the rules here are"
        raise IntegrityError(f"{what} another than what was proposed: nothing is signed")

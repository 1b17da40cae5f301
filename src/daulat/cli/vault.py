"""`daulat vault`: whether anything can be kept, and new keys for old ones."""

from __future__ import annotations

import click

from daulat.cli import emit
from daulat.cli.admin import ask
from daulat.cli.options import home_option, json_option
from daulat.cli.status import day
from daulat.settings import Home


@click.group()
def vault() -> None:
    """See whether files and completions can be kept, and rotate the keys they are sealed under."""


@vault.command("status")
@home_option
@json_option
def status(home: Home, as_json: bool) -> None:
    """Say whether the vault is open, and under which lease the place of its objects is written to.

    \b
    Example:
        daulat vault status
    """
    found = ask(home, "vault.status")
    lease = found["lease"]
    under = "" if lease is None else f" The place is leased by entry {lease['entry']}, until {day(lease['expires'])}."
    said = f"Nothing can be kept: {found['reason']}." if found["reason"] else "Open."
    emit(found, as_json=as_json, text=f"{said}{under}")


@vault.command("rotate")
@click.option("--tenant", default="", help="Name or id: that tenant's key instead of the root's.")
@home_option
@json_option
def rotate(tenant: str, home: Home, as_json: bool) -> None:
    """Make a new key, wrap again what stood under the old one, and destroy that. Objects stay as they are.

    \b
    Examples:
        daulat vault rotate
        daulat vault rotate --tenant first-agency
    """
    found = ask(home, "vault.rotate", tenant=tenant)
    text = f"The {found['rotated']}'s key is a new one; version {found['root']} of the root is in use."
    emit(found, as_json=as_json, text=text)

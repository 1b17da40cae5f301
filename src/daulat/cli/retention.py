"""`daulat retention`: how long what a tenant's people keep here is kept."""

from __future__ import annotations

import click

from daulat.cli import emit
from daulat.cli.admin import ask, table
from daulat.cli.options import home_option, json_option
from daulat.cli.signing import Signing, propose, signing_options
from daulat.core.retention import FIELDS, LONGEST_DAYS, SET
from daulat.settings import Home

_FOREVER = "none"


def _days(_ctx: click.Context, _param: click.Parameter, said: str) -> int | None:
    if said == _FOREVER:
        return None
    if said.isascii() and said.isdigit() and 0 < int(said) <= LONGEST_DAYS:
        return int(said)
    raise click.BadParameter(f"{said!r} is neither {_FOREVER!r} nor a number of days from 1 to {LONGEST_DAYS}")


@click.group()
def retention() -> None:
    """Say how long a tenant's files and stored completions are kept."""


@retention.command("set")
@click.argument("tenant")
@click.option("--files", callback=_days, required=True, help="Days from their upload, or none: until they are deleted.")
@click.option("--completions", callback=_days, required=True, help="Days from the answer, or none: until deleted.")
@signing_options
@home_option
@json_option
def set_(tenant: str, files: int | None, completions: int | None, signing: Signing, home: Home, as_json: bool) -> None:
    """Propose for how many days a tenant's objects are kept. Those that are older are deleted, and counted in the log.

    \b
    Example:
        daulat retention set first-agency --files 90 --completions none --key ~/operator.key
    """
    arguments = {"tenant": tenant, "files": files, "completions": completions}
    propose(home, SET, arguments, signing, as_json=as_json)


@retention.command("list")
@home_option
@json_option
def list_(home: Home, as_json: bool) -> None:
    """List how long each tenant's objects are kept.

    \b
    Example:
        daulat retention list
    """
    rows = ask(home, "retention.rules")
    fields = tuple(FIELDS.values())
    shown = [
        {**row, **{name: "until deleted" if row[name] is None else f"{row[name]} days" for name in fields}}
        for row in rows
    ]
    emit(rows, as_json=as_json, text=table(shown, ("name", *fields), "There are no tenants."))

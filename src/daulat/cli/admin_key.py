"""`daulat admin-key`: credentials for the admin API, which is for operators and for administrators of tenants."""

from __future__ import annotations

from pathlib import Path

import click

from daulat.cli import emit
from daulat.cli.admin import ask, named, show_once, table
from daulat.cli.options import home_option, json_option
from daulat.settings import Home


@click.group()
def admin_key() -> None:
    """Create, list and revoke credentials for the admin API."""


@admin_key.command("create")
@click.option("--person", required=True, help="Name or id of the operator or tenant's administrator who will hold it.")
@click.option("--label", default="admin key", show_default=True, help="What it is for.")
@click.option("--days", default=30, show_default=True, help="How long it is valid, at most 90.")
@click.option("--file", "path", type=click.Path(path_type=Path, dir_okay=False), help="Write it there, for its holder.")
@home_option
@json_option
def create(home: Home, person: str, label: str, days: int, path: Path | None, as_json: bool) -> None:
    """Create a credential for the admin API. It is shown once and stored as a hash only; it asks no model.

    \b
    Example:
        daulat admin-key create --person first-operator --days 7
    """
    found = ask(home, "adminkey.create", person=person, label=label, days=days)
    show_once(found, "admin_key", path, as_json=as_json)


@admin_key.command("list")
@home_option
@json_option
def list_all(home: Home, as_json: bool) -> None:
    """List all credentials for the admin API, without their secrets.

    \b
    Example:
        daulat admin-key list
    """
    rows = named(home, ask(home, "adminkey.list"), "person", "people")
    columns = ("id", "label", "person_name", "expires", "revoked")
    empty = "No admin keys. Make one: daulat admin-key create --person NAME"
    emit(rows, as_json=as_json, text=table(rows, columns, empty))


@admin_key.command("revoke")
@click.argument("wanted", metavar="KEY")
@home_option
@json_option
def revoke(wanted: str, home: Home, as_json: bool) -> None:
    """Revoke a credential for the admin API by its id or label, at once and for good.

    \b
    Example:
        daulat admin-key revoke laptop
    """
    found = ask(home, "adminkey.revoke", wanted=wanted)
    emit(found, as_json=as_json, text=f"{found['id']} ({found['label']}) is revoked.")

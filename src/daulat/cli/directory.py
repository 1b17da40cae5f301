"""`daulat directory`: credentials with which tenants' own directories say who their people are (SCIM 2.0)."""

from __future__ import annotations

from pathlib import Path

import click

from daulat.cli import emit
from daulat.cli.admin import ask, named, show_once, table
from daulat.cli.options import home_option, json_option
from daulat.settings import Home


@click.group()
def directory() -> None:
    """Create, list and revoke the credentials of tenants' directories."""


@directory.command("create")
@click.option("--tenant", required=True, help="Name or id of the agency or company whose people it has.")
@click.option("--provider", default="", help="Of signin.toml: its sign-ins know people by this directory's externalId.")
@click.option("--label", default="directory", show_default=True, help="What it is for.")
@click.option("--days", default=365, show_default=True, help="How long the token is valid.")
@click.option("--person-days", default=365, show_default=True, help="How long whoever it brings stays, at most.")
@click.option("--file", "path", type=click.Path(path_type=Path, dir_okay=False), help="Write the token there.")
@home_option
@json_option
def create(
    home: Home,
    tenant: str,
    provider: str,
    label: str,
    days: int,
    person_days: int,
    path: Path | None,
    as_json: bool,
) -> None:
    """Create a token for SCIM and nothing else. It is shown once and stored as a hash only.

    \b
    Example:
        daulat directory create --tenant first-agency --label keycloak
    """
    asked = {"tenant": tenant, "provider": provider, "label": label, "days": days, "person_days": person_days}
    found = ask(home, "directory.create", **asked)
    show_once(found, "directory_token", path, as_json=as_json)


@directory.command("list")
@home_option
@json_option
def list_all(home: Home, as_json: bool) -> None:
    """List all directories, without their tokens.

    \b
    Example:
        daulat directory list
    """
    rows = named(home, ask(home, "directory.list"), "tenant", "tenants")
    columns = ("id", "label", "tenant_name", "issuer", "expires", "revoked")
    empty = "No directories. Make one: daulat directory create --tenant NAME"
    emit(rows, as_json=as_json, text=table(rows, columns, empty))


@directory.command("revoke")
@click.argument("wanted", metavar="DIRECTORY")
@home_option
@json_option
def revoke(wanted: str, home: Home, as_json: bool) -> None:
    """Revoke a directory's token by its id or label, at once and for good. The people whom it brought stay.

    \b
    Example:
        daulat directory revoke keycloak
    """
    found = ask(home, "directory.revoke", wanted=wanted)
    emit(found, as_json=as_json, text=f"{found['id']} ({found['label']}) is revoked.")

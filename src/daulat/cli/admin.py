"""`daulat key|person|tenant|auditor`: who may use and who may audit the running service.

Each change goes through the control plane, leaves an `operator.action/v1` entry in the log, and is in force when the
command returns: within a second in every worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from daulat.adapters import rpc
from daulat.cli import emit
from daulat.cli.options import home_option, json_option, limit_options
from daulat.cli.status import day
from daulat.errors import Unavailable
from daulat.settings import Home


def ask(home: Home, method: str, **params: Any) -> Any:
    """Ask the running service; raises Unavailable when there is none, and whatever the service raised."""
    try:
        return rpc.call(home.control_socket, method, **params)
    except Unavailable as error:
        raise Unavailable(f"no service answers in {home.path} ({error.message}): start it with `daulat up`") from None


def named(home: Home, rows: list[dict[str, Any]], column: str, table: str) -> list[dict[str, Any]]:
    """The rows, with `<column>_name` beside the id that stands in `column`."""
    names = {row["id"]: row["name"] for row in ask(home, "list", table=table)}
    return [{**row, f"{column}_name": names.get(row[column], "")} for row in rows]


def table(rows: list[dict[str, Any]], columns: tuple[str, ...], empty: str) -> str:
    """Rows for people; `empty` where there are none."""
    if not rows:
        return empty
    titles = [column.removesuffix("_name").replace("_", " ") for column in columns]
    lines = [titles, *([_cell(row, column) for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def show_once(made: Mapping[str, Any], secret: str, path: Path | None, *, as_json: bool) -> None:
    """A credential that was made: its `secret` is a field of it, written to `path` instead where one is given."""
    if path is not None:
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(f"{made[secret]}\n")
        made = {**made, secret: None, "path": str(path)}
    text = f"{made[secret] or path}\n\nShown once. {made['id']} ({made['label']}), until {day(made['expires'])}."
    emit(made, as_json=as_json, text=text)


def _cell(row: dict[str, Any], column: str) -> str:
    value = row[column]
    if value is None:
        return ""
    if column in {"expires", "revoked", "created", "until"}:
        return day(value or None)
    return ", ".join(value) if isinstance(value, list) else str(value)


@click.group()
def key() -> None:
    """Create, list and revoke API keys."""


@key.command("create")
@click.option("--person", required=True, help="Name or id of the person who will hold it.")
@click.option("--label", default="key", show_default=True, help="What it is for.")
@click.option("--model", "models", multiple=True, help="Only this model; may be given again (default: all).")
@click.option(
    "--network", "networks", multiple=True, help="Only from this CIDR; may be given again (default: anywhere)."
)
@click.option("--days", default=90, show_default=True, help="How long it is valid, within the person's own time.")
@limit_options
@home_option
@json_option
def create_key(
    home: Home,
    person: str,
    label: str,
    models: tuple[str, ...],
    networks: tuple[str, ...],
    days: int,
    as_json: bool,
    **limits: Any,
) -> None:
    """Create an API key for a person. It is shown once and stored as a hash only.

    \b
    Example:
        daulat key create --person first-person --label laptop --days 30
    """
    given = {name: value for name, value in limits.items() if value is not None}
    rpm = given.pop("requests_per_minute", 0)
    asked = {"person": person, "label": label, "models": list(models), "requests_per_minute": rpm, "days": days}
    found = ask(home, "key.create", **asked, networks=list(networks), limits=given)
    text = f"{found['api_key']}\n\nShown once. Key {found['id']} ({found['label']}), until {day(found['expires'])}."
    emit(found, as_json=as_json, text=text)


@key.command("list")
@home_option
@json_option
def list_keys(home: Home, as_json: bool) -> None:
    """List all keys, without their secrets.

    \b
    Example:
        daulat key list
    """
    rows = named(home, ask(home, "list", table="keys"), "person", "people")
    columns = ("id", "label", "person_name", "models", "requests_per_minute", "networks", "expires", "revoked")
    emit(rows, as_json=as_json, text=table(rows, columns, "No keys. Make one: daulat key create --person NAME"))


@key.command("revoke")
@click.argument("wanted", metavar="KEY")
@home_option
@json_option
def revoke_key(wanted: str, home: Home, as_json: bool) -> None:
    """Revoke a key by its id or label, for good. Its running answers are cut within a second.

    \b
    Example:
        daulat key revoke laptop
    """
    found = ask(home, "key.revoke", wanted=wanted)
    emit(found, as_json=as_json, text=f"Key {found['id']} ({found['label']}) is revoked.")


@click.group()
def person() -> None:
    """Add, invite and list people."""


@person.command("add")
@click.argument("name")
@click.option("--tenant", required=True, help="Name or id of the agency or company.")
@click.option("--citizenship", default="", help="ISO 3166-1 alpha-2, such as MY; leave it out when none is vouched.")
@click.option("--assurance", default="low", show_default=True, help="How well that is known: low|substantial|high.")
@click.option("--role", "roles", multiple=True, default=("user",), show_default=True, help="May be given again.")
@click.option("--days", default=365, show_default=True, help="How long the vouching is good for.")
@click.option("--citizenship-days", default=0, help="How long it is for the citizenship, where that is shorter.")
@home_option
@json_option
def add_person(
    name: str,
    tenant: str,
    citizenship: str,
    assurance: str,
    roles: tuple[str, ...],
    days: int,
    citizenship_days: int,
    home: Home,
    as_json: bool,
) -> None:
    """Add a person and vouch for what is known of them. The log gets a pseudonym and the attributes, not the name.

    \b
    Example:
        daulat person add aminah --tenant first-agency --citizenship MY --assurance substantial
    """
    attributes = {"citizenship": citizenship, "assurance": assurance, "roles": list(roles)}
    found = ask(
        home, "person.add", name=name, tenant=tenant, days=days, citizenship_days=citizenship_days, **attributes
    )
    text = f"{found['name']} ({found['id']}) is in {found['tenant']} until {day(found['expires'])}."
    emit(found, as_json=as_json, text=f"{text}\nGive them a key: daulat key create --person {found['name']}")


@person.command("list")
@home_option
@json_option
def list_people(home: Home, as_json: bool) -> None:
    """List all people with what is vouched for them.

    \b
    Example:
        daulat person list
    """
    rows = named(home, ask(home, "list", table="people"), "tenant", "tenants")
    columns = ("id", "name", "tenant_name", "citizenship", "issuer", "until", "assurance", "roles", "expires")
    emit(rows, as_json=as_json, text=table(rows, columns, "No people. Add one: daulat person add NAME --tenant T"))


@click.group()
def tenant() -> None:
    """Add and list tenants."""


@tenant.command("add")
@click.argument("name")
@home_option
@json_option
def add_tenant(name: str, home: Home, as_json: bool) -> None:
    """Add an agency or company. It gets an epoch key of its own: pseudonyms of two tenants cannot be linked.

    \b
    Example:
        daulat tenant add ministry-of-health
    """
    found = ask(home, "tenant.add", name=name)
    emit(found, as_json=as_json, text=f"{found['name']} ({found['id']}). Next: daulat person add NAME --tenant {name}")


@tenant.command("list")
@home_option
@json_option
def list_tenants(home: Home, as_json: bool) -> None:
    """List all tenants.

    \b
    Example:
        daulat tenant list
    """
    rows = ask(home, "list", table="tenants")
    emit(rows, as_json=as_json, text=table(rows, ("id", "name"), "No tenants. Add one: daulat tenant add NAME"))


@click.group()
def auditor() -> None:
    """Create, list and revoke auditors' tokens."""


@auditor.command("create")
@click.argument("name")
@click.option("--days", default=365, show_default=True)
@home_option
@json_option
def create_auditor(name: str, days: int, home: Home, as_json: bool) -> None:
    """Create a token that reads the whole log, and nothing else. It is shown once.

    \b
    Example:
        daulat auditor create national-audit --days 30
    """
    found = ask(home, "auditor.create", name=name, days=days)
    text = f"{found['auditor_token']}\n\nShown once. Auditor {found['id']} ({name}), until {day(found['expires'])}."
    emit(found, as_json=as_json, text=text)


@auditor.command("list")
@home_option
@json_option
def list_auditors(home: Home, as_json: bool) -> None:
    """List all auditors, without their tokens.

    \b
    Example:
        daulat auditor list
    """
    rows = ask(home, "list", table="auditors")
    emit(rows, as_json=as_json, text=table(rows, ("id", "name", "expires", "revoked"), "No auditors."))


@auditor.command("revoke")
@click.argument("wanted", metavar="AUDITOR")
@home_option
@json_option
def revoke_auditor(wanted: str, home: Home, as_json: bool) -> None:
    """Revoke an auditor's token by its id or the auditor's name.

    \b
    Example:
        daulat auditor revoke national-audit
    """
    found = ask(home, "auditor.revoke", wanted=wanted)
    emit(found, as_json=as_json, text=f"Auditor {found['id']} ({found['name']}) is revoked.")

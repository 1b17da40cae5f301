"""`daulat limit`: what keys, tenants and models may use, and who comes first where the engines are full.

Each change leaves an `operator.action/v1` entry in the log and is in force when the command returns, in every worker.
"""

from __future__ import annotations

from typing import Any, Final

import click

from daulat.cli import emit
from daulat.cli.admin import ask, table
from daulat.cli.options import home_option, json_option, limit_options
from daulat.core.quota import SCOPES
from daulat.settings import Home

_SHOWN: Final = (
    "requests_per_minute",
    "tokens_per_minute",
    "requests_per_day",
    "tokens_per_day",
    "streams",
    "budget",
    "weight",
    "priority",
)
_SCOPE: Final = click.Choice(SCOPES)


@click.group()
def limit() -> None:
    """Limit what keys, tenants and models may use."""


@limit.command("set")
@click.argument("scope", type=_SCOPE)
@click.argument("name")
@limit_options
@click.option("--weight", type=int, help="A tenant's share of full engines against others': 1 to 1000 (at first 1).")
@home_option
@json_option
def set_limit(scope: str, name: str, home: Home, as_json: bool, **given: Any) -> None:
    """Limit a key (id or label), a tenant (id or name) or a model. What is not given stays as it is; 0 is unlimited.

    \b
    Example:
        daulat limit set tenant first-agency --tpm 60000 --streams 8 --weight 2
    """
    values = {option: value for option, value in given.items() if value is not None}
    if not values:
        raise click.UsageError("say what to limit, such as --rpm 60")
    found = ask(home, "limit.set", scope=scope, name=name, given=values)
    said = ", ".join(f"{option.replace('_', ' ')} {found[option]}" for option in _SHOWN if option in found)
    emit(found, as_json=as_json, text=f"The {scope} {name}: {said or 'no limit'}.")


@limit.command("list")
@home_option
@json_option
def list_limits(home: Home, as_json: bool) -> None:
    """List all limits, and behind each how much of it is spent, or lent to a worker, now.

    \b
    Example:
        daulat limit list
    """
    rows = ask(home, "limit.list")
    columns = ("scope", "name", *(name for name in _SHOWN if any(name in row for row in rows)))
    shown = [{column: _cell(row, column) for column in columns} for row in rows]
    emit(rows, as_json=as_json, text=table(shown, columns, "No limits. Set one: daulat limit set tenant NAME --rpm 60"))


@limit.command("remove")
@click.argument("scope", type=_SCOPE)
@click.argument("name")
@home_option
@json_option
def remove_limit(scope: str, name: str, home: Home, as_json: bool) -> None:
    """Take away all limits of a key, tenant or model, its weight and its priority.

    \b
    Example:
        daulat limit remove tenant first-agency
    """
    found = ask(home, "limit.remove", scope=scope, name=name)
    emit(found, as_json=as_json, text=f"The {scope} {name} has no limit any more.")


def _cell(row: dict[str, Any], column: str) -> str:
    if column not in row:
        return "-"
    used = row["used"].get(column)
    return str(row[column]) if used is None else f"{row[column]} ({used})"

"""`daulat person invite` and `daulat session`: people who prove who they are, and what they have open."""

from __future__ import annotations

from typing import Any

import click

from daulat.cli import emit
from daulat.cli.admin import ask, person, table
from daulat.cli.options import home_option, json_option
from daulat.cli.status import day
from daulat.settings import Home


@person.command("invite")
@click.argument("wanted", metavar="PERSON")
@click.option("--days", default=7, show_default=True, help="How long the invitation is good, at most 30.")
@home_option
@json_option
def invite(wanted: str, days: int, home: Home, as_json: bool) -> None:
    """Let a person who was added sign in for the first time. The address is shown once, and good once.

    \b
    Example:
        daulat person invite aminah
    """
    url = ask(home, "status")["url"]
    found = ask(home, "person.invite", person=wanted, days=days)
    address = f"{url}/signin?invite={found['invitation']}"
    text = (
        f"{address}\n\nShown once. For {found['name']}, until {day(found['expires'])}: whoever opens it becomes them."
    )
    emit({**found, "address": address}, as_json=as_json, text=text)


@person.command("correct")
@click.argument("wanted", metavar="PERSON")
@click.option("--name", help="What they are called.")
@click.option("--citizenship", help="ISO 3166-1 alpha-2, or empty when none is vouched.")
@click.option("--assurance", help="How well that is known: low|substantial|high.")
@click.option("--role", "roles", multiple=True, help="Instead of the roles that they have; may be given again.")
@click.option("--days", type=int, help="How long the vouching is good for, from now.")
@home_option
@json_option
def correct(wanted: str, home: Home, as_json: bool, roles: tuple[str, ...], **said: Any) -> None:
    """Put right what is held about a person. The log gets the attributes, and of a name that it changed.

    \b
    Example:
        daulat person correct aminah --assurance high
    """
    changes = {name: value for name, value in {**said, "roles": list(roles) or None}.items() if value is not None}
    found = ask(home, "person.correct", person=wanted, changes=changes)
    emit(found, as_json=as_json, text=f"{found['name']}: {', '.join(found['changed'])} put right.")


@click.group()
def session() -> None:
    """List and revoke the sessions of people who have signed in."""


@session.command("list")
@home_option
@json_option
def list_sessions(home: Home, as_json: bool) -> None:
    """List the sessions that are good.

    \b
    Example:
        daulat session list
    """
    rows = ask(home, "session.list")
    emit(rows, as_json=as_json, text=table(rows, ("id", "person", "issuer", "created", "expires"), "No sessions."))


@session.command("revoke")
@click.argument("wanted", metavar="SESSION|PERSON")
@home_option
@json_option
def revoke_session(wanted: str, home: Home, as_json: bool) -> None:
    """End one session by its id, or all of a person's. It is over at once.

    \b
    Example:
        daulat session revoke aminah
    """
    found = ask(home, "session.revoke", wanted=wanted)
    emit(found, as_json=as_json, text=f"{found['revoked']} over.")

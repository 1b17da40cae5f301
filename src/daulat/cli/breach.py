"""`daulat breach`: the clocks of a personal data breach, and its notice as far as the log can write it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from daulat.cli import emit
from daulat.cli.admin import ask, table
from daulat.cli.options import home_option, json_option
from daulat.errors import InvalidRequest
from daulat.pipeline import breach as breaches
from daulat.processes.breaches import notice as assembled
from daulat.processes.breaches import stands
from daulat.settings import Home

_MOMENT = "a time with its zone, such as 2026-06-01T09:30+08:00, or now"


@click.group()
def breach() -> None:
    """Keep the clocks of a personal data breach, and assemble its notice from the log."""


@breach.command("open")
@click.option("--learned", default="now", show_default=True, help=f"When you had reason to believe in it: {_MOMENT}.")
@click.option("--from", "begins", required=True, help="When it began.")
@click.option("--to", "ends", default="now", show_default=True, help="When it was over.")
@click.option("--tenant", default="", help="Only this tenant's requests are concerned (name or id).")
@click.option("--key", default="", help="Only those made with this API key (label or id).")
@click.option("--replica", default="", help="Only those that this replica answered (id).")
@home_option
@json_option
def open_(home: Home, learned: str, begins: str, ends: str, tenant: str, key: str, replica: str, as_json: bool) -> None:
    """Begin the clocks: the Commissioner within 72 hours, then the people within 7 days.

    The log gets the times and the scope, and no word of what happened: that you write yourself.

    \b
    Example:
        daulat breach open --from 2026-06-01T09:30+08:00 --key first-key
    """
    times = {"learned": moment(learned), "begins": moment(begins), "ends": moment(ends)}
    found = ask(home, "breach.open", **times, tenant=tenant, key=key, replica=replica)
    text = f"{found['id']}: tell the Commissioner by {_utc(found['deadlines']['commissioner'])}.\n"
    emit(found, as_json=as_json, text=f"{text}The notice, as far as the log has it: daulat breach notice {found['id']}")


@breach.command("list")
@home_option
@json_option
def list_(home: Home, as_json: bool) -> None:
    """List all breaches with their deadlines. Exits with 1 when somebody should have been told and was not.

    \b
    Example:
        daulat breach list
    """
    now = round(time.time() * 1000)
    rows = []
    for case in breaches.cases(stands(home)).values():
        ends = case.deadlines()
        state = "open" if case.closed is None else "closed"
        told = {who: _told(case, who, ends[who]) for who in breaches.TOLD}
        rows.append({"id": case.id, "state": state, **told, "deadlines": ends, "overdue": case.overdue(now)})
    emit(rows, as_json=as_json, text=table(rows, ("id", "state", *breaches.TOLD), "No breaches."))
    if any(row["overdue"] for row in rows):
        raise SystemExit(1)


@breach.command("notice")
@click.argument("wanted", metavar="BREACH")
@home_option
@json_option
def notice(wanted: str, home: Home, as_json: bool) -> None:
    """Assemble the notice to the Commissioner: whose requests were answered, what was done, which deadlines run.

    What a log cannot know stays blank. The counts are of pseudonyms; `evidence` names the log that anybody can check
    them against.

    \b
    Example:
        daulat breach notice breach_0123456789abcdef01234567 --json
    """
    found = assembled(home, wanted)
    emit(found, as_json=as_json, text="\n".join(_written(found)))


@breach.command("notified")
@click.argument("wanted", metavar="BREACH")
@click.option("--told", type=click.Choice(breaches.TOLD), required=True, help="Who was told.")
@click.option("--at", "at", default="now", show_default=True, help=f"When: {_MOMENT}.")
@home_option
@json_option
def notified(wanted: str, told: str, at: str, home: Home, as_json: bool) -> None:
    """Note in the log that the Commissioner, or the people concerned, were told.

    \b
    Example:
        daulat breach notified breach_0123456789abcdef01234567 --told commissioner
    """
    found = ask(home, "breach.notified", wanted=wanted, told=told, at=moment(at))
    emit(
        found,
        as_json=as_json,
        text=f"{wanted}: the {told} {'were' if told == 'people' else 'was'} told at {_utc(found['at'])}.",
    )


@breach.command("close")
@click.argument("wanted", metavar="BREACH")
@home_option
@json_option
def close(wanted: str, home: Home, as_json: bool) -> None:
    """Close a breach: everybody who must be told was told. Its entries stay; the Guideline wants them for two years.

    \b
    Example:
        daulat breach close breach_0123456789abcdef01234567
    """
    found = ask(home, "breach.close", wanted=wanted)
    emit(found, as_json=as_json, text=f"{wanted} is closed.")


def moment(text: str) -> int:
    """Unix milliseconds.

    Raises:
        InvalidRequest: it is no time, or one without its zone.
    """
    if text == "now":
        return int(time.time() * 1000)  # rounded up it would be in the future
    try:
        said = datetime.fromisoformat(text)
    except ValueError:
        said = None
    if said is None or said.tzinfo is None:
        raise InvalidRequest(f"{text!r} is not {_MOMENT}")
    return round(said.timestamp() * 1000)


def _told(case: breaches.Case, who: str, end: int) -> str:
    return f"told {_utc(case.told[who])}" if who in case.told else f"by {_utc(end)}"


def _utc(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%MZ")


_TIMES = frozenset({"occurred_from", "occurred_to", "learned"})


def _written(found: dict[str, Any]) -> Iterator[str]:
    """The notice for people, heading by heading."""
    yield f"Notice of a personal data breach, {found['breach']}"
    for heading in ("data_controller", "breach_details", "data_subjects", "deadlines", "told"):
        yield f"\n{heading.replace('_', ' ').capitalize()}"
        for name, value in found[heading].items():
            is_time = heading in {"deadlines", "told"} or name in _TIMES
            shown = _utc(value) if is_time else _inline(value)
            yield f"  {name.replace('_', ' '):<24} {shown}"
    yield "\nChronology and measures"
    for item in found["chronology_and_measures"]:
        what = ", ".join(str(item[name]) for name in ("action", "outcome", "reason") if name in item)
        yield f"  {_utc(item['time'])}  {item['type']} {what}  ({item['log']}, entry {item['entry']})"
    yield "\nEvidence"
    for origin, head in found["evidence"].items():
        yield f"  {origin}: {head['size']} entries, root {head['root_hash']}"


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {said}" for name, said in value.items()) or "none"
    return str(value)

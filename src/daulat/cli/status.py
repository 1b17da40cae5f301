"""`daulat status`: what runs, and whether it may answer."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import click

from daulat.adapters import rpc
from daulat.cli import emit
from daulat.cli.options import home_option, json_option
from daulat.errors import Unavailable
from daulat.settings import Home


@click.command()
@home_option
@json_option
def status(home: Home, as_json: bool) -> None:
    """Say what runs, under which lease, and where the log stands. Exits with 1 when nothing may be answered.

    \b
    Example:
        daulat status
        daulat status --json | jq .lease.seconds_left
    """
    try:
        found = rpc.call(home.control_socket, "status")
    except Unavailable as error:
        raise Unavailable(f"no service answers in {home.path} ({error.message}): start it with `daulat up`") from None
    emit(found, as_json=as_json, text=_text(found))
    if found["not_serving_because"] or found["lease"] is None:
        raise SystemExit(1)


def _text(found: dict[str, Any]) -> str:
    lease, log = found["lease"], found["log"]
    rows = [
        ("url", found["url"]),
        ("charter", f"profile {found['profile']}, log {found['origin']}{_ceremony(found['ceremony'])}"),
        *(("deployment", deployment_line(deployment)) for deployment in found["deployments"]),
        *(("replica", replica_line(replica)) for replica in found["replicas"]),
        ("lease", "none" if lease is None else f"entry {lease['entry']}, {lease['seconds_left']} s left"),
        ("log", f"{log['size']} entries, last look at the journals {log['seconds_since_tick']} s ago"),
    ]
    rows += [("waiting", words) for words in found["waiting"]]
    rows += [("warning", words) for words in found["warnings"]]
    rows += [("review", review_line(row)) for row in found["reviews"]]
    rows += [("breach", _breach_line(found)) for found in found["breaches"]]
    rows += [("not serving", reason) for reason in found["not_serving_because"]]
    for child in found["processes"]:
        state = "ready" if child["ready"] else "starting"
        again = f", started {child['starts']} times" if child["starts"] > 1 else ""
        rows.append(("process", f"{child['name']} (pid {child['pid']}) {state}{again}"))
    return "\n".join(f"{name:<12} {value}" for name, value in rows)


def review_line(found: dict[str, Any]) -> str:
    """One broken glass whose review is open, for people."""
    untold = f"; not told yet: {', '.join(found['untold'])}" if found["untold"] else ""
    state = "OVERDUE" if found["state"] == "overdue" else f"by two others until {day(found['due'])}"
    return (
        f"glass broken by {found['by']} for {found['action']} ({found['cause']}), {found['proposal']}: {state}{untold}"
    )


def _ceremony(index: int | None) -> str:
    return "" if index is None else f", key ceremony: entry {index}"


def _breach_line(found: dict[str, Any]) -> str:
    until = datetime.fromtimestamp(found["commissioner_by"] / 1000, UTC).strftime("%Y-%m-%d %H:%MZ")
    return f"{found['id']} is open: the Commissioner was or is to be told by {until}"


def deployment_line(found: dict[str, Any]) -> str:
    """One deployment for people: how many of its replicas answer, and whatever hinders it."""
    status = found["status"]
    admitted = "" if found["admitted"] is None else f", admitted by entry {found['admitted']}"
    troubles = [said["message"] for said in status["conditions"] if said["status"] == "False"]
    words = f"{found['name']}: {status['ready_replicas']} of {found['spec']['replicas']} replicas answer{admitted}"
    return "; ".join([words, *(trouble for trouble in troubles if not words.startswith(f"{found['name']}: {trouble}"))])


def replica_line(found: dict[str, Any]) -> str:
    """One replica for people."""
    slots = "" if found["slots"] is None else f", {found['slots']} slots"
    last = f", stopped before: {found['last']}" if found["last"] else ""
    return f"{found['id']} of {found['deployment']}, {found['phase']}{slots}{last}"


def day(milliseconds: int | None) -> str:
    """A time in a table for people, in UTC."""
    if milliseconds is None:
        return ""
    when = datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d")
    return when if milliseconds > time.time() * 1000 else f"{when} (over)"

"""`daulat pdpa`: what people have a right to, and what the Act wants to be kept, out of rows, vault and log."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from daulat.adapters import rpc
from daulat.adapters.archive import Archive, safe
from daulat.cli import emit
from daulat.cli.admin import ask
from daulat.cli.options import home_option, json_option
from daulat.cli.signing import FILE, secret_of
from daulat.cli.status import day
from daulat.core.export import HELD
from daulat.errors import Unavailable
from daulat.pipeline import export, processing
from daulat.processes.breaches import stands
from daulat.settings import Home

_FORMAT: Final = "daulat/export/v1"
_SECONDS: Final = 120.0  # for some megabytes of an object


@click.group()
def pdpa() -> None:
    """Give people what is held about them, and print the record of processing."""


@pdpa.command("access")
@click.argument("person")
@click.option("-o", "--output", "path", type=FILE, required=True, help="The archive: a new file, for you alone.")
@click.option("--plain", is_flag=True, help="In clear, instead of under a passphrase.")
@click.option("--archive-passphrase-file", type=FILE, help="Read the passphrase from its first line, for scripts.")
@home_option
@json_option
def access(
    person: str, path: Path, plain: bool, archive_passphrase_file: Path | None, home: Home, as_json: bool
) -> None:
    """Make one archive of everything that is held about a person: access and portability. Others agree to it first.

    It is a ZIP file under a passphrase in the format of age: `age --decrypt FILE.zip.age > FILE.zip`.

    \b
    Example:
        daulat operate export-person aminah --key ~/operator.key
        daulat pdpa access aminah -o aminah.zip.age
    """
    if plain and archive_passphrase_file is not None:
        raise click.UsageError("--plain and --archive-passphrase-file exclude each other")
    ask(home, "export.open", person=person)  # before anybody types a passphrase
    secret = None if plain else secret_of(archive_passphrase_file, "Passphrase of the archive", confirm=True)
    with Archive(path, secret) as archive:
        found = _filled(home, person, archive, sealed=not plain)
        archive.keep()
    held = ", ".join(f"{found['held'][name]} {name}" for name in HELD)
    how = "in clear" if plain else "under its passphrase (age --decrypt)"
    text = f"{path}: {held}, {how}. Entry {found['entry']} of the log says so. Give it to nobody else."
    emit({"path": str(path), **found}, as_json=as_json, text=text)


def _filled(home: Home, person: str, archive: Archive, *, sealed: bool) -> dict[str, Any]:
    """Everything goes in, and is written down; what was."""
    held = ask(home, "export.held", person=person)
    archive.add("person.json", _json(held["rows"]))
    kept = _kept(home, held["person"], archive)
    heads, totals, count = dict[str, dict[str, Any]](), dict[str, Counter[str]](), Counter[str]()

    def lines() -> Iterator[bytes]:
        for each in export.about(held["pseudonyms"].values(), stands(home, heads)):
            export.usage(totals, each["entry"])
            count["entries"] += 1
            yield json.dumps(each, ensure_ascii=False).encode() + b"\n"

    archive.stream("log.jsonl", lines())
    counts = {
        "rows": sum(len(rows) for rows in held["rows"].values()),
        "files": sum(each["kind"] == "file" for each in kept),
        "completions": sum(each["kind"] == "completion" for each in kept),
        "entries": count["entries"],
    }
    manifest = {
        "format": _FORMAT,
        "made": round(time.time() * 1000),
        "pseudonyms": held["pseudonyms"],
        "held": counts,
        "usage": {model: dict(totals[model]) for model in sorted(totals)},
        "objects": kept,
        "logs": heads,
    }
    digest = archive.finish(manifest)
    made = ask(home, "export.made", export=held["export"], digest=digest, held=counts, sealed=sealed)
    return {"held": counts, "digest": digest, "entry": made["entry"]}


def _kept(home: Home, person: str, archive: Archive) -> list[dict[str, Any]]:
    """What the vault has of them, each as a file of its own; where each stands, or why it cannot be read.

    One that does not open to its end has a path and the reason: the file there holds as much of it as does.
    """
    listed: list[dict[str, Any]] = _vault(home, "export.list", person=person)
    found = list[dict[str, Any]]()
    for number, each in enumerate(listed, 1):
        which = {"person": person, "kind": each["kind"], "id": each["id"]}
        said = _vault(home, "export.read", **which)
        if "unreadable" in said:
            found.append({**each, "path": None, **said})
            continue
        name = each["about"].get("filename", each["id"]) if each["kind"] == "file" else f"{each['id']}.json"
        path = f"{each['kind']}s/{number}/{safe(name)}"
        broken = dict[str, str]()
        archive.stream(path, _content(home, which, said, broken))
        found.append({**each, "path": path, **broken})
    return found


def _content(home: Home, which: dict[str, str], said: dict[str, Any], broken: dict[str, str]) -> Iterator[bytes]:
    """An object piece by piece, of which `said` is the first; why it does not open any further goes into `broken`."""
    offset = 0
    while data := base64.b64decode(said.get("content", "")):
        yield data
        offset += len(data)
        said = _vault(home, "export.read", **which, offset=offset)
    broken |= said if "unreadable" in said else {}


def _vault(home: Home, method: str, **params: Any) -> Any:
    """Raises Unavailable: the vault is closed; it says why."""
    if not home.vault_socket.exists():
        raise Unavailable(f"the vault of {home.path} does not run: daulat up")
    return rpc.call(home.vault_socket, method, timeout=_SECONDS, **params)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


@pdpa.command("record")
@home_option
@json_option
def record(home: Home, as_json: bool) -> None:
    """Print the record of processing: what, for whom, where, how long, and who saw it (the Act's section 44).

    Counts come from the log, which `evidence` names: anybody can check them against it. What only you know is blank.

    \b
    Example:
        daulat pdpa record --json
    """
    heads = dict[str, dict[str, Any]]()
    found = processing.seen(stands(home, heads))
    now = round(time.time() * 1000)
    auditors = [row for row in ask(home, "list", table="auditors") if row["revoked"] is None and row["expires"] > now]
    operators = [row["name"] for row in ask(home, "operators") if row["revoked"] is None]
    said = processing.record(found, ask(home, "retention.rules"), len(auditors), operators, heads)
    emit(said, as_json=as_json, text="\n".join(_written(said)))


def _written(said: Any, depth: int = 0) -> Iterator[str]:
    """Nested values for people, a line each."""
    for name, value in said.items():
        title = f"{'  ' * depth}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            yield title
            yield from _written(value, depth + 1)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield title
            for each in value:
                yield from _written(each, depth + 1)
        elif isinstance(value, list):
            yield f"{title}: {', '.join(map(str, value)) or 'none'}"
        elif name in {"from", "to"}:
            yield f"{title}: {day(value)}"
        else:
            yield f"{title}: {'none' if value is None else value}"

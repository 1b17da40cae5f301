"""`daulat log`: the transparency log from its operator's side."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import click

from daulat.adapters import log_files
from daulat.adapters.log_files import LogFolder
from daulat.adapters.models import ModelStore
from daulat.cli import emit
from daulat.cli.options import home_option, json_option
from daulat.cli.progress import Progress
from daulat.core import charter as charter_core
from daulat.core import entries
from daulat.core.files import text_of
from daulat.errors import Conflict, DaulatError, NotFound
from daulat.ledger import fsck as ledger_fsck
from daulat.ledger.reading import read_entries
from daulat.pipeline import admitted
from daulat.pipeline.admitted import Admission
from daulat.processes import checking, log_keys
from daulat.processes.lock import lock
from daulat.processes.sequencer import alone, open_sequencer
from daulat.settings import Home
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog.note import Verifier

_MOST = 1000
_NONE = "there is no log in {}: the first `daulat up` begins it"


@click.group()
def log() -> None:
    """Look at the transparency log and check it."""


def _folder(home: Home, period: str | None = None) -> LogFolder:
    folder = LogFolder(home.log / (period or log_files.current_period(home.log)))
    if not folder.published():
        raise NotFound(_NONE.format(folder.folder))
    return folder


@log.command("show")
@click.argument("index", required=False, type=int)
@click.option("--period", help="The shard (default: the one in force).")
@click.option("--last", default=20, show_default=True, help="How many, counted from the end, where no INDEX is given.")
@click.option("--type", "type_", help="Only entries of this type, such as node.lease/v1.")
@home_option
@json_option
def show(index: int | None, period: str | None, last: int, type_: str | None, home: Home, as_json: bool) -> None:
    """Show one entry whole, or the last ones in a line each.

    \b
    Example:
        daulat log show
        daulat log show 12
        daulat log show --type node.lease/v1 --last 5 --json
    """
    folder = _folder(home, period)
    size = checkpoints.open_checkpoint(folder.published(), Verifier(folder.vkey())).size
    if index is not None:
        if not 0 <= index < size:
            raise NotFound(f"the log has entries 0 to {size - 1}")
        (entry,) = read_entries(folder, index, index + 1, size)
        value = entries.decode(entry)
        emit(value, as_json=as_json, text=json.dumps(value, indent=2, ensure_ascii=False))
        return
    found = list(_backwards(folder, size, min(last, _MOST), type_))[::-1]
    lines = [f"{at:>8}  {_line(value)}" for at, value in found]
    emit([{"index": at, **value} for at, value in found], as_json=as_json, text="\n".join(lines) or "No such entries.")


def _backwards(folder: LogFolder, size: int, last: int, type_: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    end = size
    while end > 0 and last > 0:
        start = (end - 1) // 256 * 256
        bundle = read_entries(folder, start, end, size)
        for at in range(end - 1, start - 1, -1):
            value = entries.decode(bundle[at - start])
            if last > 0 and type_ in {None, value["type"]}:
                last -= 1
                yield at, value
        end = start


def _line(value: dict[str, Any]) -> str:
    if value["type"] == entries.INFERENCE:
        admission, completion = value["admission"], value["completion"]
        words = f"{admission['request_id']} {admission['effect']} by {', '.join(admission['policies'])}"
        words += f", {completion['outcome']} {completion['status']}"
        moment = completion["time"]
    else:
        words = ", ".join(
            f"{name} {value[name]}" for name in ("action", "outcome", "purpose", "model", "node") if name in value
        )
        moment = value["time"]
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(moment / 1000))
    return f"{when}  {value['type']:<18} {words}"


@log.command("fsck")
@click.option("--without-models", is_flag=True, help="Leave the models' files out: they are hashed, every byte.")
@home_option
@json_option
def fsck(without_models: bool, home: Home, as_json: bool) -> None:
    """Check the whole log from its files: every hash, entry and reference, both checkpoints, journals and index; and
    the files of every model that it has admitted.

    Exits with 1 when something cannot be trusted, and where a log that was sealed, or any log, is not there. Works
    beside a running service.

    \b
    Example:
        daulat log fsck
        daulat log fsck --without-models
    """
    progress, periods = Progress(quiet=as_json), checking.known(home)
    if not periods:
        raise NotFound(_NONE.format(home.log))
    problems = [problem for period in periods for problem in _check(home, period, progress)]
    if not without_models:
        problems += _check_models(home, periods, progress)
    lines = [f"{'BAD ' if item['serious'] else 'note'}  {item['log']}: {item['what']}" for item in problems]
    serious = sum(bool(item["serious"]) for item in problems)
    lines.append(f"{len(periods)} log(s) checked: {serious} serious problem(s), {len(problems) - serious} note(s).")
    emit({"sound": not serious, "problems": problems}, as_json=as_json, text="\n".join(lines))
    if serious:
        raise SystemExit(1)


def _check(home: Home, period: str, progress: Progress) -> list[dict[str, Any]]:
    name = checking.sealed(home).get(period) or Verifier(_folder(home, period).vkey()).name
    found = checking.problems(home, period, lambda done, size: progress.bar(f"log {period}", done, size))
    return [{"log": name, "what": item.what, "serious": item.serious} for item in found]


def _check_models(home: Home, periods: list[str], progress: Progress) -> list[dict[str, Any]]:
    """The models' files. A log that cannot be read has been spoken of, and admits nothing here."""
    found: list[Admission] = []
    for period in periods:
        with contextlib.suppress(DaulatError):
            folder = _folder(home, period)
            head = checkpoints.open_checkpoint(folder.published(), Verifier(folder.vkey()))
            found += [Admission(head.origin, *item) for item in ledger_fsck.admissions(folder, head.size)]
    checked = admitted.check(found, ModelStore(home.models), progress.bar)
    return [{"log": admission.log, "what": item.what, "serious": item.serious} for admission, item in checked]


@log.command("roll")
@click.argument("period")
@click.option("--new-key", is_flag=True, help="Sign the new shard with a new key, which the old one vouches for.")
@home_option
@json_option
def roll(period: str, new_key: bool, home: Home, as_json: bool) -> None:
    """Close the log's shard and begin the next, called PERIOD. The service must be stopped.

    The old shard stays readable and is final; the next start restates in the new one what is in force. With --new-key,
    give the new public key (`daulat log key`) to every auditor; the entry that introduces it is signed by both keys.
    Where the charter asks for approvals, others agree to the new key first: `daulat log new-key`.

    \b
    Example:
        daulat log roll 2027
        daulat log roll 2027-h2 --new-key
    """
    checking.free(home, period)
    _folder(home)
    if not new_key and log_keys.of(home, period).exists():
        raise Conflict(
            f"{log_keys.of(home, period)} is a new key made for this period: say --new-key, choose another period, "
            "or delete it"
        )
    held = lock(home)
    try:
        charter = charter_core.parse(text_of(home.charter), location=str(home.charter))
        with alone(home):
            if new_key:
                log_keys.make(home, charter.name, period)
            sequencer = open_sequencer(home, charter.name, period)
    finally:
        os.close(held)
    value = {"origin": charter.origin(period), "size": sequencer.size}
    emit(value, as_json=as_json, text=f"{value['origin']} is in force from the next `daulat up` on.")


@log.command("new-key")
@click.argument("period")
@home_option
@json_option
def make_key(period: str, home: Home, as_json: bool) -> None:
    """Make the key with which the shard PERIOD is to begin, and print its public half. It signs nothing before that.

    Works beside the running service. Where the charter asks for approvals, propose it then, and once it is agreed to,
    stop the service and roll.

    \b
    Example:
        daulat log new-key 2027
        daulat operate rotate-log-key "$(daulat log new-key 2027)" --key ~/operator.key
        daulat log roll 2027 --new-key
    """
    checking.free(home, period)
    _folder(home)
    charter = charter_core.parse(text_of(home.charter), location=str(home.charter))
    log_keys.make(home, charter.name, period)
    vkey = log_keys.load(home, charter.name, [period]).vkey
    emit({"origin": charter.origin(period), "vkey": vkey}, as_json=as_json, text=vkey)


@log.command("reindex")
@home_option
@json_option
def reindex(home: Home, as_json: bool) -> None:
    """Make the index of request ids anew from the log. The service must be stopped.

    \b
    Example:
        daulat log reindex
    """
    held = lock(home)
    try:
        counts = checking.reindex(home)
    finally:
        os.close(held)
    emit(counts, as_json=as_json, text="\n".join(f"{origin}: {size} entries" for origin, size in counts.items()))


@log.command("key")
@home_option
@json_option
def key(home: Home, as_json: bool) -> None:
    """Print the public key of every shard: what auditors must have got from you, and not from the log.

    \b
    Example:
        daulat log key
    """
    keys = {period: _folder(home, period).vkey().strip() for period in checking.periods(home)}
    if not keys:
        raise NotFound(_NONE.format(home.log))
    emit(keys, as_json=as_json, text="\n".join(keys.values()))

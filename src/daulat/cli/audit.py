"""`daulat audit`: a whole log, with public keys and an auditor's token."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from daulat.adapters.log_http import LogHttp
from daulat.audit import names, shards, state
from daulat.audit.log import Report
from daulat.audit.log import audit as audit_log
from daulat.audit.promises import elsewhere as promises_elsewhere
from daulat.audit.usage import COLUMNS, Tally
from daulat.audit.walk import Terms
from daulat.audit.words import unknown_use, witnesses
from daulat.cli import emit, service
from daulat.cli.options import json_option
from daulat.cli.progress import Progress
from daulat.cli.verify import FILE, cedar, key, promises
from daulat.core.promise import Promise, parse_header
from daulat.errors import ConfigError
from daulat.tlog.note import Verifier

_MOST_SHARDS: Final = 1000
_MOST_REPLICAS: Final = 20  # named one by one
_WHICH_KEY: Final = "So this audit DOES NOT HOLD: audit from the log's newest shard, with its key."


@click.command()
@click.argument("url")
@click.option("--vkey", required=True, help="The log's public key, or a file that holds it.")
@click.option("--token-file", type=FILE, required=True, help="Holds an auditor's token.")
@click.option("--state", "state_file", type=click.Path(path_type=Path), help="Remembers each log's last checkpoint.")
@click.option("--promises", "kept", type=FILE, help="Daulat-Promise headers that clients kept, one a line.")
@click.option("--usage", "usage_file", type=click.Path(path_type=Path), help="Write who used how much there, as CSV.")
@json_option
def audit(
    url: str,
    vkey: str,
    token_file: Path,
    state_file: Path | None,
    kept: Path | None,
    usage_file: Path | None,
    as_json: bool,
) -> None:
    """Download a log, all its shards, and check every hash, signature, reference, rule, promise and counter.

    With --state, the log must also continue what it was at the last audit, and lead back to every shard audited
    before. Decisions are run again where Cedar is installed (daulat[serve]). Exits with 1 when anything is a lie, or
    when a shard or promise could not be checked.

    \b
    Example:
        daulat audit https://ai.agency.gov.my/log --vkey log.vkey --token-file token --state audit.json
    """
    root = service.address(url)
    root = root if root.endswith("/log") else f"{root}/log"
    remembered = state.parse(state_file.read_bytes()) if state_file is not None and state_file.exists() else {}
    terms = Terms(now=round(time.time() * 1000), promises=_kept(kept), remembered=remembered, decider=cedar())
    tally = Tally() if usage_file is not None else None
    token = service.secret_in(token_file, "auditor's token")
    reports = _reports(root, key(vkey), token, terms, Progress(quiet=as_json), tally)
    unreached = state.unreached(remembered, [report.origin for report in reports])
    holds = all(report.holds for report in reports) and not unreached
    value = {"holds": holds, "logs": [_value(report) for report in reports], "unreached": unreached}
    beside = [f"Audited before, and not led to from here: {origin}. {_WHICH_KEY}" for origin in unreached]
    emit(value, as_json=as_json, text="\n\n".join([*map(_text, reports), *beside]))
    if not holds:
        raise SystemExit(1)
    if usage_file is not None and tally is not None:
        _write(usage_file, tally)
    if state_file is not None:
        _remember(state_file, remembered | {report.origin: report.checkpoint.decode() for report in reports})


def _reports(
    root: str, verifier: Verifier, token: str, terms: Terms, progress: Progress, tally: Tally | None
) -> list[Report]:
    """This shard's, and those of the shards before it, newest first."""
    found: list[Report] = []
    while len(found) < _MOST_SHARDS:
        name = verifier.name
        with LogHttp(root, name.rpartition("/")[2], token) as source:
            held = replace(terms, continued=bool(found))
            read = source if tally is None else tally.over(source)
            found.append(audit_log(read, verifier, held, lambda done, size: progress.bar(name, done, size)))  # noqa: B023  used at once
        if len(found) > 1 and found[-2].opening is not None and found[-1].closing is not None:
            for finding in shards.compare(found[-1].closing, found[-2].opening):
                found[-2].findings.add(finding)
        before = found[-1].predecessor
        if before is None or before in {report.origin for report in found}:
            break
        replaced = found[-1].replaced
        verifier = (verifier if replaced is None else Verifier(replaced)).renamed(before)
    _together(found, terms)
    return found


def _together(found: Sequence[Report], terms: Terms) -> None:
    """What only all shards show: that they go on from what was audited before, which model a name stands for, and
    that every promise is of one of them.
    """
    origins = [report.origin for report in found]
    anew = state.begun_anew(terms.remembered, origins) if found[-1].predecessor is None else None
    if anew is not None:
        found[-1].findings.add(anew)
    for number, finding in names.across([report.names for report in reversed(found)]):
        found[-1 - number].findings.add(finding)
    for finding in promises_elsewhere(terms.promises, origins):
        found[0].findings.add(finding)


def _kept(path: Path | None) -> tuple[Promise, ...]:
    text = "" if path is None else path.read_text(errors="replace")
    return tuple(map(parse_header, promises(text))) if text.strip() else ()


def _write(path: Path, tally: Tally) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(tally.rows())
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", location=str(path)) from None


def _remember(path: Path, logs: dict[str, str]) -> None:
    """Whole or not at all: an auditor's memory is what a split view is caught with."""
    beside = path.with_name(f".{path.name}.new")
    try:
        with beside.open("wb") as stream:
            stream.write(state.encode(logs))
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", location=str(path)) from None


def _value(report: Report) -> dict[str, Any]:
    return {
        "origin": report.origin,
        "size": report.size,
        "holds": report.holds,
        "findings": [finding.as_dict() for finding in report.findings.kept],
        "findings_omitted": report.findings.omitted,
        "short": list(_short(report)),
        "ceremony": report.ceremony,
        "types": dict(report.types),
        "decisions_rerun": report.decisions,
        "promises": {"kept": report.promises_kept, "pending": report.promises_pending},
        "continues": report.continued,
    }


def _text(report: Report) -> str:
    word = "holds" if report.holds else "DOES NOT HOLD"
    lines = [f"{report.origin}, {report.size} entries: {word}."]
    lines += [f"  {count:>9}  {name}" for name, count in sorted(report.types.items())]
    lines += [f"  LIE   {finding}" for finding in report.findings.kept if finding.lie]
    lines += [f"  weak  {finding}" for finding in report.findings.kept if not finding.lie]
    if report.findings.omitted:
        lines.append(f"  ... and {report.findings.omitted} more of the same kinds")
    if report.decisions is None:
        lines.append("  Decisions were not run again: install daulat[serve] for that.")
    else:
        lines.append(f"  {report.decisions} decisions were run again, each with the same result unless named above.")
    if report.promises_kept or report.promises_pending:
        lines.append(f"  Promises: {report.promises_kept} kept, {report.promises_pending} not due yet.")
    if report.continued is not None:
        lines.append(f"  It continues the {report.continued} entries of the last audit.")
    if report.ceremony is not None:
        lines.append(f"  It was {report.ceremony}.")
    lines += [f"  short {word}" for word in _short(report)]
    return "\n".join(lines)


def _short(report: Report) -> Iterator[str]:
    """What falls short, in words; of replicas whose counters leave room, those that leave the most."""
    yield from report.short
    yield witnesses(report.unknown_signatures)
    widest = sorted(report.slack.items(), key=lambda item: -item[1][1])[:_MOST_REPLICAS]
    for index, (many, room) in sorted(widest):
        yield unknown_use(index, many, room)
    if len(report.slack) > _MOST_REPLICAS:
        yield f"{len(report.slack) - _MOST_REPLICAS} more replicas whose counters leave less room than these"

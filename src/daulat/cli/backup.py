"""`daulat backup|restore`: a home in two sealed files, and out of them again."""

from __future__ import annotations

from pathlib import Path

import click

from daulat.cli import emit
from daulat.cli.options import home_option, json_option
from daulat.cli.progress import Progress
from daulat.cli.signing import FILE, secret_of
from daulat.cli.status import day
from daulat.processes import backing_up, restoring
from daulat.processes.backing_up import Target
from daulat.settings import Home

_DONE = {
    "empty": "The home is there.",
    "ahead": "The log and the rest are those of the backup; what the log here had is in it.",
    "behind": "Everything but the log, the keys and the control database is as it was then.",
}


@click.command()
@click.argument("path", metavar="FILE", type=FILE)
@click.option("--keys", type=FILE, help="Also make this file, of what an erasure destroys. Keep it apart.")
@click.option("--passphrase-file", type=FILE, help="Read FILE's passphrase from its first line, for scripts.")
@click.option("--keys-passphrase-file", type=FILE, help="The same for the keys, which have another one.")
@home_option
@json_option
def backup(
    path: Path,
    keys: Path | None,
    passphrase_file: Path | None,
    keys_passphrase_file: Path | None,
    home: Home,
    as_json: bool,
) -> None:
    """Make a backup in one encrypted file, beside the running service; with --keys, what else it takes to go on.

    \b
    Example:
        daulat backup /media/safe/monday.backup
        daulat backup /media/safe/monday.backup --keys /media/vault/monday.keys
    """
    target = Target(path, secret_of(passphrase_file, "Passphrase of the backup", confirm=True))
    private = None
    if keys is not None:
        private = Target(keys, secret_of(keys_passphrase_file, "Passphrase of the keys", confirm=True))
    found = backing_up.back_up(home, target, private)
    lines = [f"{path}  SHA-256 {found['digests']['backup']}"]
    if keys is not None:
        lines.append(
            f"{keys}  SHA-256 {found['digests']['keys']}: destroy it when somebody is erased, and make another."
        )
    else:
        lines.append("The keys are not in it: without them its log can be read and audited, and not go on.")
    lines += [f"{head['origin']}: {head['size']} entries, root {head['root']}" for head in found["heads"]]
    emit(found, as_json=as_json, text="\n".join(lines))


@click.command()
@click.argument("path", metavar="FILE", type=FILE)
@click.option("--keys", type=FILE, help="The keys that were made together with it; for an empty home alone.")
@click.option("--passphrase-file", type=FILE, help="Read FILE's passphrase from its first line, for scripts.")
@click.option("--keys-passphrase-file", type=FILE, help="The same for the keys.")
@home_option
@json_option
def restore(
    path: Path,
    keys: Path | None,
    passphrase_file: Path | None,
    keys_passphrase_file: Path | None,
    home: Home,
    as_json: bool,
) -> None:
    """Check a backup wholly, then put it into an empty home, or over one whose log is the same. Stop the service first.

    Over a home whose log has gone on since, it needs the agreement of others: `daulat operate restore-backup`. So it
    does over one with the same log, where the charter asks for approvals.

    \b
    Example:
        daulat restore /media/safe/monday.backup --keys /media/vault/monday.keys --home /srv/daulat
    """
    target = Target(path, secret_of(passphrase_file, "Passphrase of the backup"))
    private = None if keys is None else Target(keys, secret_of(keys_passphrase_file, "Passphrase of the keys"))
    progress = Progress(quiet=as_json)
    found = restoring.restore(home, target, private, lambda log, done, size: progress.bar(f"log {log}", done, size))
    lines = [f"Made {day(found['created'])}. {_DONE[found['standing']]}"]
    if found["standing"] == "empty" and not found["keys"]:
        lines.append("Its keys are missing: the log can be read and audited, and the service cannot start.")
    lines += [f"BAD   {words}" for words in found["problems"]]
    lines += [f"{origin}: {size} entries, root {root}" for origin, size, root in found["heads"]]
    emit(found, as_json=as_json, text="\n".join(lines))

"""The `daulat` command.

Every verb is imported only when it is used, so `verify` and `audit` load the base install alone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import sys
from typing import Any, Final, NoReturn

import click

from daulat import __version__
from daulat.errors import DaulatError

VERBS: Final = {
    "up": ("daulat.cli.up:up", "Start the whole service on this machine."),
    "status": ("daulat.cli.status:status", "Say what runs, under which lease, and where the log stands."),
    "doctor": ("daulat.cli.doctor:doctor", "Check this machine and grade it."),
    "key": ("daulat.cli.admin:key", "Create, list and revoke API keys."),
    "admin-key": ("daulat.cli.admin_key:admin_key", "Create, list and revoke credentials for the admin API."),
    "person": ("daulat.cli.identity:person", "Add, invite and list people."),
    "session": ("daulat.cli.identity:session", "List and revoke sessions of people who have signed in."),
    "directory": ("daulat.cli.directory:directory", "Let tenants' own directories say who is there."),
    "tenant": ("daulat.cli.admin:tenant", "Add and list tenants."),
    "limit": ("daulat.cli.limit:limit", "Limit what keys, tenants and models may use."),
    "usage": ("daulat.cli.usage:usage", "Say who has used how much, and what it costs."),
    "auditor": ("daulat.cli.admin:auditor", "Create, list and revoke auditors' tokens."),
    "init": ("daulat.cli.init:init", "Hold the key ceremony, with which production begins."),
    "operator": ("daulat.cli.operate:operator", "Make and register operators' keys."),
    "operate": ("daulat.cli.operate:operate", "Propose and approve what one operator may not do alone."),
    "vault": ("daulat.cli.vault:vault", "See whether data can be kept, and rotate its keys."),
    "retention": ("daulat.cli.retention:retention", "Say how long a tenant's data is kept."),
    "model": ("daulat.cli.model:model", "Import models and look at them."),
    "deploy": ("daulat.cli.deploy:deploy", "Have a model served, or change how it is."),
    "deployments": ("daulat.cli.deploy:deployments", "List what is to be served, and how far that is so."),
    "replicas": ("daulat.cli.deploy:replicas", "List the engines that run."),
    "logs": ("daulat.cli.deploy:logs", "Show the end of a replica's log."),
    "drain": ("daulat.cli.deploy:drain", "Have a replica replaced."),
    "stop": ("daulat.cli.deploy:stop", "Stop serving a deployment."),
    "policy": ("daulat.cli.policy:policy", "Check, test and explain the rules."),
    "database": ("daulat.cli.database:database", "Move the control database, or its schema."),
    "backup": ("daulat.cli.backup:backup", "Make an encrypted backup."),
    "restore": ("daulat.cli.backup:restore", "Check a backup and put it in its place."),
    "log": ("daulat.cli.log:log", "Look at the transparency log and check it."),
    "receipt": ("daulat.cli.receipt:receipt", "Fetch the receipt of one answer."),
    "verify": ("daulat.cli.verify:verify", "Check a receipt with public keys alone."),
    "breach": ("daulat.cli.breach:breach", "Keep a data breach's clocks; assemble its notice."),
    "pdpa": ("daulat.cli.pdpa:pdpa", "Give people what is held about them."),
    "audit": ("daulat.cli.audit:audit", "Check a whole log with public keys and an auditor's token."),
    "accelerators": ("daulat.cli.accelerators:accelerators", "Show this machine's NPUs, GPUs and CPU."),
    "tokens": ("daulat.cli.tokens:tokens", "Count tokens as DeepSeek's models do."),
    "bench": ("daulat.cli.bench:bench", "Measure a running service."),
}
# All of ASCII and Unicode that moves the cursor or turns the direction of writing, but for tab and newline.
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
EXIT_ERROR: Final = 1  # a DaulatError; click itself uses 2 for wrong usage


class _Verbs(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name is not None and error.name.startswith("daulat"):
                raise
            raise click.ClickException(
                f"`daulat {cmd_name}` needs the serving install (module {error.name!r} is missing): "
                "pip install 'daulat[serve]'"
            ) from None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # from the table: listing them must not import them
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="daulat")
def cli() -> None:
    """Daulat serves AI inside a country, and proves it."""


def main() -> None:
    """Entry point: our errors, and the machine's, become one line on stderr (JSON with --json) and exit code 1."""
    try:
        cli(standalone_mode=True)
    except DaulatError as error:
        _fail(error.code, error.message)
    except OSError as error:  # a file or folder that cannot be used: who runs the command has to mend that
        name = f"{error.filename}: " if error.filename else ""
        _fail("machine_error", f"{name}{error.strerror or error}")


def complain(code: str, message: str) -> None:
    """One line on stderr: JSON with --json. Where nobody listens any more, nothing."""
    said = json.dumps({"error": {"code": code, "message": message}}, ensure_ascii=False)
    with contextlib.suppress(OSError):
        click.echo(said if "--json" in sys.argv else f"daulat: {_plain(message)}", err=True)


def _fail(code: str, message: str) -> NoReturn:
    complain(code, message)
    sys.exit(EXIT_ERROR)


def emit(value: Any, *, as_json: bool, text: str) -> None:
    """Print a verb's result: one JSON line for scripts, or text for people."""
    click.echo(json.dumps(value, ensure_ascii=False) if as_json else _plain(text))


def _plain(text: str) -> str:
    """Text that cannot draw on a terminal, whatever a log, a receipt or a server has put into it."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)

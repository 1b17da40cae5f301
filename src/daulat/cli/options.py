"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from daulat.settings import Home, default_home


def _home(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Home:
    return Home(Path(value).absolute() if value else default_home())


def home_option(command: Any) -> Any:
    """`--home DIR`, handed to the verb as a `Home`."""
    return click.option(
        "--home",
        metavar="DIR",
        callback=_home,
        help="Where the installation lives (default: $DAULAT_HOME, else daulat in the XDG data folder).",
    )(command)


_LIMITS: Final = (
    ("--rpm", "requests_per_minute", int, "Requests a minute."),
    ("--tpm", "tokens_per_minute", int, "Tokens a minute, prompts' and answers'."),
    ("--rpd", "requests_per_day", int, "Requests a day (UTC)."),
    ("--tpd", "tokens_per_day", int, "Tokens a day (UTC)."),
    ("--streams", "streams", int, "Answers under way at once, streamed or not."),
    ("--budget", "budget", str, "Money a month (UTC), such as 1250.50, by the price table."),
    ("--priority", "priority", int, "Who is served first where the engines are full: -9 to 9."),
)


def limit_options(command: Any) -> Any:
    """What a key, tenant or model may use; what is not given is None. 0 is unlimited."""
    for flag, name, kind, text in reversed(_LIMITS):
        command = click.option(flag, name, type=kind, help=text)(command)
    return command


def json_option(command: Any) -> Any:
    """`--json`, handed to the verb as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON line, for scripts.")(command)

"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def json_option(command: Any) -> Any:
    """`--json`, handed to the verb as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON line, for scripts.")(command)

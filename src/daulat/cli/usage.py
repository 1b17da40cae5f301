"""`daulat usage`: who has used how much, counted from the transparency log, and what that costs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click

from daulat.cli import emit
from daulat.cli.admin import ask, table
from daulat.cli.options import home_option, json_option
from daulat.core.quota import shown
from daulat.metering.focus import COLUMNS
from daulat.settings import Home

_BY: Final = ("day", "tenant", "key", "model")
_COUNTS: Final = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "cost", "currency")
_SHOWN: Final = 10
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}\Z")


def _day(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _DAY.match(value):
        raise click.BadParameter("a day is written as 2026-01-31")
    return value


def _days(command: Any) -> Any:
    """`--since` and `--until`, as days."""
    until = click.option("--until", metavar="DAY", callback=_day, help="Up to before this day (UTC).")
    since = click.option("--since", metavar="DAY", callback=_day, help="From this day (UTC) on, such as 2026-01-31.")
    return since(until(command))


def _between(since: str | None, until: str | None) -> dict[str, str]:
    return {name: day for name, day in (("since", since), ("until", until)) if day is not None}


class _ShowsByItself(click.Group):
    """`daulat usage --by day` is `daulat usage show --by day`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ShowsByItself)
def usage() -> None:
    """Say who has used how much, and what it costs: by itself, what `show` shows.

    \b
    Example:
        daulat usage
    """


@usage.command("show")
@click.option("--by", default="tenant", show_default=True, help="Some of day, tenant, key, model, with commas between.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@_days
@home_option
@json_option
def show(by: str, as_csv: bool, since: str | None, until: str | None, home: Home, as_json: bool) -> None:
    """Sum up requests, tokens and costs. The log is counted up to now first.

    \b
    Example:
        daulat usage show --by day,tenant,model --since 2026-01-01
    """
    asked = [name.strip() for name in by.split(",")]
    rows = ask(home, "usage", by=asked, **_between(since, until))
    named = [f"{name}_name" if name in {"tenant", "key"} else name for name in asked]
    if as_csv and not as_json:
        both = [column for name in asked for column in dict.fromkeys((name, f"{name}_name"))]
        columns = [column for column in both if column in _BY or column in named]
        click.echo(_csv([*columns, *_COUNTS], rows), nl=False)
        return
    for row in rows:
        for name in named:
            row[name] = row[name] or row[name.removesuffix("_name")]  # of a tenant or key that is no more
    emit(rows, as_json=as_json, text=table(rows, (*named, *_COUNTS), "Nothing was used."))


@usage.command("export")
@click.argument("file", type=click.Path(dir_okay=False, writable=True))
@_days
@home_option
@json_option
def export(file: str, since: str | None, until: str | None, home: Home, as_json: bool) -> None:
    """Write use and costs as a FOCUS 1.2 dataset (FinOps Open Cost and Usage Specification), in CSV.

    \b
    Example:
        daulat usage export usage.csv --since 2026-01-01 --until 2026-02-01
    """
    rows = ask(home, "usage.focus", **_between(since, until))
    with open(file, "w", encoding="utf-8", newline="") as stream:  # noqa: PTH123  click has looked at it
        stream.write(_csv(COLUMNS, rows))
    emit({"file": file, "rows": len(rows)}, as_json=as_json, text=f"{len(rows)} rows are in {file}.")


@usage.command("check")
@home_option
@json_option
def check(home: Home, as_json: bool) -> None:
    """Count the whole log beside what was counted, and compare. Exits with 1 where somebody has changed the sums.

    \b
    Example:
        daulat usage check
    """
    found = ask(home, "usage.check")
    wrong = found["differences"]
    text = f"{found['entries']} entries of the log were counted again: the sums are the log's."
    if wrong:
        more = [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        head = "Somebody has changed the sums in usage.db. They were dropped and counted anew, and the log says so:"
        text = "\n".join([head, *wrong[:_SHOWN], *more])
    emit(found, as_json=as_json, text=text)
    if wrong:
        raise SystemExit(1)


@usage.command("rebuild")
@home_option
@json_option
def rebuild(home: Home, as_json: bool) -> None:
    """Drop what was counted, and count the whole log again. The sums are the same, or the log is not.

    \b
    Example:
        daulat usage rebuild
    """
    found = ask(home, "usage.rebuild")
    emit(found, as_json=as_json, text=f"{found['entries']} entries of the log were counted.")


@usage.command("prices")
@home_option
@json_option
def prices(home: Home, as_json: bool) -> None:
    """Show the price table in force: prices of a million tokens.

    \b
    Example:
        daulat usage prices
    """
    found = ask(home, "prices")
    rows = [
        {
            "model": row["model"] or "(all others)",
            "since": row["since"],
            **{kind: shown(row[kind] * 10**6) for kind in ("prompt", "cached", "completion")},
        }
        for row in found["prices"]
    ]
    empty = f"No prices: everything costs nothing. They stand in {home.prices}."
    text = table(rows, ("model", "since", "prompt", "cached", "completion"), empty)
    emit(found, as_json=as_json, text=f"{text}\n{found['currency']} a million tokens." if rows else text)


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """RFC 4180; None is an empty field."""
    written = io.StringIO()
    writer = csv.DictWriter(written, columns, extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()

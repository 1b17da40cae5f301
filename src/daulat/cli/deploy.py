"""`daulat deploy`, `deployments`, `replicas`, `logs`, `drain`, `stop`: what runs, and what is to."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import click

from daulat.adapters.models import ModelStore
from daulat.cli import emit, external
from daulat.cli.admin import ask, table
from daulat.cli.external import external_options
from daulat.cli.options import home_option, json_option
from daulat.cli.progress import Progress
from daulat.errors import ConfigError, Unavailable
from daulat.settings import Home

_LOOK_SECONDS: Final = 0.5
_MOST_LINES: Final = 100_000


@click.command()
@click.argument("model")
@click.option("--name", default="", metavar="N", help="What clients call it (default: the model's name).")
@click.option("--engine", help="Which engine runs it (default: by the model's format).")
@click.option("--engine-options", metavar="JSON", help="Options of that engine, as one JSON object.")
@click.option("--replicas", type=int, help="How many engines run it (default 1).")
@click.option("--on", "devices", metavar="DEVICES", help="cpu, or such as npu:0,npu:1 or gpu:0.")
@click.option("--slots", type=int, help="Answers that one replica computes at once (default 4).")
@click.option("--context", type=int, help="Tokens of one answer with its prompt (default 0: the model's own, to 8192).")
@click.option("--strategy", help="rolling: new replicas beside the old; recreate: after them, where two have no room.")
@click.option("--drain-seconds", type=int, help="How long running answers may go on when a replica goes (default 120).")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Stay until it runs, or was given up.")
@external_options
@home_option
@json_option
def deploy(
    model: str,
    name: str,
    engine: str | None,
    engine_options: str | None,
    replicas: int | None,
    devices: str | None,
    slots: int | None,
    context: int | None,
    strategy: str | None,
    drain_seconds: int | None,
    wait: bool,
    home: Home,
    as_json: bool,
    **outside: str,
) -> None:
    """Have a model served, or change how it is: by its name, the beginning of its digest, or a GGUF file.

    The same name with another model or other parameters is a rollout: new replicas are started beside the old ones, and
    take over when they answer. One that does not get there is rolled back by itself, and this exits with 1. What is not
    given stays as it is.

    \b
    Example:
        daulat deploy deepseek-r1-1.5b --replicas 2
        daulat deploy better.gguf --name deepseek-r1-1.5b
        daulat deploy agency-llm --engine external --address https://llm.agency.gov.my#PIN --licence mit \\
          --origin "DeepSeek-V3.1, weights of 2026-03" --country MY --site "Cyberjaya, hall 2"
    """
    progress = Progress(quiet=as_json)
    options = None if engine_options is None else _options(engine_options)
    if stated := {option: value for option, value in outside.items() if value}:
        name = name or model
        engine, options = "external", external.options(stated, options or {})
        model = external.state(ModelStore(home.models), model, stated)
    elif Path(model).is_file():
        model = _imported(home, Path(model), progress)
    changes: dict[str, Any] = {
        "engine": engine,
        "options": options,
        "replicas": replicas,
        "devices": None if devices is None else [one for one in devices.split(",") if one != "cpu"],
        "slots": slots,
        "context": context,
        "strategy": strategy,
        "drain_seconds": drain_seconds,
    }
    found = ask(home, "deploy", model=model, name=name, changes=changes)
    if wait:
        found = _settled(home, found, progress)
    emit(found, as_json=as_json, text=_deployment(found))
    if wait and _given_up(found):
        raise SystemExit(1)


def _imported(home: Home, path: Path, progress: Progress) -> str:
    from daulat.adapters import model_import

    return model_import.add(ModelStore(home.models), path, model_import.Wishes(""), progress.bar).digest


def _options(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"is no JSON: {error}", location="--engine-options") from None
    if not isinstance(value, dict):
        raise ConfigError('is no JSON object such as {"max_model_len": 8192}', location="--engine-options")
    return value


def _settled(home: Home, found: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The deployment once it is up as wished, or was given up."""
    said = ""
    while not _complete(found) and not _given_up(found):
        time.sleep(_LOOK_SECONDS)
        rows = [row for row in ask(home, "deployments") if row["name"] == found["name"]]
        if not rows:
            raise Unavailable(f"deployment {found['name']} was stopped meanwhile")
        found = rows[0]
        words = _progressing(found)["message"]
        if words != said:
            progress.say(f"{words} ...")
            said = words
    return found


def _progressing(found: dict[str, Any]) -> dict[str, str]:
    return next(said for said in found["status"]["conditions"] if said["type"] == "Progressing")


def _complete(found: dict[str, Any]) -> bool:
    return _progressing(found)["reason"] == "Complete"


def _given_up(found: dict[str, Any]) -> bool:
    return _progressing(found)["status"] == "False"


def _deployment(found: dict[str, Any]) -> str:
    rows = [f"{said['type']:<12} {said['status']:<6} {said['message']}" for said in found["status"]["conditions"]]
    return "\n".join([f"{found['name']}, generation {found['generation']}", *rows])


@click.command()
@home_option
@json_option
def deployments(home: Home, as_json: bool) -> None:
    """List the deployments: what is wished for, and how far that is so.

    \b
    Example:
        daulat deployments
        daulat deployments --json | jq '.[].status.conditions'
    """
    rows = ask(home, "deployments")
    shown = [
        {
            "name": row["name"],
            "model": row["spec"]["model"][:12],
            "ready": f"{row['status']['ready_replicas']} of {row['spec']['replicas']}",
            "revision": row["status"]["revision"],
            "progress": _progressing(row)["reason"],
            "what is so": _progressing(row)["message"],
        }
        for row in rows
    ]
    columns = ("name", "model", "ready", "revision", "progress", "what is so")
    emit(rows, as_json=as_json, text=table(shown, columns, "No deployments. Make one: daulat deploy MODEL"))


@click.command()
@home_option
@json_option
def replicas(home: Home, as_json: bool) -> None:
    """List the replicas: engines that run, start, drain or are broken.

    \b
    Example:
        daulat replicas
    """
    rows = ask(home, "replicas")
    columns = ("id", "deployment", "revision", "phase", "requests", "slots", "threads", "ends", "last")
    shown = [{**row, "slots": "" if row["slots"] is None else row["slots"]} for row in rows]
    emit(rows, as_json=as_json, text=table(shown, columns, "No replicas. Make some: daulat deploy MODEL"))


@click.command()
@click.argument("replica")
@click.option("--lines", type=click.IntRange(1, _MOST_LINES), default=100, show_default=True, help="From the end.")
@home_option
@json_option
def logs(replica: str, lines: int, home: Home, as_json: bool) -> None:
    """Show the end of a replica's log, by its id or the beginning of that; also of one that is gone.

    \b
    Example:
        daulat logs 3284e5 --lines 20
    """
    found = ask(home, "logs", replica=replica, lines=lines)
    emit(found, as_json=as_json, text="\n".join(found))


@click.command()
@click.argument("replica")
@home_option
@json_option
def drain(replica: str, home: Home, as_json: bool) -> None:
    """Have a replica replaced: it gets nothing new once its successor answers, ends what it has, and stops.

    \b
    Example:
        daulat drain 3284e5
    """
    found = ask(home, "replica.drain", replica=replica)
    text = f"Replica {found['id']} of {found['deployment']} goes as soon as another answers: see `daulat replicas`."
    emit(found, as_json=as_json, text=text)


@click.command()
@click.argument("deployment")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Stay until its replicas have ended.")
@home_option
@json_option
def stop(deployment: str, wait: bool, home: Home, as_json: bool) -> None:
    """Stop serving a deployment: its replicas end what they have and stop, and no start brings them back.

    When this returns no new request is answered under that name, in any worker; unless with `--no-wait`, nothing of it
    runs any more either, and `/v1/models` names it no longer.

    \b
    Example:
        daulat stop deepseek-r1-1.5b
    """
    progress = Progress(quiet=as_json)
    found = ask(home, "deployment.stop", deployment=deployment)
    if wait:
        _ended(home, deployment, progress)
    ended = "nothing of it runs any more" if wait else "its replicas end what they have"
    emit(found, as_json=as_json, text=f"{found['name']} is stopped: {ended}.")


def _ended(home: Home, deployment: str, progress: Progress) -> None:
    """Once no replica of it is held, and every worker knows."""
    said = ""
    while True:
        wished = any(row["name"] == deployment for row in ask(home, "deployments"))
        rows = [row for row in ask(home, "replicas") if row["deployment"] == deployment]
        if wished or not rows:  # deployed anew meanwhile, or gone
            break
        words = f"{len(rows)} replicas end, {sum(row['requests'] for row in rows):.0f} requests are still answered"
        if words != said:
            progress.say(f"{words} ...")
            said = words
        time.sleep(_LOOK_SECONDS)

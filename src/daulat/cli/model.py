"""`daulat model`: import models and look at them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from daulat import registry
from daulat.adapters.models import ModelStore
from daulat.adapters.models import Progress as Bar
from daulat.cli import emit
from daulat.cli.options import home_option, json_option
from daulat.cli.progress import Progress
from daulat.registry.model import ModelFacts, Record
from daulat.settings import Home


@click.group()
def model() -> None:
    """Import models and look at them."""


@model.command("import")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", metavar="N", help="What clients call it (default: the model's own name).")
@click.option("--licence", metavar="SPDX", help="Under which licence you may use it (default: what the file says).")
@click.option("--origin", metavar="TEXT", help="Where it comes from (default: what the file says).")
@click.option(
    "--optimise",
    is_flag=False,
    flag_value="q8_0",
    type=click.Choice(["q8_0", "q4_0"]),
    help="Re-quantise Q4_1 weights, as a derived model with its own digest: q8_0 (default) keeps their precision.",
)
@home_option
@json_option
def import_(
    path: Path,
    name: str | None,
    licence: str | None,
    origin: str | None,
    optimise: str | None,
    home: Home,
    as_json: bool,
) -> None:
    """Copy a GGUF model into this installation, under the SHA-256 of its bytes.

    \b
    Example:
        daulat model import DeepSeek-R1-Distill-Qwen-1.5B-Q8_0.gguf --name deepseek-r1-1.5b
        daulat model import model.Q4_1.gguf --optimise
    """
    store = ModelStore(home.models)
    bar, said = Progress(quiet=as_json).bar, registry.facts(path, digest="unread")
    record = Record(name or said.name, origin or said.origin, (licence or said.licence).lower())
    found = _optimised(store, path, record, optimise, bar) if optimise else store.add(path, record, bar)
    text = f"{describe(found)}\n\nServe it: daulat up --model {found.name}"
    emit(asdict(found), as_json=as_json, text=text)


def _optimised(store: ModelStore, path: Path, record: Record, target: str, bar: Bar) -> ModelFacts:
    from daulat.adapters import requantise

    with store.beside() as folder:
        original = store.add(path, record, bar)
        made = folder / path.name
        requantise.requantise(store.path(original.digest), made, target, bar)
        derived = {"digest": original.digest, "recipe": requantise.recipe(target)}
        kept = Record(f"{original.name}-{target}", original.origin, original.licence, derived)
        return store.add(made, kept, bar)


@model.command("list")
@home_option
@json_option
def list_(home: Home, as_json: bool) -> None:
    """List the imported models.

    \b
    Example:
        daulat model list
    """
    found = ModelStore(home.models).all()
    lines = [
        f"{facts.name:<40} {facts.quantisation:<8} {facts.size / 2**20:>8.0f} MiB  {facts.digest[:12]}"
        for facts in found
    ]
    text = "\n".join(lines) or "No model yet. `daulat up` fetches the starter model; `daulat model import` adds yours."
    emit([_short(facts) for facts in found], as_json=as_json, text=text)


@model.command("show")
@click.argument("name")
@click.option("--verify", is_flag=True, help="Hash the file again.")
@home_option
@json_option
def show(name: str, verify: bool, home: Home, as_json: bool) -> None:
    """Show what one model is: digest, architecture, licence, templates. NAME may be the beginning of its digest.

    \b
    Example:
        daulat model show smollm2-135m-instruct --verify
    """
    store = ModelStore(home.models)
    facts = store.find(name)
    if verify:
        store.verified(facts.digest, Progress(quiet=as_json).bar)
    emit(asdict(facts), as_json=as_json, text=describe(facts))


def describe(facts: ModelFacts) -> str:
    """A model in lines for people."""
    rows = [
        ("name", facts.name),
        ("digest", facts.digest),
        ("title", facts.title),
        ("architecture", facts.architecture),
        ("parameters", f"{facts.parameters / 1e6:.0f} million, most of them {facts.quantisation}"),
        ("size", f"{facts.size:,} bytes"),
        ("context", f"{facts.context_length} tokens"),
        ("licence", facts.licence or "the file names none"),
        ("origin", facts.origin or "the file names none"),
        ("embeds", "yes" if facts.embeds else "no"),
        ("templates", ", ".join(f"{template.name} ({template.sha256[:12]})" for template in facts.templates) or "none"),
    ]
    if facts.derived_from:
        rows.append(("made from", f"{facts.derived_from['digest']}: {facts.derived_from['recipe']}"))
    return "\n".join(f"{name:<13} {value}" for name, value in rows)


def _short(facts: ModelFacts) -> dict[str, Any]:
    return {key: value for key, value in asdict(facts).items() if key != "templates"}

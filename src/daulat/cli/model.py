"""`daulat model`: import models and look at them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from daulat.adapters.models import ModelStore
from daulat.adapters.models import Progress as Bar
from daulat.cli import emit
from daulat.cli.fit import catalog, fit
from daulat.cli.options import home_option, json_option
from daulat.cli.progress import Progress
from daulat.cli.recipe import recipe
from daulat.errors import ConfigError, NotFound, SealBroken
from daulat.registry.model import ModelFacts
from daulat.settings import Home

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def model() -> None:
    """Import models and look at them."""


model.add_command(fit)
model.add_command(catalog)
model.add_command(recipe)


@model.command("import")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--name", default="", metavar="N", help="What clients call it (default: the model's own name).")
@click.option("--licence", default="", metavar="SPDX", help="Under which licence you may use it (default: its papers).")
@click.option("--origin", default="", metavar="TEXT", help="Where it comes from (default: what its files say).")
@click.option("--base-model", default="", metavar="TEXT", help="What it was made from (default: what its files say).")
@click.option(
    "--without-code",
    is_flag=True,
    help="Leave out Python files, and the keys that ask for them: a derived model with its own digest.",
)
@click.option("--chat-template", type=_FILE, help="A Jinja file in place of the model's own: a derived model.")
@click.option("--signature", type=_FILE, help="An OpenSSF model signature, which must hold.")
@click.option("--key", type=_FILE, help="The signer's public key, PEM.")
@click.option(
    "--certificate-chain",
    type=_FILE,
    multiple=True,
    help="A certificate, PEM, that the signer's must descend from; may be given again.",
)
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
    name: str,
    licence: str,
    origin: str,
    base_model: str,
    without_code: bool,
    chat_template: Path | None,
    signature: Path | None,
    key: Path | None,
    certificate_chain: tuple[Path, ...],
    optimise: str | None,
    home: Home,
    as_json: bool,
) -> None:
    """Copy a model into this installation, under the SHA-256 of its bytes.

    PATH is a GGUF file (any part of a split one), a folder with config.json and .safetensors, or a wheel, tar, tar.gz
    or tar.zst that holds either. What can carry code is refused. Interrupted, it goes on where it was.

    \b
    Example:
        daulat model import DeepSeek-R1-Distill-Qwen-1.5B-Q8_0.gguf --name deepseek-r1-1.5b
        daulat model import DeepSeek-V3.1/ --signature model.sig --key publisher.pub
        daulat model import model.Q4_1.gguf --optimise
    """
    from daulat.adapters import model_import, signatures

    asked = signatures.check_asked(signature, key, certificate_chain)
    wishes = model_import.Wishes(name, origin, licence, base_model, None, without_code, asked, "", chat_template)
    store, bar = ModelStore(home.models), Progress(quiet=as_json).bar
    found = model_import.add(store, path, wishes, bar)
    if optimise:
        found = _optimised(store, found, optimise, bar)
    text = f"{describe(found)}\n\nServe it: daulat up --model {found.name}"
    emit(_whole(store, found), as_json=as_json, text=text)


def _optimised(store: ModelStore, original: ModelFacts, target: str, bar: Bar) -> ModelFacts:
    from daulat.adapters import model_import, requantise

    if len(original.files) != 1:
        raise ConfigError("--optimise is for a model of one GGUF file")
    with store.beside() as folder:
        made = folder / f"{original.name}-{target}.gguf"
        requantise.requantise(store.path(original.digest), made, target, bar)
        derived = {"digest": original.digest, "recipe": requantise.recipe(target)}
        name = f"{original.name}-{target}"
        wishes = model_import.Wishes(name, original.origin, original.licence, original.base_model, derived)
        return model_import.add(store, made, wishes, bar)


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
        f"{facts.name:<40} {facts.format:<11} {facts.quantisation:<8} {facts.size >> 20:>8} MiB  {facts.digest[:12]}"
        for facts in found
    ]
    text = "\n".join(lines) or "No model yet. `daulat up` fetches the starter model; `daulat model import` adds yours."
    emit([_short(facts) for facts in found], as_json=as_json, text=text)


@model.command("show")
@click.argument("name")
@click.option("--verify", is_flag=True, help="Hash the files again.")
@click.option("--template", metavar="T", help="Print the chat template of this name instead, such as 'default'.")
@click.option("--files", "with_files", is_flag=True, help="List every file with its SHA-256.")
@home_option
@json_option
def show(name: str, verify: bool, template: str | None, with_files: bool, home: Home, as_json: bool) -> None:
    """Show what one model is: digest, licence, signer, templates. NAME may be the beginning of its digest.

    \b
    Example:
        daulat model show smollm2-135m-instruct --verify
        daulat model show smollm2-135m-instruct --template default
    """
    store = ModelStore(home.models)
    facts = store.find(name)
    if verify:
        store.check(facts.digest, Progress(quiet=as_json).bar)
    if template is not None:
        found = next((item for item in facts.templates if item.name == template), None)
        if found is None:
            raise NotFound(f"its templates are: {', '.join(item.name for item in facts.templates) or 'none'}")
        emit(asdict(found), as_json=as_json, text=found.text)
        return
    lines = [f"{file.sha256}  {file.size:>16,}  {file.path}" for file in facts.files] if with_files else []
    emit(_whole(store, facts), as_json=as_json, text="\n".join([describe(facts), *lines]))


@model.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@home_option
@json_option
def verify_(names: tuple[str, ...], home: Home, as_json: bool) -> None:
    """Hash models again, all or those named, and compare with their digests. Exit code 1 when one was changed.

    \b
    Example:
        daulat model verify
        daulat model verify deepseek-r1-1.5b
    """
    store, bar = ModelStore(home.models), Progress(quiet=as_json).bar
    found = [store.find(name) for name in names] or store.all()
    wrong: dict[str, str] = {}
    for facts in found:
        try:
            store.check(facts.digest, bar)
            store.papers(facts.digest)
        except SealBroken as error:
            wrong[facts.digest] = error.message
    rows = [
        {"name": facts.name, "digest": facts.digest, "ok": facts.digest not in wrong, "error": wrong.get(facts.digest)}
        for facts in found
    ]
    lines = [f"{'changed' if facts.digest in wrong else 'good':<8} {facts.name}  {facts.digest}" for facts in found]
    emit(rows, as_json=as_json, text="\n".join([*lines, *wrong.values()]) or "No model is imported.")
    if wrong:
        sys.exit(1)


def describe(facts: ModelFacts) -> str:
    """A model in lines for people."""
    rows = [
        ("name", facts.name),
        ("digest", facts.digest),
        ("title", facts.title),
        ("architecture", facts.architecture),
        ("parameters", f"{facts.parameters / 1e6:.0f} million, most of them {facts.quantisation}"),
        ("size", f"{facts.size:,} bytes"),
        ("format", facts.format),
        ("context", f"{facts.context_length} tokens" if facts.context_length else ""),
        ("files", str(len(facts.files)) if len(facts.files) > 1 else ""),
        ("licence", facts.licence or "its papers name none; give --licence"),
        ("origin", facts.origin or "its papers name none"),
        ("base model", facts.base_model),
        ("signed by", facts.signed_by or "nobody whose signature was checked"),
        ("embeds", "yes" if facts.embeds else "no"),
        ("templates", ", ".join(f"{template.name} ({template.sha256[:12]})" for template in facts.templates) or "none"),
    ]
    if facts.derived_from:
        rows.append(("made from", f"{facts.derived_from['digest']}: {facts.derived_from['recipe']}"))
    return "\n".join(f"{name:<13} {value}" for name, value in rows if value)


def _whole(store: ModelStore, facts: ModelFacts) -> dict[str, Any]:
    """For scripts: everything, and where an engine finds it."""
    return {**asdict(facts), "path": str(store.path(facts.digest))}


def _short(facts: ModelFacts) -> dict[str, Any]:
    return {key: value for key, value in asdict(facts).items() if key not in {"templates", "files"}}

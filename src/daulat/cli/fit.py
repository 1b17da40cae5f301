"""`daulat model fit` and `daulat model catalog`: what is known of models, and what they need."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from daulat.catalog import accelerators, config_json, gguf_metadata
from daulat.catalog import models as known
from daulat.catalog.accelerators import Hardware
from daulat.catalog.counting import active, mtp_parts, parts
from daulat.catalog.models import ModelSpec
from daulat.catalog.shape import Compressed, GroupedQuery, Latent
from daulat.cli import emit
from daulat.cli.options import json_option
from daulat.errors import ConfigError
from daulat.planner import memory
from daulat.planner.fit import Fit, Plan, Wish
from daulat.planner.fit import fit as planned
from daulat.planner.layout import Layout
from daulat.planner.memory import GIB

_ESTIMATE = "weights are counted from the architecture; activations, buffers and runtime are estimates"


@click.command("fit")
@click.argument("model")
@click.option(
    "--on", "on", metavar="HARDWARE", required=True, help="A node (a3), chips (8xH200, 910B3x8) or cpu:64GiB."
)
@click.option("--nodes", type=click.IntRange(1), help="How many such nodes (default: what the name says, else 1).")
@click.option(
    "--precision", metavar="P", default="", help="Of the weights, such as w8a8 (default: the best that fits)."
)
@click.option("--kv", metavar="P", default="", help="Of the KV cache: bf16, fp16, fp8, int8 or q8_0.")
@click.option("--context", type=click.IntRange(1), default=None, help="Tokens of prompt and answer (default: 32768).")
@json_option
def fit(model: str, on: str, nodes: int | None, precision: str, kv: str, context: int | None, as_json: bool) -> None:
    """Say whether MODEL fits on HARDWARE: layout, memory by part, room for the KV cache; or why not, and what would.

    MODEL is a name of the catalogue, a checkpoint's repository, or a path to a config.json or a GGUF file. Exit code 0
    where it fits, 1 where it does not.

    \b
    Example:
        daulat model fit deepseek-r1 --on a3
        daulat model fit deepseek-v4-pro --on a2 --nodes 4 --context 131072
        daulat model fit ./config.json --on 8xH200 --json
    """
    spec, implied = chosen(model)
    hardware = accelerators.hardware(on)
    if nodes is not None:
        hardware = hardware.with_nodes(nodes)
    wish = Wish(precision=precision.lower() or implied, context=context or 0, kv=kv.lower())
    found = planned(spec, hardware, wish)
    emit(described(found), as_json=as_json, text=_text(found))
    if not found.fits:
        click.get_current_context().exit(1)


@click.command("catalog")
@click.argument("model", required=False)
@json_option
def catalog(model: str | None, as_json: bool) -> None:
    """List the models that are known, or all that is known of MODEL, with sources.

    \b
    Example:
        daulat model catalog
        daulat model catalog deepseek-v3.2 --json
    """
    if model is None:
        specs = list(known.models().values())
        emit([_row(spec) for spec in specs], as_json=as_json, text=_listed(specs))
        return
    spec, _ = chosen(model)
    emit({**asdict(spec), **_row(spec), "sources": spec.sources}, as_json=as_json, text=_shown(spec))


def chosen(name: str) -> tuple[ModelSpec, str]:
    """The model that a name or a path means, and the precision that a checkpoint's name implies ("" where none).

    Raises:
        NotFound: no such model and no such file.
        ConfigError: the file is neither a config.json nor a GGUF file that can be planned for.
    """
    path = Path(name)
    if path.is_dir() and (path / "config.json").is_file():
        path /= "config.json"
    if path.is_file():
        return (_from_gguf(path) if _is_gguf(path) else _from_config(path)), ""
    if path.suffix in {".json", ".gguf"} or name.startswith((".", "/", "~")):
        raise ConfigError("there is no such file", location=name)
    return known.find(name), known.implied_precision(name)


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def _from_config(path: Path) -> ModelSpec:
    with path.open("rb") as stream:
        data = stream.read(config_json.MOST_BYTES + 1)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError("is neither a config.json nor a GGUF file", location=str(path)) from None
    return config_json.read(text, name=path.absolute().parent.name or "model", location=str(path))


def _from_gguf(path: Path) -> ModelSpec:
    """By the headers of all its parts, of which the first describes the model."""
    from daulat import registry
    from daulat.registry import gguf

    headers, size = [], 0
    for part in registry.files_of(path).values():
        length = part.stat().st_size
        with part.open("rb") as stream:
            try:
                headers.append(gguf.read(stream, length))
            except gguf.BadModel as error:
                raise gguf.BadModel(error.message, location=str(part)) from None
        size += length
    tensors = [tensor for header in headers for tensor in header.tensors]
    return gguf_metadata.spec(
        headers[0].metadata,
        vocabulary=headers[0].arrays.get("tokenizer.ggml.tokens", 0),
        elements=sum(tensor.elements for tensor in tensors),
        size=size,
        tied=all(tensor.name != "output.weight" for tensor in tensors),
        name=headers[0].text("general.name") or path.stem,
        location=str(path),
    )


def described(found: Fit) -> dict[str, Any]:
    """A fit as JSON has it; sizes in GiB a device."""
    plan = found.plan
    return {
        "fits": found.fits,
        "model": found.model.id,
        "hardware": _hardware(found.hardware),
        "precision": found.precision.name if found.precision else None,
        "kv_precision": found.kv or None,
        "plan": _plan(plan) if plan else None,
        "others": [_plan(other) for other in found.others],
        "reasons": list(found.reasons),
        "notes": list(found.notes),
        "advice": list(found.advice),
    }


def _hardware(hardware: Hardware) -> dict[str, Any]:
    return {
        "node": hardware.node.id or hardware.node.title,
        "chip": hardware.chip.id,
        "devices_per_node": hardware.devices,
        "nodes": hardware.nodes,
        "memory_gib": hardware.chip.memory,
    }


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "layout": asdict(plan.layout),
        "utilisation": plan.utilisation,
        "items_gib": {item.name: round(item.bytes / GIB, 3) for item in plan.items},
        "used_gib": round(plan.used / GIB, 3),
        "kv_cache_gib": round(plan.room / GIB, 3),
        "kv_tokens": plan.tokens,
        "context": plan.context,
        "longest_context": plan.longest,
        "concurrency": plan.concurrency,
    }


def _text(found: Fit) -> str:
    plan = found.plan
    lines = [f"{found.model.title} on {found.hardware}: it {'fits' if found.fits else 'does not fit'}", ""]
    lines += [f"  why        {reason}" for reason in found.reasons]
    lines += [f"  instead    {advice}" for advice in found.advice]
    if plan is not None and found.precision is not None:
        lines += _account(found, plan, found.precision.note)
    lines += [f"  note       {note}" for note in found.notes]
    if plan is not None:
        lines.append(f"  note       {_ESTIMATE}")
    return "\n".join(lines)


def _account(found: Fit, plan: Plan, note: str) -> list[str]:
    name = found.precision.name if found.precision else ""
    chip = found.hardware.chip
    lines = [] if found.fits else ["", "  nearest to it:"]
    lines += [
        f"  weights    {name}: {note}",
        f"  layout     {plan.layout}: {_words(plan.layout)}",
        f"  context    {plan.context:,} tokens planned; the model has {found.model.context:,}",
        "",
        "  each device, GiB",
    ]
    lines += [f"    {item.name:<36}{item.bytes / GIB:>8.2f}" for item in plan.items]
    if chip.idle:
        lines.append(f"    {'kept by the driver':<36}{chip.idle:>8.2f}")
    unused = chip.memory - chip.idle - plan.budget / GIB
    lines += [
        f"    {'left for the KV cache, ' + found.kv:<36}{plan.room / GIB:>8.2f}",
        f"    {f'not used (utilisation {plan.utilisation:.2f})':<36}{unused:>8.2f}",
        f"    {'memory of one ' + chip.title:<36}{chip.memory:>8.2f}",
        "",
    ]
    if found.fits:
        lines.append(f"  KV cache   {_capacity(plan)}")
        lines += [f"  or         {other.layout}: {_capacity(other)}" for other in found.others]
    return lines


def _words(layout: Layout) -> str:
    widths = {
        "tensor": layout.tensor,
        "data": layout.data,
        "pipeline": layout.pipeline,
        "expert": layout.experts,
        "decode context": layout.context,
    }
    return ", ".join(f"{width}-way {name}" for name, width in widths.items() if width > 1) or "nothing is divided"


def _capacity(plan: Plan) -> str:
    return f"{plan.tokens:,} tokens in all, {plan.concurrency} at once of {plan.context:,} tokens"


def _row(spec: ModelSpec) -> dict[str, Any]:
    """What a list shows, computed from the shape."""
    return {
        "id": spec.id,
        "title": spec.title,
        "parameters": parts(spec.shape).total,
        "mtp_parameters": mtp_parts(spec.shape).total,
        "active_parameters": active(spec.shape),
        "native": spec.native,
        "weights_gib": {
            name: round(memory.whole(spec.shape, spec.precision(name)) / GIB, 1)
            for name in (spec.native, *(name for name in spec.weights if name != spec.native))
        },
        "kv_bytes_per_token": memory.kv(spec.shape, "bf16", Layout(1, 1), drafts=False).token,
        "context": spec.context,
        "licence": spec.licence,
    }


def _listed(specs: list[ModelSpec]) -> str:
    lines = [
        f"{'model':<32}{'params':>9}{'active':>8}  {'native':<7}{'GiB':>7}{'KV B/token':>12}{'context':>10}  licence"
    ]
    for spec in specs:
        row = _row(spec)
        size, token = row["weights_gib"][spec.native], row["kv_bytes_per_token"]
        lines.append(
            f"{spec.id:<32}{row['parameters'] / 1e9:>8.1f}B{row['active_parameters'] / 1e9:>7.1f}B  {spec.native:<7}"
            f"{size:>7.1f}{token:>12,.0f}{spec.context:>10,}  {spec.licence}"
        )
    return "\n".join(lines)


def _shown(spec: ModelSpec) -> str:
    row, shape = _row(spec), spec.shape
    layers = f"{shape.layers} ({shape.dense_layers} dense, {shape.moe_layers} with experts), MTP {shape.mtp_layers}"
    rows = [
        ("title", spec.title),
        ("architecture", f"{spec.architecture}: {_attention(spec)}"),
        ("layers", f"{layers}; hidden {shape.hidden}, vocabulary {shape.vocabulary}"),
        ("experts", _experts(spec)),
        ("parameters", f"{row['parameters'] / 1e9:.2f}B, {row['active_parameters'] / 1e9:.2f}B active"),
        ("native", spec.native),
        *((f"  {name}", f"{size:>8.1f} GiB  {_checkpoint(spec, name)}") for name, size in row["weights_gib"].items()),
        ("KV cache", f"{row['kv_bytes_per_token']:,.0f} bytes a token in bf16"),
        ("context", f"{spec.context:,} tokens"),
        *((engine, _parsers(parsers)) for engine, parsers in spec.parsers.items()),
        ("thinking", _thinking(spec)),
        ("template", _template(spec)),
        ("licence", spec.licence),
        ("also named", ", ".join(spec.aliases) or "-"),
        ("confidence", spec.confidence),
        *(("source", source) for source in spec.sources),
    ]
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def _attention(spec: ModelSpec) -> str:
    attention = spec.shape.attention
    if isinstance(attention, Latent):
        sparse = f", an indexer chooses {attention.indexer.top} tokens" if attention.indexer else ""
        return f"latent attention of {attention.heads} heads, rank {attention.kv_rank}+{attention.rope}{sparse}"
    if isinstance(attention, Compressed):
        return f"compressed attention of {attention.heads} heads, window {attention.window}"
    if isinstance(attention, GroupedQuery):
        linear = spec.shape.linear
        mixed = f", {linear.layers} layers of linear attention" if linear else ""
        window = (
            f", {attention.sliding_layers} layers see {attention.window} tokens" if attention.sliding_layers else ""
        )
        return f"{attention.heads} query and {attention.kv_heads} key-value heads of {attention.head}{window}{mixed}"
    raise AssertionError(attention)


def _experts(spec: ModelSpec) -> str:
    experts = spec.shape.experts
    if experts is None:
        return "none"
    return f"{experts.routed}, {experts.active} for a token, {experts.shared} shared; width {experts.hidden}"


def _checkpoint(spec: ModelSpec, name: str) -> str:
    return spec.weights[name].checkpoint or "-"


def _parsers(parsers: known.Parsers) -> str:
    flags = (("--reasoning-parser", parsers.reasoning), ("--tool-call-parser", parsers.tools))
    mode = (("--tokenizer-mode", parsers.tokenizer_mode),)
    return " ".join(f"{flag} {value}" for flag, value in (*flags, *mode) if value)


def _thinking(spec: ModelSpec) -> str:
    thinking = spec.thinking
    if thinking is None:
        return "-"
    switch = f" by {thinking.argument}, {'on' if thinking.default else 'off'} unasked" if thinking.argument else ""
    efforts = f", reasoning_effort {' or '.join(thinking.efforts)}" if thinking.efforts else ""
    return f"{thinking.kind}{switch}{efforts}{', opened by the template' if thinking.opened else ''}"


def _template(spec: ModelSpec) -> str:
    if spec.template is None:
        return "-"
    ships = "ships with the checkpoint" if spec.template.ships else "none ships"
    return f"{ships}; {spec.template.rule}" if spec.template.rule else ships

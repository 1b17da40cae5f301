"""`daulat model recipe`: the whole launch of a model on hardware, for review."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from daulat.catalog import accelerators
from daulat.catalog.accelerators import Hardware
from daulat.catalog.models import ModelSpec
from daulat.cli import emit
from daulat.cli.fit import chosen
from daulat.cli.options import json_option
from daulat.engines.recipes import ascend, choose, render
from daulat.engines.recipes.recipe import BALANCING, DRAFTERS, GOALS, KV_POOLS, Note, Site, Workload
from daulat.errors import ConfigError
from daulat.pipeline import recipes

_PLACEHOLDERS = Note("node-0, node-1 ... stand for the nodes' addresses: give --address once a node", "docs/recipes.md")
_CHECKPOINTS = "/models"  # where weights lie by default, each checkpoint under its own name
_MOST_BYTES = 1_000_000  # of an hccn.conf
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("recipe")
@click.argument("model")
@click.option("--on", "on", metavar="HARDWARE", required=True, help="A node (a3), chips (8xH200) or cpu:64GiB.")
@click.option("--nodes", type=click.IntRange(1), help="How many such nodes (default: what the name says, else 1).")
@click.option("--goal", type=click.Choice(GOALS), default="throughput", show_default=True, help="What matters most.")
@click.option("--engine", type=click.Choice(list(choose.ENGINES)), help="Default: the usual one for the chips.")
@click.option("--precision", metavar="P", help="Of the weights, such as w8a8 (default: the best the chips compute in).")
@click.option("--format", "form", type=click.Choice(render.FORMATS), default="shell", show_default=True)
@click.option("--context", type=click.IntRange(1), help="Most tokens of prompt and answer (default: the recipe's).")
@click.option("--concurrency", type=click.IntRange(1), help="Answers at once in all (default: the recipe's).")
@click.option("--drafts", type=click.IntRange(0), help="Tokens drafted ahead by MTP; 0 for none.")
@click.option("--drafter", type=(click.Choice(DRAFTERS), str), metavar="METHOD PATH", help="A model of its own drafts.")
@click.option("--shared-prefix/--no-shared-prefix", default=None, help="Whether prompts often begin alike.")
@click.option("--balancing", type=click.Choice(BALANCING), help="Who spreads requests over data-parallel ranks.")
@click.option("--rebalance", is_flag=True, help="Let experts move between devices by load (EPLB).")
@click.option("--layerwise", is_flag=True, help="Hand the KV cache over layer by layer.")
@click.option("--layout", nargs=2, type=click.IntRange(1), metavar="TP DP", help="In place of the recipe's own.")
@click.option("--prefill-nodes", type=click.IntRange(1), help="Nodes that read prompts, where apart (default: half).")
@click.option("--kv-pool", type=click.Choice(KV_POOLS), help="Keep KV cache in main memory, shared by all engines.")
@click.option("--kv-pool-gib", type=click.IntRange(1), default=10, show_default=True, help="Of it, for each device.")
@click.option("--tpot", type=click.IntRange(1), metavar="MS", help="Most milliseconds between tokens of an answer.")
@click.option(
    "--weights", metavar="PATH", help="Where the weights lie (default: MODEL if a path, else /models/CHECKPOINT)."
)
@click.option("--name", metavar="N", help="What clients call the model (default: its name in the catalogue).")
@click.option(
    "--address", "addresses", multiple=True, metavar="IP", help="Of each node, in order; give it once a node."
)
@click.option("--interface", default="eth0", show_default=True, help="Each node's network card.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Where clients connect.")
@click.option("--hccn-conf", "hccn", multiple=True, type=_FILE, help="Each node's /etc/hccn.conf, in order (MindIE).")
@json_option
def recipe(model: str, on: str, form: str, as_json: bool, **options: Any) -> None:
    """Print the whole launch of MODEL on HARDWARE: processes, flags, environment, files, container.

    MODEL is a name of the catalogue, a checkpoint's repository, or a path to a config.json or a GGUF file. Nothing is
    started. Rules, sources and what differs from the public configurations: docs/recipes.md.

    \b
    Example:
        daulat model recipe deepseek-v3.2 --on a3
        daulat model recipe deepseek-v4-pro --on a3 --nodes 4 --goal disaggregated --format container
        daulat model recipe deepseek-r1 --on 8xH200 --engine sglang --goal latency
    """
    spec, implied = chosen(model)
    hardware = accelerators.hardware(on)
    if options["nodes"] is not None:
        hardware = hardware.with_nodes(options["nodes"])
    wished = (
        "goal",
        "context",
        "concurrency",
        "shared_prefix",
        "drafts",
        "balancing",
        "rebalance",
        "layerwise",
        "prefill_nodes",
        "tpot",
        "drafter",
        "kv_pool",
        "kv_pool_gib",
    )
    workload = Workload(**{name: options[name] for name in wished}, layout=options["layout"] or None)
    precision = (options["precision"] or implied or "").lower() or None
    weights = options["weights"] or _own(model)
    site = _site(spec, hardware, weights or _CHECKPOINTS, options)
    found = recipes.recipe(
        spec,
        hardware,
        workload=workload,
        site=site,
        engine=options["engine"],
        precision=precision,
        named=weights is None,
    )
    if hardware.nodes > 1 and not options["addresses"]:
        found = replace(found, notes=(*found.notes, _PLACEHOLDERS))
    emit(render.as_json(found), as_json=as_json, text=render.text(found, form).rstrip("\n"))


def _own(model: str) -> str | None:
    """Where the weights lie, if MODEL is a path: the GGUF itself, or the folder of a config.json."""
    path = Path(model).absolute()
    if not path.exists():
        return None
    return str(path.parent if path.name.endswith(".json") else path)


def _site(spec: ModelSpec, hardware: Hardware, weights: str, options: dict[str, Any]) -> Site:
    usual = ("127.0.0.1",) if hardware.nodes == 1 else tuple(f"node-{index}" for index in range(hardware.nodes))
    return Site(
        weights=weights,
        name=options["name"] or spec.id,
        addresses=options["addresses"] or usual,
        interface=options["interface"],
        port=options["port"],
        device_addresses=tuple(_device_addresses(path) for path in options["hccn"]),
    )


def _device_addresses(path: Path) -> tuple[str, ...]:
    with path.open("rb") as stream:
        data = stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"has more than {_MOST_BYTES} bytes: it is no hccn.conf", location=str(path))
    return ascend.device_addresses(data.decode(errors="replace"))

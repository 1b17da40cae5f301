"""Recipes for llama.cpp's own server, on CPUs and GPUs. Pure.

Daulat embeds llama.cpp (`daulat up --model`); this is for a machine of its own. Flags:
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md.
"""

from __future__ import annotations

from typing import Final

from daulat.engines.recipes.recipe import Group, Misfit, Note, Process, Recipe, Request, flags
from daulat.errors import ConfigError

ENGINE: Final = "llama.cpp"
SLOTS: Final = 4
CONTEXT: Final = 8192
FULL: Final = 0.85  # of memory that weights may take


def recipe(request: Request) -> Recipe:
    """The whole launch: one server on one node. `-c` is the context of all slots together.

    Raises:
        ConfigError: several nodes, chips it has no backend for, or too little memory.
    """
    hardware, site = request.hardware, request.site
    if hardware.nodes > 1 or hardware.chip.vendor == "huawei" or request.workload.goal == "disaggregated":
        raise ConfigError("llama.cpp serves from one node, on CPU, NVIDIA or AMD, prefill and decode together")
    share = request.share(1, 1) / (1 if hardware.chip.vendor == "cpu" else hardware.devices)
    if share > FULL:
        raise Misfit(f"{request.model.title} in {request.precision} takes {share:.0%} of the memory there is")
    slots = request.workload.concurrency or SLOTS
    context = request.context or min(request.model.context, CONTEXT)
    argv = ["llama-server", "--model", site.weights, "--alias", site.name, "--host", "127.0.0.1"]
    argv += flags(
        ("--port", site.port),
        ("--ctx-size", context * slots),
        ("--parallel", slots),
        ("--flash-attn", "on"),
        ("--jinja", True),
        ("--metrics", True),
        ("--n-gpu-layers", None if hardware.chip.vendor == "cpu" else "all"),
        ("--offline", True),
    )
    return Recipe.of(
        request,
        ENGINE,
        checkpoint=f"a GGUF of {request.model.title}",
        hardware=hardware.node.title,
        context=context,
        groups=(Group("mixed", (0,), 1, 1),),
        processes=(Process("engine", "mixed", 0, tuple(argv), ports=(site.port,)),),
        notes=(Note("On this machine itself, `daulat up --model` runs it sandboxed, without a network", "README.md"),),
    )

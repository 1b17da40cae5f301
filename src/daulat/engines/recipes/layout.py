"""Parallel layouts on Ascend: which devices are one engine, and how attention and experts are split over them. Pure.

The rules are read off vllm-ascend's nightly and weekly configurations and its deployment guides (docs/recipes.md says
from which, and where they disagree). Experts are always spread over all devices of a group. What is chosen is `tp`:

- latent attention caches one vector a token for all heads, so every tensor-parallel rank holds the whole of it: a small
  `tp` caches less often and talks less, a large one has room for weights. Decoding therefore takes the smallest `tp` at
  which the weights leave two fifths of the memory to the cache and to buffers, up to 8.
- sparse attention decodes with at least 4: its indexer's work is what `tp` splits.
- where prompts are read (prefill, and both at once), 8; 4 where the weights are light for one node (below a third), and
  for latent attention on A2; and the whole node where long prompts need room for activations: sparse attention's
  prefill beyond 32Ki tokens, a heavy model with compressed attention, beyond half a million tokens or with nothing
  disaggregated, and latent attention beyond 192Ki tokens, also where it decodes.
- models with half as many heads as DeepSeek's have rules of their own where attention is sparse (GLM-5): `_few_heads`.
- grouped attention caches a key and a value for each of its few key-value heads: tensor parallelism beyond their
  number repeats the cache. A model that half of a few devices hold takes no more of them, as a dense one.
- a pause of at most 20 ms between tokens (`tpot`) is a wish for latency.
"""

from __future__ import annotations

from typing import Final

from daulat.catalog.models import ModelSpec
from daulat.engines.recipes import attention
from daulat.engines.recipes.attention import COMPRESSED, GROUPED, LATENT, SPARSE
from daulat.engines.recipes.recipe import Group, Misfit, Request
from daulat.errors import ConfigError

MOST_TENSOR: Final = 8  # beyond, on A3, the tensor-parallel group leaves the four packages that are joined most closely
NARROW: Final = 4
LIGHT: Final = 1 / 3  # of a group's memory: weights below this leave most of it to the cache
ROOMY: Final = 0.625  # weights may take so much of a device that decodes;
ROOMY_SHORT: Final = 0.65  # and so much where contexts are short;
ROOMY_LATENT: Final = 0.6  # and so much where a token's cache is some ten times as large as a compressed one's
DENSE_SHARE: Final = 0.24  # a dense model's weights, for speed rather than room; and where links are slow:
DENSE_SHARE_SLOW: Final = 0.36
LONG_PROMPT: Final = 32 * 1024  # tokens
TWO: Final = 2  # nodes: one to read prompts, one to generate
LONG_CONTEXT: Final = 512 * 1024
LONG_LATENT: Final = 192 * 1024
FEW_HEADS: Final = 64  # GLM-5, Kimi-K2; DeepSeek's latent attention has 128
SHORT: Final = 32 * 1024  # tokens: a decode rank's cache is small beside the weights
FAST: Final = 20  # milliseconds a token: what the public runs call TPOT20, beside TPOT50
HALF: Final = 0.5
SURE: Final = 0.02  # of the memory: finer than this the planner's account is not
SMALL: Final = 4  # devices: a model that half of their memory holds is served by few, and further replicas by the rest
LONG_GROUPED: Final = 128 * 1024


def groups(request: Request, *, context: int, soc: str = "") -> tuple[Group, ...]:
    """The groups of devices that a request comes to, prefill before decode. `soc`: the generation of Ascend's chips.

    Raises:
        ConfigError: too few nodes, or the weights do not fit.
    """
    hardware, model = request.hardware, request.model
    if request.workload.layout is not None:
        found: tuple[Group, ...] = (_given(request, *request.workload.layout, request.workload.shared_cache),)
    elif is_disaggregated(request):
        first = prefill_nodes(request)
        nodes = tuple(range(hardware.nodes))
        found = (*_prefill(request, nodes[:first], context), _decode(request, nodes[first:], context))
    elif not attention.has_experts(model):
        found = (_dense(request, slow_links=soc == "310p"),)
    elif _takes_few(request):
        found = (_few(request, slow_links=soc == "310p"),)
    else:
        found = (_mixed(request, tuple(range(hardware.nodes)), soc, context),)
    refuse_misfits(request, found)
    return found


def holds(request: Request, group: Group) -> bool:
    """Whether a group's devices have room for the weights, the runtime, and a sequence of the context asked for."""
    return request.room(group, request.context or 0).holds


def longest(request: Request, found: tuple[Group, ...], context: int) -> int:
    """The context to serve: what was asked for; else `context`, where every group has room for a sequence so long."""
    if request.context is not None:
        return request.context
    held = min(request.room(group, context).longest for group in found)
    return context if held >= context else held // 1024 * 1024


def utilisation(request: Request, group: Group, context: int, usual: float) -> float:
    """Of a device's memory, the share that the engine may take: the usual one, or more where only that has room."""
    tight = request.room(group, context).tight
    return tight if tight > usual + SURE else usual


def refuse_misfits(request: Request, found: tuple[Group, ...]) -> None:
    """Raises:
    ConfigError: a group has more devices than there are experts.
    Misfit: the weights leave a group no memory, or too little for one sequence.
    """
    experts = request.model.shape.experts
    for group in found:
        if experts is not None and group.devices > experts.routed:
            raise ConfigError(
                f"{experts.routed} experts do not spread over {group.devices} devices that {_verb(group.role)}: "
                "give fewer nodes, and more deployments",
                location="--nodes",
            )
        room = request.room(group, request.context or 0)
        if not room.holds:
            raise Misfit(
                f"{request.model.title} does not fit on the {group.devices} devices that {_verb(group.role)}: "
                f"{room.why}. Give more nodes, or another precision",
                location="--nodes",
            )


def is_disaggregated(request: Request) -> bool:
    """Whether prefill and decode get nodes of their own: asked for, or a long context over nodes that allow it.

    Raises:
        ConfigError: asked for on one node.
    """
    hardware = request.hardware
    if request.workload.goal == "disaggregated":
        if hardware.nodes < TWO:
            raise ConfigError("prefill and decode apart need at least 2 nodes; give --nodes", location="--nodes")
        if not attention.has_experts(request.model):
            raise ConfigError(f"{request.model.title} is dense: no recipe takes its prefill and decode apart yet")
        if request.workload.layout is not None:
            raise ConfigError("one layout cannot be that of prefill and of decode; leave it out", location="--layout")
        return True
    possible = attention.has_experts(request.model) and request.workload.layout is None and hardware.nodes >= TWO
    if request.workload.goal != "long-context" or not possible:
        return False
    smaller = min(prefill_nodes(request), hardware.nodes - prefill_nodes(request))
    return holds(request, _group(request, "prefill", tuple(range(smaller)), MOST_TENSOR))


def prefill_nodes(request: Request) -> int:
    """How many of the nodes read prompts where prefill is apart: what was asked for, else half of them.

    Raises:
        ConfigError: so many leave none to decode.
    """
    wished, nodes = request.workload.prefill_nodes, request.hardware.nodes
    if wished is not None and wished >= nodes:
        raise ConfigError(f"{wished} of {nodes} nodes for prefill leave none to decode", location="--prefill-nodes")
    return wished or nodes // 2


def is_light(request: Request, devices: int) -> bool:
    """Whether the weights leave most of a group's memory to the cache."""
    return request.share(devices, devices) < LIGHT


def is_fast(request: Request) -> bool:
    """Whether the pause between tokens matters more than how many there are in all."""
    tpot = request.workload.tpot
    return request.workload.goal == "latency" or (tpot is not None and tpot <= FAST)


def _has_few_heads(request: Request) -> bool:
    return attention.heads(request.model) <= FEW_HEADS


def _shares_caches(request: Request, context: int) -> int:
    """Devices that share one sequence's cache where prefill and decode are apart: sparse attention's longest."""
    long = attention.kind(request.model) == SPARSE and context > LONG_CONTEXT
    return min(MOST_TENSOR, request.hardware.devices) if long else 1


def _prefill(request: Request, nodes: tuple[int, ...], context: int) -> tuple[Group, ...]:
    """One group over the nodes; with latent and grouped attention a group each, where one node holds the weights."""
    kind, per_node = attention.kind(request.model), request.hardware.devices
    size = per_node * len(nodes)
    whole = (
        (kind == SPARSE and context > LONG_PROMPT and not _has_few_heads(request))
        or (kind == COMPRESSED and context > LONG_CONTEXT and not is_light(request, size))
        or (kind == LATENT and context > LONG_LATENT)
    )
    tp = per_node if whole else _reading(request, size, may_be_light=kind == COMPRESSED)
    if request.model.shape.linear and is_light(request, per_node):
        tp = attention.key_value_heads(request.model)
    each = tuple(_group(request, "prefill", (node,), tp) for node in nodes)
    if kind in (LATENT, GROUPED) and holds(request, each[0]):
        return each
    return (_group(request, "prefill", nodes, tp, dcp=_shares_caches(request, context)),)


def _decode(request: Request, nodes: tuple[int, ...], context: int) -> Group:
    size, kind = request.hardware.devices * len(nodes), attention.kind(request.model)
    heavy = kind == COMPRESSED and not is_light(request, size)
    if (heavy and context > LONG_CONTEXT) or (kind == LATENT and context > LONG_LATENT):
        return _group(request, "decode", nodes, request.hardware.devices)  # one sequence wants the node, as prompts do
    shared = _shares_caches(request, context)
    tp = shared if shared > 1 else _least(request, len(nodes), context)
    most = min(MOST_TENSOR, request.hardware.devices)
    room = ROOMY_LATENT if kind == LATENT else ROOMY_SHORT if tp == 1 and kind == SPARSE else ROOMY
    while tp < most and request.share(tp, size) > room:
        tp *= 2
    return _group(request, "decode", nodes, min(tp, most), dcp=shared)


def _least(request: Request, nodes: int, context: int) -> int:
    """The tensor-parallel size that decoding begins with, before the weights' share is looked at."""
    kind = attention.kind(request.model)
    if kind == SPARSE:
        return 1 if _has_few_heads(request) and context <= SHORT and not is_fast(request) else NARROW
    if kind != GROUPED:
        return 1
    heads = attention.key_value_heads(request.model)
    if is_fast(request):
        return min(NARROW, heads)
    return heads if nodes == 1 or context > LONG_GROUPED else max(1, heads // NARROW)


def _mixed(request: Request, nodes: tuple[int, ...], soc: str, context: int) -> Group:
    hardware, kind = request.hardware, attention.kind(request.model)
    size = hardware.devices * len(nodes)
    goal = request.workload.goal
    heavy = kind == COMPRESSED and not is_light(request, size)
    long = kind == LATENT and context > LONG_LATENT
    fast = goal == "latency" or (kind == SPARSE and is_fast(request))
    if goal == "long-context" or fast or heavy or long:
        tp = divisor(hardware.devices, request.model)
        shares_cache = goal == "long-context" and kind == SPARSE
        return _group(request, "mixed", nodes, tp, dcp=tp if shares_cache else 1)
    if kind == SPARSE and _has_few_heads(request):
        return _few_heads(request, nodes)
    if kind == LATENT and soc == "a2" and not _has_few_heads(request):
        return _group(request, "mixed", nodes, NARROW)
    return _group(request, "mixed", nodes, _reading(request, size, may_be_light=len(nodes) == 1))


def _few_heads(request: Request, nodes: tuple[int, ...]) -> Group:
    """One node is one group; over several, 4 where the weights leave room, since prompts are read in parallel ranks."""
    devices = request.hardware.devices
    if len(nodes) == 1:
        return _group(request, "mixed", nodes, divisor(devices, request.model))
    tp = NARROW
    while tp < min(MOST_TENSOR, devices) and request.share(tp, devices * len(nodes)) > ROOMY:
        tp *= 2
    return _group(request, "mixed", nodes, tp)


def _takes_few(request: Request) -> bool:
    """Whether a mixture of experts is served as a dense model is: by one group of few devices on one node."""
    model, one = request.model, request.hardware.nodes == 1
    if not one or request.workload.goal != "throughput" or attention.kind(model) not in (GROUPED, LATENT):
        return False
    return bool(model.shape.linear) or request.share(SMALL, SMALL) <= HALF


def _few(request: Request, *, slow_links: bool) -> Group:
    tp, most = TWO, divisor(request.hardware.devices, request.model)
    while tp < most and request.share(tp, tp) > (DENSE_SHARE_SLOW if slow_links else HALF):
        tp *= 2
    tp = min(tp, most)
    return Group("mixed", (0,), tp, 1, ep=1 if is_fast(request) else tp)


def _reading(request: Request, size: int, *, may_be_light: bool) -> int:
    light = may_be_light and is_light(request, size)
    narrow = attention.key_value_heads(request.model) if attention.kind(request.model) == GROUPED else NARROW
    return min(narrow if light else MOST_TENSOR, MOST_TENSOR, divisor(request.hardware.devices, request.model))


def _dense(request: Request, *, slow_links: bool) -> Group:
    """A dense model: one node, as few devices as are fast; the rest serve further replicas."""
    most = min(divisor(request.hardware.devices, request.model), MOST_TENSOR)
    wanted = DENSE_SHARE_SLOW if slow_links else DENSE_SHARE
    tp = 1
    if request.workload.goal in ("latency", "long-context") and not slow_links:
        tp = most
    while tp < most and request.share(tp, tp) > wanted:
        tp *= 2
    return Group("mixed", (0,), tp, 1)


def _given(request: Request, tp: int, dp: int, dcp: int) -> Group:
    hardware = request.hardware
    if tp > hardware.devices or tp * dp > hardware.total:
        raise ConfigError(f"{dp} times {tp} devices: there are {hardware.nodes} nodes of {hardware.devices}")
    used = max(1, -(-tp * dp // hardware.devices))
    if dp % used:
        raise ConfigError(f"{dp} data-parallel ranks do not spread evenly over {used} nodes")
    experts = tp * dp if attention.has_experts(request.model) else 1
    return Group("mixed", tuple(range(used)), tp, dp, ep=experts, dcp=dcp)


def _group(request: Request, role: str, nodes: tuple[int, ...], tp: int, dcp: int = 1) -> Group:
    tp = min(tp, request.hardware.devices)
    dp = (request.hardware.devices // tp) * len(nodes)
    return Group(role, nodes, tp, dp, ep=tp * dp, dcp=dcp)


def divisor(most: int, model: ModelSpec) -> int:
    """The greatest power of two up to `most` that divides the heads."""
    tp = 1
    while tp * 2 <= most and attention.heads(model) % (tp * 2) == 0:
        tp *= 2
    return tp


def _verb(role: str) -> str:
    return {"prefill": "read prompts", "decode": "generate"}.get(role, "serve")

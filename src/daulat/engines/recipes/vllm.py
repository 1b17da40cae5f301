"""Recipes for upstream vLLM: NVIDIA and AMD GPUs, and CPUs. Pure.

Sources: the flags of each model and chip, https://github.com/vllm-project/recipes/tree/8959cf6 (models/, strategies/);
the flags' existence, vLLM 0.32's own parser; a CPU's, https://docs.vllm.ai/en/latest/getting_started/installation/cpu/.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from daulat.catalog.models import ModelSpec
from daulat.engines.recipes import attention, layout
from daulat.engines.recipes.attention import COMPRESSED, LATENT, SPARSE
from daulat.engines.recipes.ranks import Launch
from daulat.engines.recipes.recipe import (
    Container,
    Group,
    Misfit,
    Mount,
    Note,
    Process,
    Recipe,
    Request,
    flags,
    refuse_precision,
)
from daulat.errors import ConfigError

ENGINE: Final = "vllm"
SOURCE: Final = "https://github.com/vllm-project/recipes/tree/8959cf6"
HOPPER: Final = ("h20", "h100", "h800", "h200")
BLACKWELL: Final = ("b200", "b300", "gb200", "gb300")
SPACE_OF_CPU: Final = 0.8  # of memory: weights, cache and what the process takes beside them
ROUTED: Final = 0.8  # weights may take so much of a GPU where each holds all of the attention
PORTS: Final = {"prefill": 1, "decode": 2}  # beyond the router's
_SIDE: Final = {"prefill": "5557", "decode": "5558"}  # NIXL's handshake


def recipe(request: Request) -> Recipe:
    """The whole launch.

    Raises:
        ConfigError: the chips do not compute in that precision, or the model does not fit.
    """
    if request.hardware.chip.vendor not in ("nvidia", "amd", "cpu"):
        raise ConfigError("upstream vLLM runs on NVIDIA, AMD and CPU; on Ascend take --engine vllm-ascend")
    refuse_precision(request)
    if request.hardware.chip.vendor == "cpu":
        return _on_cpu(request)
    apart = layout.is_disaggregated(request)
    groups = _groups(request, apart=apart)
    context = layout.longest(request, groups, _context(request))
    launched = [process for group in groups for process in _launch(request, group, context).processes("internal")]
    if apart:
        launched.append(_router(request, groups))
    return Recipe.of(
        request,
        ENGINE,
        context=context,
        groups=groups,
        processes=tuple(launched),
        container=_container(request),
        versions={"vLLM": "v0.25.0 or later"},
        notes=(Note("Written from public recipes; not run on this project's own silicon", SOURCE),),
    )


def _groups(request: Request, *, apart: bool) -> tuple[Group, ...]:
    """Tensor-parallel for few requests, data-parallel attention for many; of several nodes, each is one rank."""
    hardware = request.hardware
    if request.workload.layout is not None or not attention.has_experts(request.model):
        return layout.groups(request, context=request.model.context)
    per_node, nodes = hardware.devices, tuple(range(hardware.nodes))
    many = (
        request.workload.goal == "throughput"
        and hardware.nodes == 1
        and attention.kind(request.model) in (LATENT, SPARSE)
    )
    alone = Group("mixed", nodes, 1, per_node, ep=per_node)
    tp = layout.divisor(per_node, request.model)
    if many and request.share(1, per_node) <= ROUTED and layout.holds(request, alone):
        tp = 1
    first = layout.prefill_nodes(request) if apart else 0
    halves = (("prefill", nodes[:first]), ("decode", nodes[first:])) if apart else (("mixed", nodes),)
    found = tuple(Group(role, part, tp, per_node // tp * len(part), ep=per_node * len(part)) for role, part in halves)
    layout.refuse_misfits(request, found)
    return found


def _context(request: Request) -> int:
    """The model's whole; DeepSeek-V4-Pro on Hopper is kept to 200000 by the memory that its weights leave."""
    heavy = attention.kind(request.model) == COMPRESSED and not layout.is_light(request, request.hardware.total)
    hopper = request.hardware.chip.id.startswith(HOPPER)
    return min(request.model.context, 200_000) if heavy and hopper else request.model.context


def _launch(request: Request, group: Group, context: int) -> Launch:
    site, workload = request.site, request.workload
    kind, chip = attention.kind(request.model), request.hardware.chip.id
    several, apart = len(group.nodes) > 1, group.role in PORTS
    drafts = _drafts(request)
    words = flags(
        ("--served-model-name", site.name),
        ("--data-parallel-hybrid-lb", several and not apart),
        ("--max-model-len", context),
        ("--max-num-seqs", -(-workload.concurrency // group.dp) if workload.concurrency else None),
        ("--gpu-memory-utilization", layout.utilisation(request, group, context, 0) or None),
        ("--kv-cache-dtype", "fp8" if kind == COMPRESSED or request.precision == "nvfp4" else None),
        ("--block-size", 256 if kind == COMPRESSED else None),
        ("--moe-backend", "deep_gemm_mega_moe" if kind == COMPRESSED and chip.startswith(BLACKWELL) else None),
        ("--enable-prefix-caching" if workload.shared_prefix is not False else "--no-enable-prefix-caching", True),
        ("--speculative-config", _json({"method": "mtp", "num_speculative_tokens": drafts}) if drafts else None),
        *parsers(request.model),
    )
    if apart:
        role = "kv_producer" if group.role == "prefill" else "kv_consumer"
        transfer = {"kv_connector": "NixlConnector", "kv_role": role, "kv_load_failure_policy": "fail"}
        words += flags(
            ("--kv-transfer-config", _json(transfer)),
            ("--compilation-config", _json({"cudagraph_mode": "FULL_DECODE_ONLY"}) if group.role == "decode" else None),
        )

    def environment(node: int, devices: tuple[int, ...]) -> Mapping[str, str]:
        return _environment(request, group, node, devices)

    port = site.port + PORTS.get(group.role, 0)
    name = "engine" if group.role == "mixed" else group.role
    return Launch(name, group, site, port, words, environment, alone=request.hardware.nodes == 1)


def _drafts(request: Request) -> int:
    if not request.model.shape.mtp_layers:
        return 0
    if request.workload.drafts is not None:
        return request.workload.drafts
    if attention.kind(request.model) == COMPRESSED:
        return 1 if request.hardware.chip.id.startswith(HOPPER) else 2
    return 3 if attention.kind(request.model) == SPARSE else 1


def parsers(model: ModelSpec) -> tuple[tuple[str, object], ...]:
    """The flags of a model's parsers: the same on every hardware that vLLM runs on."""
    found = model.parsers.get("vllm")
    if found is None:
        return ()
    return (
        ("--tokenizer-mode", found.tokenizer_mode or None),
        ("--reasoning-parser", found.reasoning or None),
        ("--tool-call-parser", found.tools or None),
        ("--enable-auto-tool-choice", bool(found.tools)),
    )


def _environment(request: Request, group: Group, node: int, devices: tuple[int, ...]) -> Mapping[str, str]:
    chip = request.hardware.chip
    found = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, devices))}
    if chip.vendor == "amd":
        found = {"HIP_VISIBLE_DEVICES": found["CUDA_VISIBLE_DEVICES"]}
        found |= dict.fromkeys(("VLLM_ROCM_USE_AITER", "VLLM_ROCM_USE_AITER_MOE", "SAFETENSORS_FAST_GPU"), "1")
    elif attention.kind(request.model) == LATENT and attention.has_experts(request.model):
        found |= {"VLLM_USE_FLASHINFER_MOE_FP8": "1"} if request.precision == "fp8" else {}
    if request.precision == "nvfp4":
        found["VLLM_USE_FLASHINFER_MOE_FP4"] = "1"
    if request.hardware.nodes > 1:
        found |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), request.site.interface)
    if group.role in _SIDE:
        found["VLLM_NIXL_SIDE_CHANNEL_HOST"] = request.site.addresses[node]
        found["VLLM_NIXL_SIDE_CHANNEL_PORT"] = _SIDE[group.role]
    return found


def _router(request: Request, groups: tuple[Group, ...]) -> Process:
    """vLLM's router, which sends a prompt to prefill and its continuation to decode."""
    site = request.site
    urls = {group.role: f"http://{site.addresses[group.nodes[0]]}:{site.port + PORTS[group.role]}" for group in groups}
    words = ("vllm-router", "--policy", "round_robin", "--vllm-pd-disaggregation", "--prefill", urls["prefill"])
    addressing = ("--decode", urls["decode"], "--host", site.addresses[0], "--port", str(site.port))
    return Process("router", "proxy", 0, (*words, *addressing), ports=(site.port,))


def _container(request: Request) -> Container:
    weights = Mount(request.site.weights, request.site.weights)
    shared = ("--ipc", "host", "--net", "host")
    if request.hardware.chip.vendor == "amd":
        devices, options = ("/dev/kfd", "/dev/dri"), ("--group-add", "video", *shared)
        return Container("vllm/vllm-openai-rocm:nightly", devices, (weights,), options, entrypoint="env")
    return Container("vllm/vllm-openai:v0.25.0", (), (weights,), ("--gpus", "all", *shared), entrypoint="env")


def _on_cpu(request: Request) -> Recipe:
    """One process; what memory the weights leave goes to the cache, in whole GiB as vLLM wants it."""
    site, memory = request.site, request.hardware.chip.memory
    left = int(memory * SPACE_OF_CPU - request.share(1, 1) * memory)
    if left < 1:
        raise Misfit(f"{request.model.title} in {request.precision} does not fit in {memory:.0f} GiB of memory")
    context = request.context or min(request.model.context, 8192)
    argv = ["vllm", "serve", site.weights, "--host", "127.0.0.1", "--port", str(site.port)]
    argv += flags(
        ("--served-model-name", site.name),
        ("--dtype", "bfloat16" if request.precision == "bf16" else None),
        ("--max-model-len", context),
        ("--max-num-seqs", request.workload.concurrency or 16),
        *parsers(request.model),
    )
    environment = {"VLLM_CPU_KVCACHE_SPACE": str(left), "VLLM_CPU_OMP_THREADS_BIND": "auto"}
    return Recipe.of(
        request,
        ENGINE,
        hardware=request.hardware.node.title,
        context=context,
        groups=(Group("mixed", (0,), 1, 1),),
        processes=(Process("engine", "mixed", 0, tuple(argv), environment, ports=(site.port,)),),
        versions={"vLLM": "a CPU build, v0.32"},
        notes=(
            Note("DeepSeek's latent attention answers wrongly on vLLM's CPU build: check answers", "docs/recipes.md"),
        )
        if attention.kind(request.model) != attention.GROUPED
        else (),
    )


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))

"""Recipes for SGLang, on NVIDIA and Ascend. Pure.

Sources: https://docs.sglang.io/cookbook/autoregressive/DeepSeek/DeepSeek-V4 and its configuration of verified cells,
docs/basic_usage/deepseek_v32.md, docs/platforms/ascend/ascend_npu_deepseek_example.md of sgl-project/sglang.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from daulat.catalog.models import ModelSpec
from daulat.engines.recipes import ascend, attention, layout
from daulat.engines.recipes.attention import COMPRESSED, LATENT, SPARSE
from daulat.engines.recipes.recipe import (
    Container,
    Group,
    Mount,
    Note,
    Process,
    Recipe,
    Request,
    flags,
    refuse_precision,
)
from daulat.engines.recipes.vllm import BLACKWELL, HOPPER
from daulat.errors import ConfigError

ENGINE: Final = "sglang"
SOURCE: Final = "https://docs.sglang.io/cookbook/autoregressive/DeepSeek/DeepSeek-V4"
ASCEND_SOURCE: Final = "sgl-project/sglang, docs/platforms/ascend/ascend_npu_deepseek_example.md"
BOOTSTRAP: Final = 8998
JOIN: Final = 5000  # the port where nodes meet
PORTS: Final = {"prefill": 1, "decode": 2}  # beyond the router's
_ATTENTION_OF_ONE: Final = 4  # devices that share one attention rank on Ascend, prefill and decode together


def recipe(request: Request) -> Recipe:
    """The whole launch. In SGLang tensor parallelism counts all devices, and data-parallel attention divides them.

    Raises:
        ConfigError: the chips do not compute in that precision, or the model does not fit.
    """
    hardware = request.hardware
    if hardware.chip.vendor not in ("nvidia", "huawei"):
        raise ConfigError("there are SGLang recipes for NVIDIA and Ascend only")
    if hardware.chip.vendor == "huawei" and ascend.generation(hardware.chip) not in ("a2", "a3"):
        raise ConfigError("there are SGLang recipes for Atlas A2 and A3 only, of Ascend")
    refuse_precision(request)
    apart = layout.is_disaggregated(request)
    groups = _groups(request, apart=apart)
    usual = min(8192, request.model.context) if hardware.chip.vendor == "huawei" else request.model.context
    context = layout.longest(request, groups, usual)
    processes = [process for group in groups for process in _processes(request, group, groups, context)]
    if apart:
        processes.append(_router(request, groups))
    source = ASCEND_SOURCE if hardware.chip.vendor == "huawei" else SOURCE
    return Recipe.of(
        request,
        ENGINE,
        context=context,
        groups=groups,
        processes=tuple(processes),
        container=_container(request),
        notes=(Note("Written from public recipes; not run on this project's own silicon", source),),
    )


def _groups(request: Request, *, apart: bool) -> tuple[Group, ...]:
    """Prefill nodes are engines of their own on Ascend; all else is one engine over its nodes."""
    hardware = request.hardware
    if request.workload.layout is not None or not attention.has_experts(request.model):
        return layout.groups(request, context=request.model.context)
    nodes = tuple(range(hardware.nodes))
    half = layout.prefill_nodes(request) if apart else 0
    if not apart:
        found: tuple[Group, ...] = (_group(request, "mixed", nodes),)
    elif hardware.chip.vendor == "huawei":
        found = (
            *(_group(request, "prefill", (node,)) for node in nodes[:half]),
            _group(request, "decode", nodes[half:]),
        )
    else:
        found = (_group(request, "prefill", nodes[:half]), _group(request, "decode", nodes[half:]))
    layout.refuse_misfits(request, found)
    return found


def _group(request: Request, role: str, nodes: tuple[int, ...]) -> Group:
    size, kind = request.hardware.devices * len(nodes), attention.kind(request.model)
    dp = size
    if request.hardware.chip.vendor == "huawei":
        dp = {"mixed": size // _ATTENTION_OF_ONE, "prefill": 2 * len(nodes), "decode": size}[role]
    elif (request.workload.goal in ("latency", "long-context") and kind != SPARSE) or (
        kind == COMPRESSED and _is_packed_on_hopper(request)
    ):
        dp = 1
    tp = size // max(1, dp)
    return Group(role, nodes, tp, max(1, dp), ep=size)


def _is_packed_on_hopper(request: Request) -> bool:
    return request.precision == "fp4" and request.hardware.chip.id.startswith(HOPPER)


def _processes(request: Request, group: Group, groups: tuple[Group, ...], context: int) -> list[Process]:
    site, several, found = request.site, len(group.nodes) > 1, []
    alike = [other for other in groups if other.role == group.role]
    name = "engine" if group.role == "mixed" else group.role
    if len(alike) > 1:
        name = f"{name}-{alike.index(group)}"
    port = site.port + PORTS.get(group.role, 0)
    for index, node in enumerate(group.nodes):
        words = ["python3", "-m", "sglang.launch_server", "--model-path", site.weights]
        words += flags(
            ("--served-model-name", site.name),
            ("--host", site.addresses[node] if request.hardware.nodes > 1 else "127.0.0.1"),
            ("--port", port),
            ("--nnodes", len(group.nodes) if several else None),
            ("--node-rank", index if several else None),
            ("--dist-init-addr", f"{site.addresses[group.nodes[0]]}:{JOIN}" if several else None),
            ("--tp-size", group.devices),
            ("--dp-size", group.dp if group.dp > 1 else None),
            ("--enable-dp-attention", group.dp > 1),
            ("--context-length", context),
            ("--max-running-requests", request.workload.concurrency),
            *parsers(request.model),
            *_disaggregation(request, group, alike.index(group)),
            *(_on_ascend(request, group) if request.hardware.chip.vendor == "huawei" else _on_nvidia(request, group)),
            ("--enable-metrics", True),
        )
        devices = tuple(range(min(group.devices, request.hardware.devices)))
        title = f"{name}-{index}" if several else name
        ports = (port,) if index == 0 else ()
        found.append(Process(title, group.role, node, tuple(words), _environment(request, group), devices, ports))
    return found


def parsers(model: ModelSpec) -> tuple[tuple[str, object], ...]:
    """The flags of a model's parsers."""
    found = model.parsers.get("sglang")
    if found is None:
        return ()
    return (("--reasoning-parser", found.reasoning or None), ("--tool-call-parser", found.tools or None))


def _disaggregation(request: Request, group: Group, number: int) -> tuple[tuple[str, object], ...]:
    if group.role not in PORTS:
        return ()
    backend = "ascend" if request.hardware.chip.vendor == "huawei" else "mooncake"
    bootstrap = BOOTSTRAP + number if group.role == "prefill" else None
    return (
        ("--disaggregation-mode", group.role),
        ("--disaggregation-transfer-backend", backend),
        ("--disaggregation-bootstrap-port", bootstrap),
    )


def _speculation(request: Request, algorithm: str, usual: int) -> tuple[tuple[str, object], ...]:
    """A chain of drafts: as many steps as drafts, one candidate each, and one token that the model itself adds."""
    wished = request.workload.drafts
    steps = usual if wished is None else wished
    if not steps or not request.model.shape.mtp_layers:
        return ()
    return (
        ("--speculative-algorithm", algorithm),
        ("--speculative-num-steps", steps),
        ("--speculative-eagle-topk", 1),
        ("--speculative-num-draft-tokens", steps + 1),
    )


def _on_nvidia(request: Request, group: Group) -> tuple[tuple[str, object], ...]:
    """Latency drafts three tokens; throughput drafts one, and none where requests are many enough to fill the GPU."""
    kind, chip = attention.kind(request.model), request.hardware.chip.id
    usual = 3 if request.workload.goal == "latency" else 1
    backend, runner = None, None
    if kind == COMPRESSED:
        if request.precision == "nvfp4":
            runner = "flashinfer_trtllm_routed"
        elif request.precision == "fp4":
            runner = "flashinfer_mxfp4" if group.dp == 1 else None
            backend = "megamoe" if group.dp > 1 and chip.startswith(BLACKWELL) else None
            usual = 0 if backend else usual
        elif group.dp > 1:
            backend = "deepep"
    return (
        *_speculation(request, "EAGLE", usual),
        ("--moe-a2a-backend", backend),
        ("--moe-runner-backend", runner),
        ("--disable-radix-cache", request.workload.shared_prefix is False),
    )


def _on_ascend(request: Request, group: Group) -> tuple[tuple[str, object], ...]:
    memory = {"mixed": 0.68, "prefill": 0.81, "decode": 0.815}[group.role]
    mode = {"mixed": "auto", "prefill": "normal", "decode": "low_latency"}[group.role]
    experts = attention.has_experts(request.model)
    return (
        ("--device", "npu"),
        ("--attention-backend", "ascend"),
        ("--quantization", "modelslim" if request.precision in ("w8a8", "w4a8") else None),
        ("--mem-fraction-static", memory),
        ("--moe-a2a-backend", "deepep" if experts else None),
        ("--deepep-mode", mode if experts else None),
        ("--enable-dp-lm-head", group.dp > 1 and group.role != "prefill"),
        ("--disable-radix-cache", group.role != "decode" and not request.workload.shared_prefix),
        ("--chunked-prefill-size", -1 if group.role != "decode" else None),
        *_speculation(request, "NEXTN", {"mixed": 3, "prefill": 1, "decode": 2}[group.role]),
        ("--dtype", "bfloat16"),
    )


def _environment(request: Request, group: Group) -> Mapping[str, str]:
    kind = attention.kind(request.model)
    several = dict.fromkeys(("GLOO_SOCKET_IFNAME",), request.site.interface) if request.hardware.nodes > 1 else {}
    if request.hardware.chip.vendor == "nvidia":
        if several:
            several["NCCL_SOCKET_IFNAME"] = request.site.interface
        converted = kind == COMPRESSED and request.precision == "fp8"
        return several | ({"SGLANG_DSV4_FP4_EXPERTS": "0"} if converted else {})
    found = {"PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True", "STREAMS_PER_DEVICE": "32"}
    if kind in (LATENT, SPARSE):
        found |= {"SGLANG_NPU_USE_MLAPO": "1", "SGLANG_USE_FIA_NZ": "1"}
    found["HCCL_BUFFSIZE"] = {"mixed": "1600", "prefill": "1536", "decode": "650"}[group.role]
    if group.role != "decode":
        found["DEEP_NORMAL_MODE_USE_INT8_QUANT"] = "1"
    if group.role != "prefill":
        found |= {"SGLANG_ENABLE_SPEC_V2": "1", "SGLANG_ENABLE_OVERLAP_PLAN_STREAM": "1"}
        tokens = {"mixed": "32", "decode": "78"}[group.role]
        found["SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK"] = tokens
    if group.role in PORTS:
        found["ASCEND_MF_STORE_URL"] = f"tcp://{request.site.addresses[0]}:24669"
        found["TASK_QUEUE_ENABLE"] = "2" if group.role == "prefill" else "1"
    if several:
        found |= several | {"HCCL_SOCKET_IFNAME": request.site.interface}
    return found


def _router(request: Request, groups: tuple[Group, ...]) -> Process:
    site = request.site
    words = ["python3", "-m", "sglang_router.launch_router", "--pd-disaggregation"]
    for number, group in enumerate(other for other in groups if other.role == "prefill"):
        words += [
            "--prefill",
            f"http://{site.addresses[group.nodes[0]]}:{site.port + PORTS['prefill']}",
            str(BOOTSTRAP + number),
        ]
    words += ["--decode", f"http://{site.addresses[groups[-1].nodes[0]]}:{site.port + PORTS['decode']}"]
    words += ["--host", site.addresses[0], "--port", str(site.port)]
    return Process("router", "proxy", 0, tuple(words), ports=(site.port,))


def _container(request: Request) -> Container:
    hardware, weights = request.hardware, request.site.weights
    if hardware.chip.vendor == "nvidia":
        options = ("--gpus", "all", "--shm-size", "32g", "--ipc", "host", "--net", "host")
        return Container("lmsysorg/sglang:latest", (), (Mount(weights, weights),), options)
    soc = ascend.generation(hardware.chip)
    devices = ascend.nodes_of_devices(soc, hardware.devices)
    mounts = ascend.mounts(soc, weights, several=hardware.nodes > 1)
    return Container(f"lmsysorg/sglang:dsv32-{soc}", devices, mounts, ("--shm-size", "16g", "--net", "host"))

"""Recipes for vLLM-Ascend: Atlas A2, A3 and 300I Duo, one node or several, prefill and decode together or apart. Pure.

Numbers come from `catalog/recipe/vllm-ascend.toml`, layouts from `layout.py`; here they become flags and environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from daulat.catalog import recipes
from daulat.catalog.models import ModelSpec
from daulat.catalog.recipes import Profile, Release, Situation
from daulat.engines.recipes import attention, buffers, layout, pool, sources
from daulat.engines.recipes.ascend import generation, mounts, nodes_of_devices
from daulat.engines.recipes.attention import COMPRESSED, GROUPED, LATENT, SPARSE
from daulat.engines.recipes.ranks import FIRST_PORT, Launch
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
from daulat.engines.recipes.vllm import parsers
from daulat.errors import ConfigError

ENGINE: Final = "vllm-ascend"
QUANTISED: Final = ("w8a8", "w4a8")
ALWAYS: Final = {"OMP_PROC_BIND": "false", "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True"}
APART: Final = {  # a first request may wait for graphs, and a decode rank for a whole prefill
    "HCCL_EXEC_TIMEOUT": "204",
    "VLLM_RPC_TIMEOUT": "3600000",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "30000",
}
BLOCK: Final = 128  # tokens of a KV block where nothing is said
MOST_GRAPHS: Final = 24  # each captured size takes memory, streams of the device, and seconds at start
MOST_FUSED: Final = 64  # expert-parallel devices up to which the fused dispatch works (vllm_ascend/envs.py)
SHARDED: Final = "w8a8sc"  # compressed weights of 310P, one file a tensor-parallel rank: nothing can split them anew
DRAFTED: Final = {"eagle3": 3, "dflash": 7}  # tokens, as most public runs have them
PROXY: Final = "examples/disaggregated_prefill_v1/load_balance_proxy_server_example.py"
_GUIDE: Final = sources.GUIDE


@dataclass(frozen=True, slots=True)
class _Plan:
    """A request with what has been decided once for all its groups."""

    request: Request
    soc: str
    apart: bool
    context: int
    balancing: str


def recipe(request: Request) -> Recipe:
    """The whole launch.

    Raises:
        ConfigError: the chips do not compute in that precision, the model does not fit, or nobody has run it there.
    """
    soc = generation(request.hardware.chip)
    _check(request, soc)
    apart = layout.is_disaggregated(request)
    if apart and 0 <= request.site.port - FIRST_PORT < request.hardware.devices:
        raise ConfigError(f"the ranks listen from port {FIRST_PORT} on; give another for clients", location="--port")
    balancing = request.workload.balancing or ("external" if apart else "internal")
    first = _profile(request, soc, "prefill" if apart else "mixed", apart=apart)
    context = _wished(request) or first.context or request.model.context
    context = min(context, request.model.context)
    groups = layout.groups(request, context=context, soc=soc)
    plan = _Plan(request, soc, apart, layout.longest(request, groups, context), balancing)
    profiles = [_profile(request, soc, group.role, apart=apart) for group in groups]
    launched = [
        process
        for number, (group, profile) in enumerate(zip(groups, profiles, strict=True))
        for process in _launch(plan, groups, number, profile).processes(balancing)
    ]
    release = recipes.book(ENGINE).releases["vllm-ascend"]
    return Recipe.of(
        request,
        ENGINE,
        context=plan.context,
        groups=groups,
        processes=(*_pool(plan), *launched, *((_proxy(plan, launched),) if apart else ())),
        container=_container(plan, release),
        files=pool.files(request.workload, request.site, soc) if request.workload.kv_pool else (),
        versions=_versions(release, soc),
        notes=_notes(plan, groups, profiles, release),
    )


def _pool(plan: _Plan) -> tuple[Process, ...]:
    request = plan.request
    return (pool.process(request.workload),) if request.workload.kv_pool else ()


def _wished(request: Request) -> int | None:
    """The context asked for; with the goal of a long one, the model's whole."""
    return request.context or (request.model.context if request.workload.goal == "long-context" else None)


def _check(request: Request, soc: str) -> None:
    model = request.model
    refuse_precision(request)
    if soc == "950dt":
        raise ConfigError("vLLM-Ascend on Atlas 950 takes weights of its own (MXFP8, MXFP4): no recipe for it here yet")
    if soc == "310p" and (attention.kind(model) != GROUPED or request.hardware.nodes > 1):
        raise ConfigError(
            f"vLLM-Ascend on Atlas 300I Duo serves models with grouped-query attention on one node: not {model.title}"
        )
    if soc == "310p" and request.workload.kv_pool:
        raise ConfigError("no pool of KV cache is known on Atlas 300I Duo", location="--kv-pool")
    if request.workload.rebalance and not attention.has_experts(model):
        raise ConfigError(f"{model.title} has no experts to rebalance")


def _profile(request: Request, soc: str, role: str, *, apart: bool) -> Profile:
    hardware, kind = request.hardware, attention.kind(request.model)
    nodes = hardware.nodes
    if apart:
        nodes = layout.prefill_nodes(request)
        nodes = hardware.nodes - nodes if role == "decode" else nodes
    long = request.workload.goal == "long-context" and not apart
    situation = Situation(
        role=role,
        attention=kind,
        soc=soc,
        context=_wished(request),
        heavy=not layout.is_light(request, hardware.devices * nodes),
        plain=request.precision not in QUANTISED,
        several=hardware.nodes > 1,
        experts=attention.has_experts(request.model),
        shared_cache=long and kind == SPARSE,
        linear=request.model.shape.linear is not None,
        family=request.model.family,
    )
    return recipes.book(ENGINE).profile(situation)


def _launch(plan: _Plan, groups: tuple[Group, ...], number: int, profile: Profile) -> Launch:
    group = groups[number]
    alike = [index for index, other in enumerate(groups) if other.role == group.role]
    name = {"mixed": "engine"}.get(group.role, group.role)
    if len(alike) > 1:
        name = f"{name}-{alike.index(number)}"
    words = _arguments(plan, group, profile)
    between = _transfer(plan, groups, number) if plan.apart else None
    if plan.request.workload.kv_pool:
        between = pool.transfer(plan.request.workload, group.role, number, between)
    if between is not None:
        words += ["--kv-transfer-config", _json(between)]

    def environment(node: int, devices: tuple[int, ...]) -> Mapping[str, str]:
        return _environment(plan, group, profile, node, devices)

    alone = plan.request.hardware.nodes == 1
    port = FIRST_PORT if plan.apart else plan.request.site.port
    told = partial(sources.of, plan.request, profile)
    return Launch(name, group, plan.request.site, port, words, environment, alone, told)


def _arguments(plan: _Plan, group: Group, profile: Profile) -> list[str]:
    request = plan.request
    model, workload = request.model, request.workload
    shared = profile.prefix if workload.shared_prefix is None else workload.shared_prefix and group.role != "decode"
    drafts, seqs = _drafts(request, group.role, profile), _seqs(request, group, profile)
    block = profile.block_shared if workload.shared_prefix is not False and profile.block_shared else profile.block
    return flags(
        ("--served-model-name", request.site.name),
        ("--seed", 1024),
        ("--quantization", "ascend" if request.precision in QUANTISED else None),
        ("--dtype", "float16" if plan.soc == "310p" else None),
        ("--max-model-len", plan.context),
        ("--max-num-batched-tokens", _batched(plan, group, profile, seqs=seqs, drafts=drafts, shared=shared)),
        ("--max-num-seqs", seqs),
        ("--gpu-memory-utilization", layout.utilisation(request, group, plan.context, profile.memory)),
        ("--block-size", block or None),
        ("--cp-kv-cache-interleave-size", _interleaved(plan, block) if group.dcp > 1 else None),
        ("--load-format", "sharded_state" if SHARDED in request.site.weights.lower() else None),
        ("--enable-prefix-caching" if shared else "--no-enable-prefix-caching", True),
        ("--enforce-eager", profile.eager),
        ("--async-scheduling", profile.overlap),
        *_loading(model, apart=plan.apart),
        *parsers(model),
        ("--compilation-config", _graphs(profile, seqs, drafts)),
        ("--speculative-config", _speculative(request, profile, drafts)),
        (
            "--additional-config",
            _json(_additional(plan, group, profile)) if _additional(plan, group, profile) else None,
        ),
    ) + list(profile.words)


def _seqs(request: Request, group: Group, profile: Profile) -> int:
    """Answers at once in one data-parallel rank."""
    wished = request.workload.concurrency
    return profile.seqs if wished is None or group.role == "prefill" else -(-wished // group.dp)


def _interleaved(plan: _Plan, block: int) -> int:
    """Tokens that devices sharing a cache take in turn: a whole block where the cache is handed on."""
    return (block or BLOCK) if plan.apart or plan.request.workload.kv_pool else 1


def _batched(plan: _Plan, group: Group, profile: Profile, *, seqs: int, drafts: int, shared: bool) -> int | None:
    """Tokens a step: decoding needs one and the drafts of each answer, reading prompts what the profile says."""
    if group.role == "decode":
        together = seqs * (1 + drafts)
        return profile.batched if profile.batched >= seqs and seqs == profile.seqs else together
    if not profile.batched:
        return None
    asked_apart = plan.request.workload.shared_prefix is False
    return max(profile.batched_apart if asked_apart and profile.batched_apart and not shared else profile.batched, seqs)


def _drafts(request: Request, role: str, profile: Profile) -> int:
    wished, drafter = request.workload.drafts, request.workload.drafter
    if drafter is not None:
        usual = DRAFTED[drafter[0]] if wished is None else wished
        return min(usual, 1) if role == "prefill" and drafter[0] == "dflash" else usual
    if not request.model.shape.mtp_layers:
        return 0
    if wished is None:
        return profile.drafts
    return min(wished, 1) if role == "prefill" and attention.kind(request.model) == COMPRESSED else wished


def _loading(model: ModelSpec, *, apart: bool) -> tuple[tuple[str, object], ...]:
    if attention.kind(model) != COMPRESSED:
        return ()
    if not apart:
        return (("--safetensors-load-strategy", "prefetch"), ("--api-server-count", 1))
    return (
        ("--model-loader-extra-config", _json({"enable_multithread_load": True, "num_threads": 128})),
        ("--no-disable-hybrid-kv-cache-manager", True),
    )


def _graphs(profile: Profile, seqs: int, drafts: int) -> str | None:
    """A batch of decoding answers is a multiple of (1 + drafts) tokens: sizes in between are never replayed."""
    if not profile.graph:
        return None
    found: dict[str, Any] = {"cudagraph_mode": profile.graph}
    sizes = list(profile.sizes)
    if profile.sizes_of_drafts or (sizes and seqs != profile.seqs):  # as many as were captured, up to the new batch
        step = (1 + drafts) * -(-seqs // (len(sizes) or MOST_GRAPHS))
        sizes = list(range(step, seqs * (1 + drafts) + 1, step))
    if sizes:
        found["cudagraph_capture_sizes"] = sizes
    return _json(found)


def _speculative(request: Request, profile: Profile, drafts: int) -> str | None:
    if not drafts:
        return None
    drafter = request.workload.drafter
    if drafter is not None:
        return _json({"method": drafter[0], "model": drafter[1], "num_speculative_tokens": drafts})
    found: dict[str, Any] = {"method": "mtp", "num_speculative_tokens": drafts}
    if profile.eager_drafts:
        found["enforce_eager"] = True
    return _json(found)


def _rebalances(plan: _Plan, group: Group) -> bool:
    """Sparse attention's prefill is left out: its group is small, and its experts are read in large batches anyway."""
    return plan.request.workload.rebalance and not (
        group.role == "prefill" and attention.kind(plan.request.model) == SPARSE
    )


def _additional(plan: _Plan, group: Group, profile: Profile) -> dict[str, Any]:
    found = profile.options
    fine = found.get("finegrained_tp_config")
    if fine is not None and (group.tp > 1 or group.dp % fine["lmhead_tensor_parallel_size"]):
        del found["finegrained_tp_config"]  # it splits over data-parallel ranks what tensor parallelism would
    if _rebalances(plan, group):
        sparse = attention.kind(plan.request.model) == SPARSE
        eplb: dict[str, Any] = {"dynamic_eplb": True, "expert_heat_collection_interval": 2000 if sparse else 2048}
        eplb["algorithm_execution_interval"] = 50 if sparse else 200
        if sparse:
            eplb |= {"eplb_policy_type": 3, "num_redundant_experts": 0}
        found["eplb_config"] = eplb
    return found


def _environment(plan: _Plan, group: Group, profile: Profile, node: int, devices: tuple[int, ...]) -> Mapping[str, str]:
    site, hardware = plan.request.site, plan.request.hardware
    found = {"ASCEND_RT_VISIBLE_DEVICES": ",".join(map(str, devices)), "VLLM_ENGINE_READY_TIMEOUT_S": "3600"}
    if plan.soc == "310p":
        return found
    found |= ALWAYS | {"OMP_NUM_THREADS": str(profile.threads)}
    found |= profile.environment
    buffer = max(profile.buffer, _demand(plan, group, profile))
    if buffer:
        found["HCCL_BUFFSIZE"] = str(buffer)
    if plan.apart:
        found |= APART
    if plan.request.workload.shared_prefix is not False:
        found |= profile.shared_environment
    if _rebalances(plan, group) or group.ep > MOST_FUSED:
        found.pop(
            "VLLM_ASCEND_ENABLE_FUSED_MC2", None
        )  # the fused dispatch knows no moving experts, and not so many devices
    if _rebalances(plan, group):
        found["DYNAMIC_EPLB"] = "true"
    if plan.request.workload.kv_pool:
        found |= pool.environment(plan.request.workload, plan.soc)
    if hardware.nodes > 1:
        found["HCCL_IF_IP"] = site.addresses[node]
        found |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME"), site.interface)
    return found


def _demand(plan: _Plan, group: Group, profile: Profile) -> int:
    """MB that decoding so many answers at once needs; known for A3 only."""
    if plan.soc != "a3":
        return 0
    request = plan.request
    tokens = _seqs(request, group, profile) * (1 + _drafts(request, group.role, profile))
    fused = profile.environment.get("VLLM_ASCEND_ENABLE_FUSED_MC2") == "1" and group.ep <= MOST_FUSED
    return buffers.needed(request.model, group, tokens, fused=fused and not _rebalances(plan, group))


def _transfer(plan: _Plan, groups: tuple[Group, ...], number: int) -> dict[str, Any]:
    """Mooncake between prefill and decode. Ports stay clear of those it draws: 20000 and 1000 more for each device."""
    request = plan.request
    group, prefill, decode = groups[number], groups[0], groups[-1]
    hybrid = attention.kind(request.model) == COMPRESSED
    connector = "MooncakeHybridConnector" if hybrid else "MooncakeConnectorV1"
    if request.workload.layerwise and request.workload.kv_pool != "memcache":  # which takes the layers itself
        connector = "MooncakeLayerwiseConnector"
    return {
        "kv_connector": connector,
        "kv_role": "kv_producer" if group.role == "prefill" else "kv_consumer",
        "kv_port": str(20000 + 1000 * request.hardware.devices + 100 * number),
        "engine_id": str(number),
        "kv_connector_extra_config": {
            "prefill": {"dp_size": prefill.dp, "tp_size": prefill.tp},
            "decode": {"dp_size": decode.dp, "tp_size": decode.tp},
        },
    }


def _proxy(plan: _Plan, launched: list[Process]) -> Process:
    site = plan.request.site
    words = ["python3", PROXY, "--host", site.addresses[0], "--port", str(site.port)]
    for role, flag in (("prefill", "prefiller"), ("decode", "decoder")):
        serving = [process for process in launched if process.role == role and process.ports]
        words += [f"--{flag}-hosts", *(site.addresses[process.node] for process in serving)]
        words += [f"--{flag}-ports", *(str(process.ports[0]) for process in serving)]
    return Process("proxy", "proxy", 0, tuple(words), ports=(site.port,))


def _container(plan: _Plan, release: Release) -> Container:
    hardware = plan.request.hardware
    memory = ("--shm-size", "512g" if attention.kind(plan.request.model) == COMPRESSED else "1g")
    if plan.balancing == "external":
        memory = ("--ipc", "host")  # a node's ranks are containers of their own, and meet in its shared memory
    drafter = plan.request.workload.drafter
    several = hardware.nodes > 1 or plan.request.workload.kv_pool is not None  # the pool reads the devices' addresses
    further = (Mount(drafter[1], drafter[1]),) if drafter else ()
    return Container(
        image=f"{release.image}{release.suffixes[plan.soc]}",
        devices=nodes_of_devices(plan.soc, hardware.devices),
        mounts=(*mounts(plan.soc, plan.request.site.weights, several=several), *further),
        options=(*memory, "--net", "host"),
    )


def _versions(release: Release, soc: str) -> Mapping[str, str]:
    without = {"Triton Ascend"} if soc == "310p" else set()
    return {name: version for name, version in release.versions.items() if name not in without}


def _notes(plan: _Plan, groups: tuple[Group, ...], profiles: list[Profile], release: Release) -> tuple[Note, ...]:
    found = [
        Note(
            f"{group.role}: {group.dp} data-parallel ranks of {group.tp} devices; numbers of profile {profile.name}",
            profile.source,
        )
        for group, profile in zip(groups, profiles, strict=True)
    ]
    found.append(Note("Host and image must match", release.source))
    found.append(Note("Written from public configurations; not run on this project's own silicon", "docs/recipes.md"))
    if plan.request.precision in QUANTISED:
        found.append(
            Note("The weights must be quantised for Ascend (msmodelslim); vLLM does not do it at load", _GUIDE)
        )
    if plan.request.precision not in plan.request.model.weights and plan.soc != "310p":
        text = f"No published weights in {plan.request.precision} are known: they are made from those that are"
        found.append(Note(text, f"{_GUIDE}/user_guide/feature_guide/quantization.md"))
    if plan.request.hardware.nodes > 1:
        found.append(
            Note(
                "Check the fabric first: hccn_tool -link, -net_health, -tls alike on all nodes",
                f"{_GUIDE}/tutorials/features/pd_disaggregation_mooncake_multi_node.md",
            )
        )
    if plan.request.workload.kv_pool:
        found += pool.notes(plan.request.workload)
    if plan.apart:
        found.append(
            Note("The proxy is an example of vLLM-Ascend's repository; Daulat's gateway goes before it", PROXY)
        )
    if attention.kind(plan.request.model) == LATENT and plan.soc == "a3" and plan.request.hardware.nodes == 1:
        found.append(
            Note(
                "The guide prefers 4 ranks of 4 devices, the nightly runs measure 2 of 8",
                f"{_GUIDE}/tutorials/models/DeepSeek-R1.md",
            )
        )
    return tuple(found)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))

"""vLLM-Ascend's nightly configurations as data, and what differs between one of them and our recipe for the same wish.

Three formats: `test_cases` (one node), `deployment` (a command a node), `config` with `templates` (a command a rank).
A difference is explained where docs/recipes.md says why, or where the configurations of the same attention, role and
number of nodes disagree among themselves and ours is one of their values.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from daulat.catalog import accelerators, models
from daulat.engines.recipes import attention
from daulat.engines.recipes.recipe import Process, Recipe, Site, Workload
from daulat.errors import NotFound
from daulat.pipeline import recipes

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests/unit/engines/recipes/configs"
A3_DEVICES = 16
# Addressing, names, and what the runs' own harness adds: no part of a recipe's choice.
UNCOMPARED = {
    *("host", "port", "seed", "headless", "served-model-name", "tensor-parallel-size", "pipeline-parallel-size"),
    *("data-parallel-size", "data-parallel-size-local", "data-parallel-start-rank", "data-parallel-rank"),
    *("data-parallel-address", "data-parallel-rpc-port", "profiler-config"),
    *("SERVER_PORT", "VLLM_USE_MODELSCOPE", "VLLM_ENGINE_READY_TIMEOUT_S", "ASCEND_RT_VISIBLE_DEVICES"),
    *("HCCL_IF_IP", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME"),
    "DISAGGREGATED_PREFILL_PROXY_SCRIPT",
}
# Where configurations of one kind disagree, any of their values is as good a start as another.
TUNED = {
    *("max-num-seqs", "max-num-batched-tokens", "gpu-memory-utilization", "async-scheduling", "enforce-eager"),
    *("safetensors-load-strategy", "model-loader-extra-config", "api-server-count", "max-model-len"),
    *("compilation-config.cudagraph_mode", "speculative-config.enforce_eager"),
    *("HCCL_BUFFSIZE", "OMP_NUM_THREADS", "OMP_PROC_BIND", "HCCL_CONNECT_TIMEOUT", "HCCL_EXEC_TIMEOUT"),
    *("VLLM_RPC_TIMEOUT", "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", "HCCL_OP_EXPANSION_MODE", "TASK_QUEUE_ENABLE"),
    *("VLLM_ASCEND_ENABLE_FUSED_MC2", "PYTORCH_NPU_ALLOC_CONF", "ASCEND_A3_ENABLE", "ASCEND_AGGREGATE_ENABLE"),
    *("ACL_OP_INIT_MODE", "VLLM_PREFIX_CACHE_RETENTION_INTERVAL", "HCCL_INTRA_PCIE_ENABLE", "HCCL_INTRA_ROCE_ENABLE"),
    *("additional-config.recompute_scheduler_enable", "additional-config.enable_cpu_binding"),
    *("additional-config.enable_dsa_cp", "additional-config.enable_shared_expert_dp"),
    *("additional-config.multistream_overlap_shared_expert", "additional-config.finegrained_tp_config"),
    *("speculative-config.num_speculative_tokens", "additional-config.ascend_compilation_config"),
    *("additional-config.eplb_config", "additional-config.fuse_muls_add", "additional-config.c8_enable_reshape_optim"),
    *("additional-config.enable_sparse_li_c8", "additional-config.enable_sparse_sfa_c8", "enable-chunked-prefill"),
    *("additional-config.enable_balance_scheduling", "VLLM_ASCEND_BALANCE_SCHEDULING", "block-size"),
    *("hf-overrides.use_index_cache", "hf-overrides.index_topk_freq", "additional-config.enable_fused_mc2"),
}


@dataclass(frozen=True)
class Engine:
    """One group of devices as a configuration has it. Flags of JSON are taken apart: `speculative-config.method`."""

    role: str
    tp: int
    dp: int
    dcp: int
    expert_parallel: bool
    settings: Mapping[str, str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """One launch of a configuration file."""

    name: str
    checkpoint: str
    hardware: str  # its name in the catalogue
    nodes: int
    engines: tuple[Engine, ...]
    external: bool = False
    prefill_nodes: int | None = None  # where they are apart

    @property
    def kind(self) -> str:
        return attention.kind(models.find(self.checkpoint))

    def of(self, role: str) -> list[Engine]:
        return [engine for engine in self.engines if engine.role == role]


@dataclass(frozen=True)
class Difference:
    """`theirs` or `ours` is None where that side says nothing."""

    role: str
    kind: str
    name: str
    theirs: str | None
    ours: str | None


def folder() -> Path | None:
    """The public configurations, where somebody has put them beside the project."""
    base = Path(os.environ.get("DAULAT_FACTS", ROOT.parent / "shared/facts"))
    found = base / "vllm-ascend-configs"
    return found if found.is_dir() else None


@cache
def read(path: Path) -> list[Case]:
    """All launches of one file."""
    data = yaml.safe_load(path.read_text())
    if "test_cases" in data:
        return [_single(path.stem, case) for case in data["test_cases"]]
    if "deployment" in data:
        return [_internal(path.stem, data)]
    return [_external(path.stem, data)]


def _single(stem: str, case: dict[str, Any]) -> Case:
    words = _words(case["server_cmd"]) + _words(case.get("server_cmd_extra") or [])
    hardware = _hardware(f"{stem} {case['name']} {case['model']}")
    return Case(f"{stem}/{case['name']}", case["model"], hardware, 1, (_engine("mixed", words, case.get("envs")),))


def _internal(stem: str, data: dict[str, Any]) -> Case:
    roles = data.get("disaggregated_prefill") or {}
    prefill, decode = roles.get("prefiller_host_index", ()), roles.get("decoder_host_index", ())
    engines = []
    for index, node in enumerate(data["deployment"]):
        role = "prefill" if index in prefill else "decode" if index in decode else "mixed"
        words = _words(node["server_cmd"])
        if "--headless" not in words:
            engines.append(_engine(role, words, node.get("envs")))
    reading = len(set(prefill)) or None
    return Case(stem, data["model"], _of_nodes(stem, data), data["num_nodes"], tuple(engines), prefill_nodes=reading)


def _external(stem: str, data: dict[str, Any]) -> Case:
    groups = data["routing"]["groups"]
    engines = []
    for node, template in zip(data["config"], data["templates"], strict=True):
        if node["dp_rank_start"]:
            continue
        role = "prefill" if node["node_index"] in groups["prefiller"] else "decode"
        words = [*_words(template["server_cmd_template"]), "--data-parallel-size", str(node["dp_size"])]
        engines.append(_engine(role, [*words, "--tensor-parallel-size", str(node["tp_size"])], template.get("envs")))
    hardware, nodes, reading = _of_nodes(stem, data), data["num_nodes"], len(set(groups["prefiller"]))
    return Case(stem, data["model"], hardware, nodes, tuple(engines), external=True, prefill_nodes=reading)


def _hardware(named: str, devices: int = 16) -> str:
    """By the words of a file's and a case's name (some of A2 still say 16 devices a node), else by the devices."""
    found = re.search(r"(?<![a-z0-9])(a2|a3|a5|310p?)(?![a-z0-9])", named, re.IGNORECASE)
    if found is None:
        return "a3" if devices == A3_DEVICES else "a2"
    return {"310": "300i-duo", "310p": "300i-duo", "a5": "atlas-950dt"}.get(found[1].lower(), found[1].lower())


def _of_nodes(stem: str, data: dict[str, Any]) -> str:
    return _hardware(f"{stem} {data.get('test_name', '')}", data["npu_per_node"])


def _words(written: str | list[Any]) -> list[str]:
    return shlex.split(written) if isinstance(written, str) else [str(word) for word in written]


def _engine(role: str, words: list[str], environment: Mapping[str, Any] | None) -> Engine:
    found = settings(words)
    return Engine(
        role,
        int(found.get("tensor-parallel-size", "1")),
        int(found.get("data-parallel-size", "1")),
        int(found.get("decode-context-parallel-size", "1")),
        "enable-expert-parallel" in found,
        {name: value for name, value in found.items() if name not in UNCOMPARED},
        {name: _plain(value) for name, value in (environment or {}).items() if name not in UNCOMPARED},
    )


def settings(words: Iterable[str]) -> dict[str, str]:
    """Flags by name, JSON values taken apart one level, names and synonyms of values made one."""
    found: dict[str, str] = {}
    pending = ""
    for word in [*words, "--"]:
        if word.startswith("--"):
            if pending:
                found[pending] = "true"
            pending, _, value = word[2:].replace("_", "-").partition("=")
            if value:
                found[pending], pending = word.partition("=")[2], ""
        elif pending:
            found[pending], pending = word, ""
    if found.pop("no-enable-prefix-caching", None):
        found["enable-prefix-caching"] = "false"
    return {name: _plain(value) for part in found.items() for name, value in _apart(*part)}


def _apart(name: str, value: str) -> Iterator[tuple[str, Any]]:
    if name == "kv-transfer-config" or not value.lstrip().startswith("{") or name == "model-loader-extra-config":
        yield name, value
        return
    for key, inner in json.loads(value).items():
        # vLLM itself takes every `..._mtp` for `mtp` (vllm/config/speculative.py)
        yield f"{name}.{key}", "mtp" if key == "method" and str(inner).endswith("_mtp") else inner


def _plain(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    if isinstance(value, bool) or value in ("True", "False"):
        return str(value).lower()
    text = str(value)
    if text.lstrip().startswith("{"):
        return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    return f"{float(text):g}" if re.fullmatch(r"\d+\.\d+", text) else text


def ours(case: Case, *, context: int | None = -1, drafts: int | None = -1) -> Recipe:
    """Our recipe for what a configuration wants: its model, precision, hardware, context, drafts and prompts."""
    spec = models.find(case.checkpoint)
    hardware = accelerators.hardware(case.hardware).with_nodes(case.nodes)
    apart = bool(case.of("prefill"))
    reading, writing = case.engines[0].settings, case.engines[-1].settings
    asked_context = min(int(reading.get("max-model-len", spec.context)), spec.context)
    asked_drafts = int(writing.get("speculative-config.num_speculative_tokens", "0"))
    shares_cache = case.engines[0].dcp > 1
    workload = Workload(
        goal="disaggregated" if apart else "long-context" if shares_cache else "throughput",
        context=asked_context if context == -1 else context,
        drafts=asked_drafts if drafts == -1 else drafts,
        shared_prefix=reading.get("enable-prefix-caching") != "false",
        balancing="external" if case.external else "internal",
        rebalance=any("eplb" in name for engine in case.engines for name in engine.settings),
        layerwise=re.search(r'Layerwise|"use_layerwise":true', reading.get("kv-transfer-config", "")) is not None,
        kv_pool=_pool(reading.get("kv-transfer-config", "")),
        prefill_nodes=case.prefill_nodes if apart and context == -1 else None,
        tpot=_tpot(case.name) if context == -1 else None,
        drafter=_drafter(writing) if drafts == -1 else None,
    )
    addresses = tuple(f"10.0.0.{index + 1}" for index in range(case.nodes))
    precision = models.implied_precision(case.checkpoint) or None
    site = Site(f"/models/{case.checkpoint.rpartition('/')[2]}", "model", addresses)
    return recipes.recipe(spec, hardware, workload=workload, site=site, engine="vllm-ascend", precision=precision)


def _pool(transfer: str) -> str | None:
    found = re.search(r'"backend":"(\w+)"', transfer)
    return (found[1] if found else "mooncake") if "AscendStoreConnector" in transfer else None


def _drafter(settings: Mapping[str, str]) -> tuple[str, str] | None:
    method, model = settings.get("speculative-config.method", ""), settings.get("speculative-config.model", "")
    return (method, model) if model else None


def _tpot(name: str) -> int | None:
    """Milliseconds a token, where a name says it: `TPOT20`, or after input, output and prefix, `3.5k_1.5k_0_20`."""
    found = re.search(r"tpot_?(\d+)|k[_-][\d.]+k[_-]\d+[_-](\d+)", name, re.IGNORECASE)
    return int(found[1] or found[2]) if found else None


def differences(case: Case, recipe: Recipe) -> list[Difference]:
    """Layout, quantisation, flags and environment, one by one; nothing is left out but UNCOMPARED."""
    found: list[Difference] = []
    for role in dict.fromkeys(engine.role for engine in case.engines):
        theirs = case.of(role)
        groups = [group for group in recipe.groups if group.role == role]
        processes = [process for process in recipe.processes if process.role == role]
        mine = [(group.tp, group.dp, group.dcp, group.ep > 1) for group in groups]
        wanted = [(engine.tp, engine.dp, engine.dcp, engine.expert_parallel) for engine in theirs]
        if mine != wanted:
            found.append(Difference(role, "layout", "(tp, dp, dcp, ep)", str(wanted), str(mine)))
        if processes:
            found += _of_engine(theirs[0], processes[0])
    return found


def _of_engine(theirs: Engine, process: Process) -> Iterator[Difference]:
    mine = {name: value for name, value in settings(process.argv[3:]).items() if name not in UNCOMPARED}
    mine_environment = {name: value for name, value in process.environment.items() if name not in UNCOMPARED}
    pairs = (("flag", theirs.settings, mine), ("environment", theirs.environment, mine_environment))
    for kind, their_side, my_side in pairs:
        for name in sorted({*their_side, *my_side}):
            values = their_side.get(name), my_side.get(name)
            if name == "enable-prefix-caching":
                values = (values[0] or "true", values[1])
            if name == "kv-transfer-config":
                values = (_without_places(values[0]), _without_places(values[1]))
            if values[0] != values[1]:
                named = "quantisation" if name == "quantization" else kind
                yield Difference(theirs.role, named, name, *values)


def _without_places(written: str | None) -> str | None:
    """A connector without its port and number, which only have to be apart from others."""
    if written is None:
        return None
    return json.dumps(_placeless(json.loads(written)), sort_keys=True)


def _placeless(value: Any) -> Any:
    if isinstance(value, list):
        return [_placeless(item) for item in value]
    if not isinstance(value, dict):
        return value
    # the last three: vLLM takes the platform's own, Mooncake on Ascend has no other way, older runs named the module
    places = ("kv_port", "engine_id", "lookup_rpc_port", "kv_buffer_device", "use_ascend_direct")
    kept = {key: item for key, item in value.items() if key not in (*places, "kv_connector_module_path")}
    if kept.get("kv_connector") == "MooncakeConnector":
        kept["kv_connector"] = "MooncakeConnectorV1"
    return {key: _placeless(item) for key, item in kept.items()}


def is_known(case: Case) -> bool:
    """Whether the catalogue has its model."""
    try:
        models.find(case.checkpoint)
    except NotFound:
        return False
    return True


@cache
def reasons() -> dict[str, str]:
    """On which side a setting may stand alone, or that values may differ, by name: the table in docs/recipes.md."""
    page = (ROOT / "docs/recipes.md").read_text()
    rows = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \| ([\w.-]+(?:, [\w.-]+)*) \| .+ \|$", page, re.MULTILINE)
    return {name: side for names, side in rows for name in re.findall(r"`([^`]+)`", names)}


def _is_explained(case: Case, difference: Difference, sides: str | None) -> bool:
    """Whether the page excuses it: for one named file, for a setting of one side, or for a difference of values."""
    return any(_is_excused(case, difference, side) for side in (sides or "").split(", ") if side)


def _is_excused(case: Case, difference: Difference, side: str) -> bool:
    if side in ("prefill", "decode", "mixed"):
        return difference.role == side
    if side == "ours":
        return difference.theirs is None
    if side == "theirs":
        return difference.ours is None
    if side == "any":
        return True
    if side == "values":
        return None not in (difference.theirs, difference.ours)
    return side in case.name and (difference.kind == "layout" or difference.ours is not None)


def unexplained(case: Case, found: Iterable[Difference], public: Iterable[Case]) -> list[Difference]:
    """Those for which neither the page nor the configurations themselves give a reason."""
    known = reasons()
    alike = [other for other in public if other.kind == case.kind]
    left = []
    for difference in found:
        name = difference.name
        if _is_explained(case, difference, known.get(name)):
            continue
        values = {
            side.get(name)
            for other in alike
            for engine in other.of(difference.role)
            for side in (engine.settings if difference.kind != "environment" else engine.environment,)
        }
        if name in TUNED and len(values) > 1 and difference.ours in values:
            continue
        left.append(difference)
    return left

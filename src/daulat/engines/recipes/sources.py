"""Where each flag and variable of a vLLM-Ascend launch is from: wish, site, rule, guide or public run. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from daulat.catalog.recipes import Profile
from daulat.engines.recipes import pool
from daulat.engines.recipes.recipe import Request

REPOSITORY: Final = "https://github.com/vllm-project/vllm-ascend/blob/182b75e"
GUIDE: Final = f"{REPOSITORY}/docs/source"
_APART: Final = f"{GUIDE}/tutorials/features/pd_disaggregation_mooncake_multi_node.md"
_LAYOUT: Final = "docs/recipes.md, Layout"
_SITE: Final = "the site: --weights, --name, --address, --interface, --port"
_WISHES: Final = {  # flags and the wish that decides them, where it was said
    "--max-model-len": "context",
    "--max-num-seqs": "concurrency",
    "--speculative-config": "drafts",
    "--enable-prefix-caching": "shared_prefix",
    "--no-enable-prefix-caching": "shared_prefix",
}
_KNOWN: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            *("--tensor-parallel-size", "--data-parallel-size", "--data-parallel-size-local", "--data-parallel-rank"),
            *("--data-parallel-start-rank", "--decode-context-parallel-size", "--enable-expert-parallel"),
        ),
        _LAYOUT,
    ),
    **dict.fromkeys(
        (
            *("--host", "--port", "--headless", "--served-model-name", "--data-parallel-address"),
            *("--data-parallel-rpc-port", "HCCL_IF_IP", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME"),
        ),
        _SITE,
    ),
    "ASCEND_RT_VISIBLE_DEVICES": _LAYOUT,
    "--quantization": f"{GUIDE}/user_guide/feature_guide/quantization.md",
    "--dtype": f"{GUIDE}/quick_start.md (300I Duo: float16)",
    "--load-format": f"{REPOSITORY}/tests/e2e/nightly/single_node/models/configs/Qwen3-32B-w8a8sc-310p.yaml",
    "--kv-transfer-config": _APART,
    "--cp-kv-cache-interleave-size": f"{GUIDE}/user_guide/feature_guide/context_parallel.md",
    "--safetensors-load-strategy": f"{GUIDE}/tutorials/models/DeepSeek-V4-Pro.md",
    "--api-server-count": f"{GUIDE}/tutorials/models/DeepSeek-V4-Flash.md",
    "--model-loader-extra-config": f"{GUIDE}/tutorials/models/DeepSeek-V4-Pro.md",
    "--no-disable-hybrid-kv-cache-manager": f"{GUIDE}/tutorials/models/DeepSeek-V4-Pro.md",
    **dict.fromkeys(
        ("HCCL_EXEC_TIMEOUT", "VLLM_RPC_TIMEOUT", "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"),
        f"{GUIDE}/tutorials/models/DeepSeek-V4-Pro.md",
    ),
    "DYNAMIC_EPLB": f"{GUIDE}/user_guide/feature_guide/expert_parallelism_load_balancer.md",
}
_FABRIC: Final = ("ASCEND_ENABLE_USE_FABRIC_MEM", "--kv-transfer-config")
_PARSERS: Final = ("--tokenizer-mode", "--reasoning-parser", "--tool-call-parser", "--enable-auto-tool-choice")


def of(request: Request, profile: Profile, words: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """By name, in the order in which they stand in the launch. What nothing else decides, the profile does."""
    names = (*(word for word in words if word.startswith("--")), *environment)
    return {name: _source(request, profile, name) for name in names}


def _source(request: Request, profile: Profile, name: str) -> str:
    wish = _WISHES.get(name)
    if wish is not None and getattr(request.workload, wish) is not None:
        return f"asked for: --{wish.replace('_', '-')}"
    if name == "--speculative-config" and request.workload.drafter is not None:
        return "asked for: --drafter"
    parsers = request.model.parsers.get("vllm")
    if name in _PARSERS and parsers is not None:
        return parsers.source
    if request.workload.kv_pool is not None and name in (*pool.environment(request.workload, ""), *_FABRIC):
        return pool.SOURCE
    if name in profile.environment or name in profile.words:
        return profile.source
    return _KNOWN.get(name, profile.source)


def by_source(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Sources, each with the names that are from it."""
    found: dict[str, list[str]] = {}
    for name, source in sources.items():
        found.setdefault(source, []).append(name)
    return found

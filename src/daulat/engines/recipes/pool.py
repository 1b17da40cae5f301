"""A pool of KV cache in the nodes' main memory beside a vLLM-Ascend launch: Mooncake's store or MemCache. Pure.

What one engine has computed, another with the same weights loads. Source: the feature guide on the KV pool, kv_pool.md,
of vllm-ascend at 182b75e, steps 2 (Mooncake) and 3 (MemCache).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from daulat.engines.recipes.recipe import File, Note, Process, Site, Workload

SOURCE: Final = (
    "https://github.com/vllm-project/vllm-ascend/blob/182b75e/docs/source/user_guide/feature_guide/kv_pool.md"
)
ROLE: Final = "pool"
_MASTER: Final = 50088
_META, _STORE, _METRICS = 5000, 6000, 5002
_FOLDER: Final = "/etc/daulat"
_MOONCAKE: Final = f"{_FOLDER}/mooncake.json"
_LOCAL, _SERVICE = f"{_FOLDER}/mmc-local.conf", f"{_FOLDER}/mmc-meta.conf"
_PROTOCOLS: Final = {"a3": "device_sdma", "a2": "device_rdma"}  # over HCCS, over the devices' RoCE
_ANSWERS: Final = 256  # local services at most, those added later among them


def transfer(workload: Workload, role: str, number: int, between: Mapping[str, Any] | None) -> dict[str, Any]:
    """`--kv-transfer-config`: the pool alone, or beside what hands the cache `between` prefill and decode."""
    kv_role = {"prefill": "kv_producer", "decode": "kv_consumer"}.get(role, "kv_both")
    extra: dict[str, Any] = {"backend": workload.kv_pool, "lookup_rpc_port": str(number)}
    if workload.kv_pool == "memcache" and workload.layerwise and role != "decode":
        extra["use_layerwise"] = True
    store = {"kv_connector": "AscendStoreConnector", "kv_role": kv_role, "kv_connector_extra_config": extra}
    if between is None:
        return store
    return {
        "kv_connector": "MultiConnector",
        "kv_role": kv_role,
        "kv_connector_extra_config": {"connectors": [dict(between), store]},
    }


def environment(workload: Workload, soc: str) -> dict[str, str]:
    """Of every engine. The seed makes the names of cached blocks the same everywhere."""
    found = {"PYTHONHASHSEED": "0"}
    if workload.kv_pool == "mooncake":
        found["MOONCAKE_CONFIG_PATH"] = _MOONCAKE
    else:
        found["MMC_LOCAL_CONFIG_PATH"] = _LOCAL
    if soc == "a3":
        return found | {"ACL_OP_INIT_MODE": "1", "ASCEND_ENABLE_USE_FABRIC_MEM": "1"}
    return found | {"HCCL_INTRA_ROCE_ENABLE": "1"}


def process(workload: Workload) -> Process:
    """The service that knows where in the pool a block lies; once, on the first node."""
    if workload.kv_pool == "mooncake":
        words = ["mooncake_master", "--port", str(_MASTER), "--eviction_high_watermark_ratio", "0.9"]
        words += ["--eviction_ratio", "0.1", "--default_kv_lease_ttl", "11000"]
        return Process("kv-pool", ROLE, 0, tuple(words), ports=(_MASTER,))
    start = "from memcache_hybrid import MetaService; MetaService.main()"
    where = {"MMC_META_CONFIG_PATH": _SERVICE}
    return Process("kv-pool", ROLE, 0, ("python3", "-c", start), where, ports=(_META, _STORE, _METRICS))


def files(workload: Workload, site: Site, soc: str) -> tuple[File, ...]:
    """What engines and service read."""
    first, size = site.addresses[0], f"{workload.kv_pool_gib}GB"
    if workload.kv_pool == "mooncake":
        found = {
            "metadata_server": "P2PHANDSHAKE",
            "protocol": "ascend",
            "device_name": "",
            "master_server_address": f"{first}:{_MASTER}",
            "global_segment_size": size,
        }
        return (File(_MOONCAKE, json.dumps(found, indent=2)),)
    meta = f"ock.mmc.meta_service_url = tcp://{first}:{_META}"
    service = [
        meta,
        f"ock.mmc.meta_service.config_store_url = tcp://{first}:{_STORE}",
        f"ock.mmc.meta_service.metrics_url = http://{first}:{_METRICS}",
        "ock.mmc.log_level = info",
    ]
    local = [
        meta,
        f"ock.mmc.local_service.config_store_url = tcp://{first}:{_STORE}",
        "ock.mmc.log_level = info",
        f"ock.mmc.local_service.world_size = {_ANSWERS}",
        f"ock.mmc.local_service.protocol = {_PROTOCOLS[soc]}",
        f"ock.mmc.local_service.dram.size = {size}",
    ]
    return (File(_LOCAL, "\n".join(local)), File(_SERVICE, "\n".join(service), node=0))


def notes(workload: Workload) -> tuple[Note, ...]:
    """What an operator must know of it."""
    found = [
        Note(f"Each device gives {workload.kv_pool_gib} GB of its node's main memory to the pool", SOURCE),
        Note("The pool's ports know no authentication: let nothing but these nodes reach them", "docs/recipes.md"),
    ]
    if workload.kv_pool == "memcache":
        found.append(Note("MemCache is installed into the image by its own wheel, memcache_hybrid", SOURCE))
    return tuple(found)

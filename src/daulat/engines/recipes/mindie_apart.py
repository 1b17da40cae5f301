"""MindIE with prefill and decode apart: what MindIE Motor's deployment script on Kubernetes reads. Pure.

Source: https://github.com/verylucky01/MindIE-Motor/tree/faf27e7, a mirror of MindIE's repository: user_config.json,
user_config_base_A3.json and conf/ under mindie_service/management_service/example/deploy_scripts, and the guide on
services with prefill and decode apart. Devices' rank tables are made by the cluster's own operator, not by a recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from daulat.engines.recipes import attention, layout
from daulat.engines.recipes.attention import LATENT
from daulat.engines.recipes.recipe import File, Group, Note, Process, Recipe, Request
from daulat.errors import ConfigError

SOURCE: Final = "https://github.com/verylucky01/MindIE-Motor/tree/faf27e7"
CONFIG: Final = "./user_config.json"
VARIABLES: Final = "./conf/mindie_env_recipe.json"
ROLE: Final = "deploy"
PREFILL_BATCH: Final = 16
BATCH: Final = 64
PREFILL_TOKENS: Final = 4096
_HARDWARE: Final = {"a2": "800I_A2", "a3": "800I_A3"}
_BUFFERS: Final = {"a2": 1152, "a3": 4096}  # MB in which tokens go to their experts on decode nodes
_CERTIFICATES: Final = ("infer", "management", "metrics", "cluster", "etcd_server")
_FOLDERS: Final = {"cluster": "clusterd"}
_EVERYWHERE: Final[Mapping[str, Any]] = {
    "CANN_INSTALL_PATH": "/usr/local/Ascend",
    "MIES_INSTALL_PATH": "/usr/local/Ascend/mindie/latest/mindie-service",
    "MINDIE_LLM_HOME_PATH": "/usr/local/Ascend/mindie/latest/mindie-llm",
    "TASK_QUEUE_ENABLE": 1,
    "HCCL_BUFFSIZE": 120,
    "MINDIE_LLM_CONTINUOUS_BATCHING": 1,
    "MINDIE_LLM_RECOMPUTE_THRESHOLD": 0.5,
    "DIST_PD_DISAGGREGATION": 1,
    "HCCL_RDMA_RETRY_CNT": 7,
    "HCCL_RDMA_TIMEOUT": 18,
    "HCCL_EXEC_TIMEOUT": 60,
}
_ENGINES: Final[Mapping[str, Any]] = {
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    "ATB_WORKSPACE_MEM_ALLOC_ALG_TYPE": 3,
    "OMP_NUM_THREADS": 8,
    "NPU_MEMORY_FRACTION": 0.92,
    "HCCL_CONNECT_TIMEOUT": 7200,
    "DP_MOVE_UP_ENABLE": 1,
}


def check(request: Request, soc: str) -> None:
    """Raises:
    ConfigError: Motor's examples have no such model or chip.
    """
    model = request.model
    if attention.kind(model) != LATENT or not attention.has_experts(model) or request.precision != "w8a8":
        raise ConfigError(
            f"MindIE Motor's examples take DeepSeek-V3 and R1 in w8a8 apart, not {model.title} in {request.precision}; "
            "take --engine vllm-ascend"
        )
    if soc not in _HARDWARE:
        raise ConfigError("MindIE Motor's examples know Atlas A2 and A3 only", location="--on")


def recipe(request: Request, *, engine: str, image: str, soc: str, context: int, drafts: int) -> Recipe:
    """One command beside the cluster's API, and the files it reads. `drafts`: tokens of MTP.

    Raises:
        ConfigError: a model, chip or layout that there is no example for.
    """
    check(request, soc)
    groups = layout.groups(request, context=context, soc=soc)
    readers, writer = groups[:-1], groups[-1]
    whole = {
        "version": "v1.0",
        "deploy_config": _deployment(request, readers, writer, image, soc),
        "mindie_ms_controller_config": {
            "deploy_mode": "pd_separate",
            "multi_node_infer_config": {"multi_node_infer_enable": any(_spans(group) for group in groups)},
        },
        "mindie_ms_coordinator_config": {
            "http_config": {"predict_ip": "127.0.0.1", "predict_port": str(request.site.port)},
            "request_limit": {"single_node_max_requests": 4096, "max_requests": 10000},
        },
        "mindie_server_prefill_config": _server(request, readers[0], context, soc, drafts),
        "mindie_server_decode_config": _server(request, writer, context, soc, drafts),
    }
    variables = {
        "version": "1.0.0",
        "mindie_common_env": dict(_EVERYWHERE),
        "mindie_ms_controller_env": {},
        "mindie_ms_coordinator_env": {},
        "mindie_server_prefill_env": {**_ENGINES, "HCCL_OP_EXPANSION_MODE": "AIV", "MINDIE_ASYNC_SCHEDULING_ENABLE": 0},
        "mindie_server_decode_env": {
            **_ENGINES,
            "MINDIE_ENABLE_DP_DISTRIBUTED": int(_is_distributed(writer)),
            "DP_PARTITION_UP_ENABLE": 1,
            "HCCL_BUFFSIZE": _BUFFERS[soc],
            "ATB_LLM_HCCL_ENABLE": 1,
            "MINDIE_ASYNC_SCHEDULING_ENABLE": 1,
        },
    }
    return Recipe.of(
        request,
        engine,
        context=context,
        groups=groups,
        processes=(Process("deploy", ROLE, 0, ("python3", "deploy_ac_job.py", "--user_config_path", CONFIG)),),
        files=(File(CONFIG, _dumped(whole), node=0), File(VARIABLES, _dumped(variables), node=0)),
        versions={"MindIE": "3.0.0", "MindIE Motor": "faf27e7", "MindCluster (on Kubernetes)": "Motor's own"},
        notes=_NOTES,
    )


def _deployment(request: Request, readers: tuple[Group, ...], writer: Group, image: str, soc: str) -> dict[str, Any]:
    """Pods are nodes: an instance is an engine, over one or several of them."""
    found: dict[str, Any] = {
        "p_instances_num": len(readers),
        "d_instances_num": 1,
        "single_p_instance_pod_num": len(readers[0].nodes),
        "single_d_instance_pod_num": len(writer.nodes),
        "p_pod_npu_num": request.hardware.devices,
        "d_pod_npu_num": request.hardware.devices,
        "p_instances_scale_num": 0,
        "d_instances_scale_num": 0,
        "prefill_distribute_enable": 0,
        "decode_distribute_enable": int(_is_distributed(writer)),
        "image_name": image,
        "job_id": "mindie",
        "hardware_type": _HARDWARE[soc],
        "mindie_env_path": VARIABLES,
        "mindie_host_log_path": "/root/log/ascend_log",
        "mindie_container_log_path": "/root/mindie",
        "weight_mount_path": request.site.weights,
    }
    tls: dict[str, Any] = {"tls_enable": True}
    for name in _CERTIFICATES:
        folder = f"./security/{_FOLDERS.get(name, name)}/security"
        tls[f"{name}_tls_enable"] = True
        tls[f"{name}_tls_items"] = {
            "ca_cert": f"{folder}/certs/ca.pem",
            "tls_cert": f"{folder}/certs/cert.pem",
            "tls_key": f"{folder}/keys/cert.key.pem",
            "tls_passwd": f"{folder}/pass/key_pwd.txt",
            "tls_crl": "",
        }
    return found | {"tls_config": tls}


def _server(request: Request, group: Group, context: int, soc: str, drafts: int) -> dict[str, Any]:
    """`config.json` of one role's engines; where decode is distributed, each rank is a process with one device."""
    distributed = _is_distributed(group)
    devices = [0] if distributed else list(range(group.local * group.tp))
    batch = request.workload.concurrency or BATCH * group.dp
    schedule: dict[str, Any] = {"distributedEnable": distributed, "maxPrefillTokens": max(PREFILL_TOKENS, context - 1)}
    schedule["maxPrefillBatchSize"] = PREFILL_BATCH if group.role == "prefill" else 4
    if group.role == "decode":
        schedule |= {"maxBatchSize": -(-batch // group.dp), "maxIterTimes": context, "maxQueueDelayMicroseconds": 5000}
    return {
        "ServerConfig": {
            "maxLinkNum": 4096 if group.role == "prefill" else 256,
            "inferMode": "dmi",
            "tokenTimeout": 600,
            "e2eTimeout": 600,
            "distDPServerEnabled": distributed,
        },
        "BackendConfig": {
            "npuDeviceIds": [devices],
            "tokenizerProcessNumber": 1,
            "multiNodesInferEnabled": _spans(group) and not distributed,
            "kvPoolConfig": {"backend": "", "configPath": ""},
            "ModelDeployConfig": {
                "maxSeqLen": context,
                "maxInputTokenLen": max(1, context - 1),
                "ModelConfig": [_model(request, group, len(devices), soc, drafts)],
            },
            "ScheduleConfig": schedule,
        },
    }


def _model(request: Request, group: Group, world: int, soc: str, drafts: int) -> dict[str, Any]:
    switches: dict[str, Any] = {"kv_cache_options": {"enable_nz": True}, "ep_level": 2}
    if group.role == "decode":
        switches["parallel_options"] = {"hccl_moe_ep_buffer": _BUFFERS[soc], "hccl_moe_tp_buffer": 64}
    found: dict[str, Any] = {
        "modelInstanceType": "Standard",
        "modelName": request.site.name,
        "modelWeightPath": request.site.weights,
        "worldSize": world,
        "cpuMemSize": 5,
        "npuMemSize": -1,
        "backendType": "atb",
        "trustRemoteCode": False,
        "dp": group.dp,
        "cp": 1,
        "tp": group.tp,
        "sp": 1,
        "pp": 1,
        "moe_ep": group.ep,
        "moe_tp": 1,
        "kv_link_timeout": 1080,
        "models": {"deepseekv2": switches},
    }
    if drafts:
        found["plugin_params"] = json.dumps({"plugin_type": "mtp", "num_speculative_tokens": drafts})
    return found


def _is_distributed(group: Group) -> bool:
    """Whether each data-parallel rank is a process of its own, as the examples' decode is: with one device each."""
    return group.role == "decode" and group.tp == 1


def _spans(group: Group) -> bool:
    return len(group.nodes) > 1


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


_NOTES: Final = (
    Note("Written from MindIE Motor's examples; not run on this project's own silicon or a cluster", SOURCE),
    Note("Run it in the folder of Motor's deployment scripts, on a Kubernetes with MindCluster", SOURCE),
    Note("The cluster makes the rank table from its nodes' devices; a recipe writes none", SOURCE),
    Note("TLS is on everywhere: put certificates where user_config.json says", SOURCE),
    Note("The weights must be quantised by msmodelslim, and lie under the same path on every node", SOURCE),
)

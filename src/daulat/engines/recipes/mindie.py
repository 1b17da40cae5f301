"""Recipes for MindIE, on Atlas A2 and A3: `config.json`, the rank table over several nodes, and what starts it. Pure.

Keys and their limits: https://github.com/verylucky01/MindIE-LLM/tree/0695772, docs/zh/user_guide (service parameters,
rank table, expert parallelism, MTP, the models' own pages), a mirror of gitcode.com/Ascend/MindIE-LLM.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from daulat.engines.recipes import ascend, attention, layout, mindie_apart
from daulat.engines.recipes.attention import COMPRESSED, GROUPED, LATENT, SPARSE
from daulat.engines.recipes.recipe import (
    Container,
    File,
    Group,
    Mount,
    Note,
    Process,
    Recipe,
    Request,
    refuse_precision,
)
from daulat.errors import ConfigError

ENGINE: Final = "mindie"
SOURCE: Final = "https://github.com/verylucky01/MindIE-LLM/tree/0695772/docs/zh/user_guide"
CONFIG: Final = "/etc/mindie/config.json"
RANK_TABLE: Final = "/etc/mindie/rank_table_file.json"
MOST_NODES: Final = 4
CONTEXT: Final = 16384
BATCH: Final = 200
PREFILL_BATCH: Final = 50
PREFILL_TOKENS: Final = 8192
_PRODUCTS: Final = {"a2": "800I-A2", "a3": "800I-A3", "310p": "300I-Duo"}  # the pages name the first in a tag
# Where the daemon looks for certificates, relative to its installation, as config.json is shipped.
_TLS: Final = {
    "tlsCaPath": "security/ca/",
    "tlsCaFile": ["ca.pem"],
    "tlsCert": "security/certs/server.pem",
    "tlsPk": "security/keys/server.key.pem",
    "tlsCrlPath": "security/certs/",
    "tlsCrlFiles": ["server_crl.pem"],
}
_NODES_TLS: Final = {
    "interNodeTlsCaPath": "security/grpc/ca/",
    "interNodeTlsCaFiles": ["ca.pem"],
    "interNodeTlsCert": "security/grpc/certs/server.pem",
    "interNodeTlsPk": "security/grpc/keys/server.key.pem",
    "interNodeTlsCrlPath": "security/grpc/certs/",
    "interNodeTlsCrlFiles": ["server_crl.pem"],
}
_MASTER_PORT: Final = "29500"
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,254}[A-Za-z0-9])?\Z")
_MODELS: Final = {LATENT: "deepseekv2", SPARSE: "deepseekv2"}  # the name under which MindIE keeps a family's switches


def recipe(request: Request) -> Recipe:
    """The whole launch.

    Raises:
        ConfigError: a model, chip, precision, number of nodes or goal that MindIE's pages do not have.
    """
    soc = ascend.generation(request.hardware.chip)
    _check(request, soc)
    refuse_precision(request)
    image = f"mindie:3.0.0-{_PRODUCTS[soc]}-py311-openeuler24.03-lts"
    if request.workload.goal == "disaggregated":
        context = request.context or min(request.model.context, CONTEXT)
        drafts = _drafts(request)
        return mindie_apart.recipe(request, engine=ENGINE, image=image, soc=soc, context=context, drafts=drafts)
    together = replace(request, workload=replace(request.workload, goal="throughput"))  # what there are pages for
    (group,) = layout.groups(together, context=request.context or CONTEXT, soc=soc)
    context = layout.longest(request, (group,), min(request.model.context, CONTEXT))
    several = len(group.nodes) > 1
    files = [_config(request, group, context, node) for node in group.nodes]
    if several:
        files.append(File(RANK_TABLE, _dumped(rank_table(request, group))))
    processes = tuple(
        Process(
            f"engine-{index}" if several else "engine",
            "mixed",
            node,
            ("mindie_llm_server",),
            _environment(request, group, node),
            tuple(range(group.local * group.tp)),
            (request.site.port,) if index == 0 else (),
        )
        for index, node in enumerate(group.nodes)
    )
    weights = request.site.weights
    driver = ("/usr/local/Ascend/driver", "/usr/local/Ascend/firmware", "/usr/local/sbin", "/etc/hccn.conf")
    devices = tuple(f"{path}:{path}:rwm" for path in ascend.nodes_of_devices(soc, request.hardware.devices))
    return Recipe.of(
        request,
        ENGINE,
        hardware=f"{len(group.nodes)} x {request.hardware.node.title}",
        context=context,
        groups=(group,),
        processes=processes,
        container=Container(
            image,
            devices,
            (*(Mount(path, path) for path in driver), Mount(weights, weights)),
            ("--shm-size", "500g", "--net", "host"),
        ),
        files=tuple(files),
        versions={"MindIE": "3.0.0", "Ascend HDK (driver, firmware)": "the release that MindIE's image names"},
        notes=_notes(several=several, filled=bool(request.site.device_addresses)),
    )


def rank_table(request: Request, group: Group) -> dict[str, Any]:
    """Every device of every node, numbered through in the nodes' order; the first node leads."""
    per_node, site = group.local * group.tp, request.site
    servers = []
    for index, node in enumerate(group.nodes):
        devices = [
            {
                "device_id": str(device),
                "device_ip": _device_address(request, node, device),
                "rank_id": str(index * per_node + device),
            }
            for device in range(per_node)
        ]
        address = site.addresses[node]
        servers.append({"server_id": address, "container_ip": address, "device": devices})
    return {"version": "1.0", "server_count": str(len(servers)), "server_list": servers, "status": "completed"}


def _device_address(request: Request, node: int, device: int) -> str:
    known = request.site.device_addresses
    if not known:
        return f"FILL-IN-node-{node}-device-{device}"
    if node >= len(known) or device >= len(known[node]):
        raise ConfigError(f"the addresses given name no device {device} of node {node}", location="--hccn-conf")
    return known[node][device]


def _check(request: Request, soc: str) -> None:
    model, workload, kind = request.model, request.workload, attention.kind(request.model)
    if kind == COMPRESSED or (kind == SPARSE and request.precision != "w8a8"):
        raise ConfigError(f"MindIE has no {model.title} in {request.precision}; take --engine vllm-ascend")
    if soc == "950dt":
        raise ConfigError("MindIE's pages know Atlas A2, A3 and 300I Duo only")
    if soc == "310p" and kind != GROUPED:
        raise ConfigError(f"MindIE serves no {model.title} on Atlas 300I Duo")
    if request.hardware.nodes > MOST_NODES and workload.goal != "disaggregated":
        raise ConfigError(f"MindIE infers over {MOST_NODES} nodes at most, not {request.hardware.nodes}")
    if not _NAME.match(request.site.name):
        raise ConfigError(
            f"MindIE's modelName takes letters, digits, '-', '.' and '_', a letter or digit first and last: "
            f"not {request.site.name!r}; give another with --name"
        )


def _config(request: Request, group: Group, context: int, node: int) -> File:
    """TLS stays on wherever a byte leaves the node; on loopback alone it is off."""
    several = len(group.nodes) > 1
    address = request.site.addresses[node] if several else "127.0.0.1"
    prompt = max(1, context - 1)
    server = {
        "ipAddress": address,
        "managementIpAddress": address,
        "port": request.site.port,
        "managementPort": request.site.port + 1,
        "metricsPort": request.site.port + 2,
        "allowAllZeroIpListening": False,
        "maxLinkNum": 300,
        "httpsEnabled": several,
        "inferMode": "standard",
        "openAiSupport": "vllm",
        "tokenTimeout": 600,
        "e2eTimeout": 600,
        "distDPServerEnabled": False,
    }
    backend = {
        "backendName": "mindieservice_llm_engine",
        "modelInstanceNumber": 1,
        "npuDeviceIds": [list(range(group.local * group.tp))],
        "tokenizerProcessNumber": 8,
        "multiNodesInferEnabled": several,
        "multiNodesInferPort": 1120,
        "interNodeTLSEnabled": several,
        "ModelDeployConfig": {
            "maxSeqLen": context,
            "maxInputTokenLen": prompt,
            "truncation": 0,
            "ModelConfig": [_model(request, group)],
        },
        "ScheduleConfig": {
            "templateType": "Standard",
            "templateName": "Standard_LLM",
            "cacheBlockSize": 128,
            "maxPrefillBatchSize": min(PREFILL_BATCH, request.workload.concurrency or BATCH),
            "maxPrefillTokens": max(PREFILL_TOKENS, prompt),
            "prefillTimeMsPerReq": 150,
            "prefillPolicyType": 0,
            "decodeTimeMsPerReq": 50,
            "decodePolicyType": 0,
            "maxBatchSize": request.workload.concurrency or BATCH,
            "maxIterTimes": context,
            "maxPreemptCount": 0,
            "supportSelectBatch": False,
            "maxQueueDelayMicroseconds": 5000,
        },
    }
    if several:
        server |= _TLS
        backend |= _NODES_TLS
    whole = {"Version": "1.0.0", "ServerConfig": server, "BackendConfig": backend}
    return File(CONFIG, _dumped(whole), node=node)


def _model(request: Request, group: Group) -> dict[str, Any]:
    kind, experts = attention.kind(request.model), attention.has_experts(request.model)
    found: dict[str, Any] = {
        "modelInstanceType": "Standard",
        "modelName": request.site.name,
        "modelWeightPath": request.site.weights,
        "worldSize": group.local * group.tp,
        "cpuMemSize": 0,
        "npuMemSize": -1,
        "backendType": "torch" if kind == SPARSE else "atb",
        "trustRemoteCode": False,
        "dp": group.dp if group.dp > 1 else -1,
        "tp": group.tp,
        "cp": 1,
        "sp": 1,
    }
    if experts:
        found |= {"moe_tp": 1, "moe_ep": group.ep}
    drafts = _drafts(request)
    if drafts:
        found["plugin_params"] = json.dumps({"plugin_type": "mtp", "num_speculative_tokens": drafts})
    if kind == LATENT and experts:
        # Level 2 moves tokens to their experts, 1 gathers all everywhere; over two nodes 2 needs a switch between.
        found["models"] = {_MODELS[kind]: {"ep_level": 2}}
    return found


def _drafts(request: Request) -> int:
    """One or two, for quantised DeepSeek-V3, R1 and V3.2."""
    if not request.model.shape.mtp_layers or request.precision not in ("w8a8", "w4a8"):
        return 0
    wished = request.workload.drafts
    if wished is None:
        return 2 if attention.kind(request.model) == SPARSE else 1
    if wished > 2:  # noqa: PLR2004 - MindIE's page on MTP: "1 or 2"
        raise ConfigError(f"MindIE drafts 1 or 2 tokens, not {wished}", location="--drafts")
    return wished


def _environment(request: Request, group: Group, node: int) -> Mapping[str, str]:
    sparse, site = attention.kind(request.model) == SPARSE, request.site
    found = {
        "MIES_CONFIG_JSON_PATH": CONFIG,
        "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
        "NPU_MEMORY_FRACTION": "0.92",
        "OMP_NUM_THREADS": "1",
    }
    if sparse:  # with the queue on, several streams lose precision; on the device, collectives fail now and then
        found |= {"TASK_QUEUE_ENABLE": "0", "HCCL_OP_EXPANSION_MODE": "HOST", "HCCL_BUFFSIZE": "1050"}
        found["MINDIE_ASYNC_SCHEDULING_ENABLE"] = "1"
    else:
        found["ATB_WORKSPACE_MEM_ALLOC_ALG_TYPE"] = "3"
    if len(group.nodes) == 1:
        return found
    found |= {
        "RANK_TABLE_FILE": RANK_TABLE,
        "MIES_CONTAINER_IP": site.addresses[node],
        "MASTER_IP": site.addresses[group.nodes[0]],
        "MASTER_PORT": _MASTER_PORT,
        "GLOO_SOCKET_IFNAME": site.interface,
        "HCCL_CONNECT_TIMEOUT": "7200",
        "HCCL_DETERMINISTIC": "true",
    }
    return found if sparse else found | {"ATB_LLM_HCCL_ENABLE": "1", "ATB_LLM_COMM_BACKEND": "hccl"}


def _notes(*, several: bool, filled: bool) -> tuple[Note, ...]:
    found = [
        Note("Written from MindIE's pages; not run on this project's own silicon", SOURCE),
        Note("The weights must be quantised by msmodelslim, owned by the image's user, mode 750", SOURCE),
        Note(
            "The image comes from Huawei's hub after an application. The pages name the tag for Atlas A2; those for "
            "other products are written after it: look the tag up",
            SOURCE,
        ),
    ]
    if several:
        found.append(Note("TLS between nodes and for clients is on: put certificates where config.json says", SOURCE))
    if several and not filled:
        found.append(Note("Fill in each device's address: hccn_tool -i N -ip -g, or give --hccn-conf", SOURCE))
    return tuple(found)


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)

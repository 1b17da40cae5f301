"""MindIE Service as an engine, on Ascend. Described, and not yet run by Daulat on a device.

Its daemon reads everything from `config.json`, which names the weights it loads; so Daulat writes that file, for the
admitted model, and no operator's. Its keys and limits are those of `engines.recipes.mindie`. It listens on TCP alone,
metrics on a port of their own, so relays inside its sandbox stand between these ports on the private loopback and Unix
sockets. Ports, `MIES_SERVICE_MONITOR_MODE` and metric names: hiascend.com, MindIE 3.1 (*Service management and control
metrics, Prometheus format*; *EndPoint business APIs*).
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any, Final

from daulat.engines.allowed import MINDIE as MINDIE_ALLOWED
from daulat.engines.port import CHAT, Command, Engine, Launch, MetricNames, added_arguments

METRICS_SOCKET: Final = "m.sock"
_HOME: Final = "/usr/local/Ascend/mindie/latest/mindie-service"
_CONFIG: Final = "MIES_CONFIG_JSON_PATH"
_PORT, _MANAGEMENT_PORT, _METRICS_PORT = 1025, 1026, 1027  # of config.json, as shipped
_PREFILL_BATCH, _PREFILL_TOKENS = 50, 8192


def command(launch: Launch) -> Command:
    """The daemon, with the `config.json` that Daulat wrote for it from a recipe, else one of `configuration`."""
    given = launch.environment.get(_CONFIG, "")
    config = given if given == MINDIE_ALLOWED.written[_CONFIG] else f"{launch.scratch}/config.json"
    environment = {"MIES_INSTALL_PATH": _HOME, "MIES_SERVICE_MONITOR_MODE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    metrics = str(PurePosixPath(launch.socket).with_name(METRICS_SOCKET))
    return Command(
        (f"{_HOME}/bin/mindieservice_daemon", *launch.arguments),
        {**environment, **launch.environment, _CONFIG: config},
        {launch.socket: _PORT, metrics: _METRICS_PORT},
        {} if config == given else {config: json.dumps(configuration(launch))},
    )


def configuration(launch: Launch) -> dict[str, Any]:
    """`config.json` for the model of `launch`, split over all devices that it sees; nothing of it listens outside."""
    devices = len(launch.environment.get("ASCEND_RT_VISIBLE_DEVICES", "0").split(","))
    prompt = max(1, launch.context - 1)
    server = {
        "ipAddress": "127.0.0.1",
        "managementIpAddress": "127.0.0.1",
        "allowAllZeroIpListening": False,
        "port": _PORT,
        "managementPort": _MANAGEMENT_PORT,
        "metricsPort": _METRICS_PORT,
        "maxLinkNum": 300,
        "httpsEnabled": False,
        "inferMode": "standard",
        "openAiSupport": "vllm",
        "tokenTimeout": 600,
        "e2eTimeout": 600,
        "distDPServerEnabled": False,
    }
    model = {
        "modelInstanceType": "Standard",
        "modelName": launch.name,
        "modelWeightPath": launch.model,
        "worldSize": devices,
        "tp": devices,
        "cpuMemSize": 0,
        "npuMemSize": -1,
        "backendType": "atb",
        "trustRemoteCode": False,
    }
    schedule = {
        "templateType": "Standard",
        "templateName": "Standard_LLM",
        "cacheBlockSize": 128,
        "maxPrefillBatchSize": min(_PREFILL_BATCH, launch.slots),
        "maxPrefillTokens": max(_PREFILL_TOKENS, prompt),
        "prefillTimeMsPerReq": 150,
        "prefillPolicyType": 0,
        "decodeTimeMsPerReq": 50,
        "decodePolicyType": 0,
        "maxBatchSize": launch.slots,
        "maxIterTimes": launch.context,
        "maxPreemptCount": 0,
        "supportSelectBatch": False,
        "maxQueueDelayMicroseconds": 5000,
    }
    deploy = {"maxSeqLen": launch.context, "maxInputTokenLen": prompt, "truncation": 0, "ModelConfig": [model]}
    backend = {
        "backendName": "mindieservice_llm_engine",
        "modelInstanceNumber": 1,
        "tokenizerProcessNumber": 8,
        "npuDeviceIds": [list(range(devices))],
        "multiNodesInferEnabled": False,
        "ModelDeployConfig": deploy,
        "ScheduleConfig": schedule,
    }
    return {"Version": "1.0.0", "ServerConfig": server, "BackendConfig": backend}


MINDIE: Final = Engine(
    name="mindie",
    dialect="openai",
    metrics=MetricNames(
        prompt="prompt_tokens_total",
        completion="generation_tokens_total",
        running="num_requests_running",
        waiting="num_requests_waiting",
    ),
    parameters=added_arguments,
    command=command,
    actions=CHAT,
    families=("unix", "inet", "netlink"),
    shared_memory=True,
    health_path="/v1/models",  # the business port's; /v2/health/ready stands on the management port
    metrics_socket=METRICS_SOCKET,
)

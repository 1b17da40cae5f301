"""vLLM as an engine: an OpenAI server on a Unix socket, in an environment of its own that the operator names.

vLLM is several processes: an API server, an engine core, workers. They talk over ZMQ on Unix sockets in the scratch
folder, over shared memory, and rendezvous by TCP on the sandbox's own loopback (torch.distributed with gloo, which also
looks its interface up), so its filter allows IPv4 sockets and netlink's routing protocol beside AF_UNIX; there is still
no interface but that loopback. Flags, environment and metric names as of vLLM 0.32 (docs.vllm.ai: *Engine arguments*,
*Environment variables*, *Production metrics*).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from daulat.engines.port import CHAT, Command, Engine, Launch, MetricNames, added_arguments
from daulat.engines.vllm.asking import VllmAsker

DEFAULT_KV_CACHE_GIB: Final = 4
_KEEP_ALIVE_SECONDS: Final = "90"  # longer than the gateway keeps an idle connection
_ON_CPU: Final = (
    "--enforce-eager",  # compiling for a CPU needs a C++ compiler, which a sandbox has not
    # Its rotary kernel for CPUs takes each head to begin where the one before it ends. DeepSeek turns a part of each:
    # all but the first would be turned wrongly. Without the kernel PyTorch does it.
    *("--compilation-config", '{"custom_ops": ["all", "-rotary_embedding"]}'),
)


def command(launch: Launch) -> Command:
    """vLLM's API server for one replica. What the operator adds comes last, so it wins.

    Not by `vllm serve`: that asks for a distribution called `vllm`, and the CPU wheel is called otherwise.
    """
    argv = [
        *(launch.python, "-m", "vllm.entrypoints.openai.api_server", "--model", launch.model),
        *("--served-model-name", launch.name),
        *("--uds", launch.socket),
        *("--max-model-len", str(launch.context)),
        *("--max-num-seqs", str(launch.slots)),
        "--enable-prompt-tokens-details",  # cached tokens in `usage`: the audit subtracts them on both sides
        "--disable-uvicorn-access-log",
        "--no-enable-log-requests",  # prompts stay out of every log
    ]
    if not launch.accelerated:
        argv += _ON_CPU
    return Command((*argv, *launch.arguments), {**environment(launch), **launch.environment})


def environment(launch: Launch) -> dict[str, str]:
    """Nothing is fetched, nothing is reported home, everything written lies in the scratch folder."""
    found = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_RPC_BASE_PATH": launch.scratch,
        "VLLM_CACHE_ROOT": f"{launch.scratch}/cache",
        "VLLM_CONFIG_ROOT": f"{launch.scratch}/config",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": _KEEP_ALIVE_SECONDS,
    }
    if not launch.accelerated:
        found["TORCH_COMPILE_DISABLE"] = "1"  # else the first log-probabilities would look for a compiler
        found["VLLM_CPU_KVCACHE_SPACE"] = str(launch.kv_cache_gib or DEFAULT_KV_CACHE_GIB)
        found["VLLM_CPU_NUM_OF_RESERVED_CPU"] = str(max(0, launch.cores - launch.threads))
    return found


def parameters(launch: Launch) -> dict[str, Any]:
    return {"threads": launch.threads, **added_arguments(launch)}


VLLM: Final = Engine(
    name="vllm",
    dialect="vllm",
    metrics=MetricNames(
        prompt="vllm:prompt_tokens_total",
        cached="vllm:prompt_tokens_cached_total",
        completion="vllm:generation_tokens_total",
        running="vllm:num_requests_running",
        waiting="vllm:num_requests_waiting",
        prompt_has_cached=True,
    ),
    parameters=parameters,
    command=command,
    actions=(*CHAT, "responses", "messages"),
    families=("unix", "inet", "netlink"),
    shared_memory=True,
    # On a CPU it asks `lscpu`, through a shell, how cores and memory nodes lie, and does not start without an answer.
    sees=("/bin/sh", "/usr/bin/lscpu", "/sys/devices/system/cpu", "/sys/devices/system/node"),
    own_python=True,
    version_path="/version",
    asker=VllmAsker,
    core_apart=True,
)
VLLM_ASCEND: Final = replace(VLLM, name="vllm-ascend")

"""SGLang as an engine, on NVIDIA and Ascend. Described, and not yet run by Daulat on a device.

It listens on TCP alone, so a relay inside its sandbox stands between its port on the private loopback and the Unix
socket. Flags and metric names: docs.sglang.io (*Server arguments*, *Production metrics*). Its counters appear with
their first event.
"""

from __future__ import annotations

from typing import Final

from daulat.engines.port import CHAT, Command, Engine, Launch, MetricNames, added_arguments

_PORT: Final = 30000


def command(launch: Launch) -> Command:
    """`sglang.launch_server` for one replica. What the operator adds comes last, so it wins."""
    argv = (
        *(launch.python, "-m", "sglang.launch_server"),
        *("--model-path", launch.model),
        *("--served-model-name", launch.name),
        *("--host", "127.0.0.1", "--port", str(_PORT)),
        *("--context-length", str(launch.context)),
        *("--max-running-requests", str(launch.slots)),
        "--enable-metrics",
        "--enable-cache-report",  # cached tokens in `usage`
        *(("--is-embedding",) if launch.embeds else ()),
        *(() if launch.accelerated else ("--device", "cpu")),
    )
    environment = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    relays = {launch.socket: _PORT}
    return Command((*argv, *launch.arguments), {**environment, **launch.environment}, relays)


SGLANG: Final = Engine(
    name="sglang",
    dialect="vllm",  # several answers are asked one by one
    metrics=MetricNames(
        prompt="sglang:prompt_tokens_total",
        cached="sglang:cached_tokens_total",
        completion="sglang:generation_tokens_total",
        running="sglang:num_running_reqs",
        waiting="sglang:num_queue_reqs",
        prompt_has_cached=True,
        absent_is_zero=True,
    ),
    parameters=added_arguments,
    command=command,
    actions=(*CHAT, "responses", "messages"),
    families=("unix", "inet", "netlink"),
    shared_memory=True,
    own_python=True,
    version_path="/server_info",
)

"""MindIE Service as an engine, on Ascend. Described, and not yet run by Daulat on a device.

Its daemon reads everything from `config.json`, which is written from the model's recipe (`pipeline.accelerated`); its
own folder the operator names among those to be seen. It listens on TCP alone, metrics on a port of their own, so relays
inside its sandbox stand between these ports on the private loopback and Unix sockets. Ports,
`MIES_SERVICE_MONITOR_MODE` and metric names: hiascend.com, MindIE 3.1 (*Service management and control metrics,
Prometheus format*; *EndPoint business APIs*).
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

from daulat.engines.port import CHAT, Command, Engine, Launch, MetricNames, added_arguments

METRICS_SOCKET: Final = "m.sock"
_HOME: Final = "/usr/local/Ascend/mindie/latest/mindie-service"
_PORT, _METRICS_PORT = 1025, 1027  # `port` and `metricsPort` of config.json, as shipped


def command(launch: Launch) -> Command:
    """The daemon. Its own arguments come from the operator, its `config.json` from a recipe."""
    environment = {"MIES_INSTALL_PATH": _HOME, "MIES_SERVICE_MONITOR_MODE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    metrics = str(PurePosixPath(launch.socket).with_name(METRICS_SOCKET))
    return Command(
        (f"{_HOME}/bin/mindieservice_daemon", *launch.arguments),
        {**environment, **launch.environment},
        {launch.socket: _PORT, metrics: _METRICS_PORT},
    )


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

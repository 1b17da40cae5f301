"""From one group of devices to vLLM's processes: a command a node with its ranks within, or a command a rank. Pure.

`internal`: the first node's API server takes all requests and spreads them over every rank; the others run headless.
`external`: each rank has an API server and a port of its own, and whatever stands before them chooses (the way of
vllm-ascend's `launch_online_dp.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from daulat.engines.recipes.recipe import Group, Process, Site, flags

FIRST_PORT: Final = 7100
RPC_PORT: Final = 13389


@dataclass(frozen=True, slots=True)
class Launch:
    """What a group's ranks share.

    `environment(node, devices)`: that of one process; `arguments`: after addressing; `sources(argv, environment)`:
    where each of them is from.
    """

    name: str
    group: Group
    site: Site
    port: int
    arguments: Sequence[str]
    environment: Callable[[int, tuple[int, ...]], Mapping[str, str]]
    alone: bool  # whether nothing outside its node talks to it: then it listens on loopback
    sources: Callable[[Sequence[str], Mapping[str, str]], Mapping[str, str]] | None = None

    def processes(self, balancing: str) -> tuple[Process, ...]:
        """The commands, by node and rank."""
        made = self._external if balancing == "external" and self.group.dp > 1 else self._internal
        return tuple(made())

    def _internal(self) -> list[Process]:
        group, found = self.group, []
        for index, node in enumerate(group.nodes):
            several = len(group.nodes) > 1
            words = flags(
                ("--host", "127.0.0.1" if self.alone else self.site.addresses[node]),
                ("--port", self.port if index == 0 else None),
                ("--headless", index > 0),
                ("--data-parallel-size", group.dp if group.dp > 1 else None),
                ("--data-parallel-size-local", group.local if several else None),
                ("--data-parallel-start-rank", index * group.local if several and index else None),
                ("--data-parallel-address", self.site.addresses[group.nodes[0]] if several else None),
                ("--data-parallel-rpc-port", RPC_PORT if several else None),
            )
            devices = tuple(range(group.local * group.tp))
            name = f"{self.name}-{index}" if several else self.name
            found.append(self._process(name, node, words, devices, self.port if index == 0 else None))
        return found

    def _external(self) -> list[Process]:
        group, found = self.group, []
        for index, node in enumerate(group.nodes):
            for local in range(group.local):
                rank = index * group.local + local
                port = self.port + local
                words = flags(
                    ("--host", self.site.addresses[node]),
                    ("--port", port),
                    ("--data-parallel-size", group.dp),
                    ("--data-parallel-rank", rank),
                    ("--data-parallel-address", self.site.addresses[group.nodes[0]]),
                    ("--data-parallel-rpc-port", RPC_PORT),
                )
                devices = tuple(range(local * group.tp, (local + 1) * group.tp))
                found.append(self._process(f"{self.name}-rank-{rank}", node, words, devices, port))
        return found

    def _process(
        self, name: str, node: int, addressing: list[str], devices: tuple[int, ...], port: int | None
    ) -> Process:
        words = ["vllm", "serve", self.site.weights, *addressing]
        words += flags(
            ("--tensor-parallel-size", self.group.tp),
            ("--decode-context-parallel-size", self.group.dcp if self.group.dcp > 1 else None),
            ("--enable-expert-parallel", self.group.ep > 1),
        )
        ports = (port,) if port is not None else ()
        environment = self.environment(node, devices)
        argv = (*words, *self.arguments)
        sources = self.sources(argv, environment) if self.sources else {}
        return Process(name, self.group.role, node, argv, environment, devices, ports, sources)

"""Recipes for a model and hardware by name, with a site that the tests know."""

from __future__ import annotations

from typing import Any

from daulat.catalog import accelerators, models
from daulat.engines.recipes.recipe import Group, Recipe, Request, Room, Site, Workload
from daulat.pipeline import recipes


def site(nodes: int = 1, **other: Any) -> Site:
    addresses = ("127.0.0.1",) if nodes == 1 else tuple(f"10.0.0.{index + 1}" for index in range(nodes))
    return Site(**{"weights": "/models/weights", "name": "model", "addresses": addresses} | other)


def recipe(
    model: str,
    on: str,
    nodes: int = 1,
    *,
    engine: str | None = None,
    precision: str | None = None,
    where: Site | None = None,
    **wishes: Any,
) -> Recipe:
    hardware = accelerators.hardware(on)
    hardware = hardware.with_nodes(nodes) if nodes > 1 else hardware
    return recipes.recipe(
        models.find(model),
        hardware,
        workload=Workload(**wishes),
        site=where or site(nodes),
        engine=engine,
        precision=precision,
    )


def request(model: str, on: str, nodes: int, share: Any, precision: str = "w8a8", **wishes: Any) -> Request:
    """A request whose weights take `share(tp, devices)` of each device; where that is above 0.92, nothing has room."""

    def room(group: Group, context: int) -> Room:
        taken = share(group.tp, group.devices)
        return Room(taken <= 0.92, 2**24 if taken <= 0.92 else 0, 0, f"its weights take {taken:.0%} of the memory")

    hardware = accelerators.hardware(on).with_nodes(nodes)
    return Request(models.find(model), hardware, precision, Workload(**wishes), site(nodes), share, room)


def layouts(found: Recipe) -> list[tuple[str, int, int]]:
    """Each group's role, data-parallel and tensor-parallel size."""
    return [(group.role, group.dp, group.tp) for group in found.groups]


def value(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]

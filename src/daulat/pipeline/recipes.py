"""A launch recipe for a model on hardware: the engines' rules, over the planner's account of memory."""

from __future__ import annotations

from daulat.catalog.accelerators import Hardware
from daulat.catalog.models import ModelSpec
from daulat.engines.recipes import choose
from daulat.engines.recipes.recipe import Recipe, Request, Site, WeightShare, Workload
from daulat.errors import ConfigError
from daulat.planner import memory
from daulat.planner.layout import layout


def recipe(
    model: ModelSpec,
    hardware: Hardware,
    *,
    workload: Workload,
    site: Site,
    engine: str | None = None,
    precision: str | None = None,
) -> Recipe:
    """The whole launch, with engine and precision chosen where none is given.

    Raises:
        ConfigError: something asked for cannot be; says what could.
    """
    name = choose.engine(engine, hardware.chip)
    chosen = choose.precision(precision, model, hardware.chip, name)
    if len(site.addresses) < hardware.nodes:
        raise ConfigError(
            f"{hardware.nodes} nodes need {hardware.nodes} addresses, not {len(site.addresses)}", location="--address"
        )
    return choose.ENGINES[name](Request(model, hardware, chosen, workload, site, share(model, hardware, chosen)))


def share(model: ModelSpec, hardware: Hardware, precision: str) -> WeightShare:
    """Of one device's memory, what the weights take, from the planner's account of the fullest device."""
    chip = hardware.chip

    def of(tp: int, devices: int) -> float:
        planned = layout(model.shape, tensor=tp, data=max(1, devices // tp))
        items = memory.weights(model.shape, model.precision(precision), planned)
        return sum(item.bytes for item in items) / (chip.memory * memory.GIB)

    return of

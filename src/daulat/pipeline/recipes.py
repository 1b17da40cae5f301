"""A launch recipe for a model on hardware: the engines' rules, as far as the planner finds room for what they say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from daulat.catalog.accelerators import Hardware
from daulat.catalog.models import ModelSpec
from daulat.engines.recipes import choose
from daulat.engines.recipes.recipe import (
    Group,
    Misfit,
    Note,
    Recipe,
    Request,
    Room,
    Rooms,
    Site,
    WeightShare,
    Workload,
)
from daulat.errors import ConfigError
from daulat.planner import fit, memory
from daulat.planner.fit import Wish
from daulat.planner.layout import layout

_PLANNER: Final = "daulat model fit"
_DECODED: Final = 1024  # tokens of a step where no prompt is read: one for each answer, and its drafts
_SHARES: Final = ("vllm", "vllm-ascend")  # engines that divide a sequence's cache among tensor-parallel devices


def recipe(
    model: ModelSpec,
    hardware: Hardware,
    *,
    workload: Workload,
    site: Site,
    engine: str | None = None,
    precision: str | None = None,
    named: bool = False,
) -> Recipe:
    """The whole launch, with engine and precision chosen where none is given: the first precision, and the engine's
    own layout before the planner's, for which the planner finds room. `named`: the site's weights are a folder, where
    each checkpoint lies under its own name.

    Raises:
        ConfigError: something asked for cannot be, or does not fit; says what could, or would.
    """
    name = choose.engine(engine, hardware.chip)
    tried = choose.precisions(precision, model, hardware.chip, name, fit.precisions(model, hardware.chip))
    if len(site.addresses) < hardware.nodes:
        raise ConfigError(
            f"{hardware.nodes} nodes need {hardware.nodes} addresses, not {len(site.addresses)}", location="--address"
        )
    if words := fit.unable(model, hardware.chip):
        raise ConfigError(words, location="--on")
    nearest: Misfit | None = None
    for each in tried:
        for wished, notes in _layouts(model, hardware, each, workload, shares=name in _SHARES):
            try:
                request = _request(model, hardware, each, wished, site, named=named)
                found = choose.ENGINES[name](request)
            except Misfit as error:
                nearest = nearest or error
            else:
                return replace(found, notes=(*found.notes, *notes, *_made(request, name)))
    raise _refusal(model, hardware, precision, workload, nearest)


def share(model: ModelSpec, hardware: Hardware, precision: str) -> WeightShare:
    """Of one device's memory, what the weights take, from the planner's account of the fullest device."""
    chip = hardware.chip

    def of(tp: int, devices: int) -> float:
        planned = layout(model.shape, tensor=tp, data=max(1, devices // tp))
        items = memory.weights(model.shape, model.precision(precision), planned)
        return sum(item.bytes for item in items) / (chip.memory * memory.GIB)

    return of


def room(model: ModelSpec, hardware: Hardware, precision: str) -> Rooms:
    """What the planner finds left beside the weights and the runtime, on a group's fullest device."""

    def of(group: Group, context: int) -> Room:
        nodes = len(group.nodes)
        used = replace(hardware, devices=max(1, group.devices // nodes), nodes=nodes)
        planned = replace(layout(model.shape, tensor=group.tp, data=group.dp), context=group.dcp)
        wish = Wish(
            context=context,
            batched=_DECODED if group.role == "decode" else fit.BATCHED,
            graphs=group.role != "prefill" or hardware.chip.vendor != "huawei",  # there, prompts are read eagerly
        )
        plan, why = fit.one(model, used, precision, planned, wish)
        needed = (plan.used + plan.cost.of(context or plan.context)) / (plan.budget / plan.utilisation)
        tight = plan.utilisation > fit.USUAL
        return Room(not why, plan.longest, math.ceil(needed * 100) / 100 if tight else 0, why)

    return of


def _request(
    model: ModelSpec, hardware: Hardware, precision: str, workload: Workload, site: Site, *, named: bool
) -> Request:
    weights, rooms = share(model, hardware, precision), room(model, hardware, precision)
    found = Request(model, hardware, precision, workload, site, weights, rooms)
    if not named:
        return found
    checkpoint = found.checkpoint.rpartition("/")[2] if found.published else ""
    return replace(found, site=replace(site, weights=f"{site.weights}/{checkpoint or model.id}"))


def _made(request: Request, engine: str) -> tuple[Note, ...]:
    """A word on weights that nobody published; vLLM-Ascend's recipe has its own, and GGUF files anybody makes."""
    if request.published or engine in ("vllm-ascend", "llama.cpp"):
        return ()
    text = f"No published weights in {request.precision} are known: they are made from those that are"
    return (Note(text, _PLANNER),)


def _layouts(
    model: ModelSpec, hardware: Hardware, precision: str, workload: Workload, *, shares: bool
) -> Iterator[tuple[Workload, tuple[Note, ...]]]:
    """The workload as it is; and where that had no room and leaves the layout open, with the planner's."""
    yield workload, ()
    if workload.layout is not None or workload.goal == "disaggregated":
        return
    found = fit.fit(model, hardware, Wish(precision=precision, context=workload.context or 0))
    planned = found.plan.layout if found.fits and found.plan is not None else None
    if planned is None or planned.pipeline > 1 or planned.tensor > hardware.devices:
        return
    if planned.context > 1 and not shares:
        return
    wished = replace(workload, layout=(planned.tensor, planned.data), shared_cache=planned.context)
    yield wished, (Note(f"The usual layout has no room: {planned} is the planner's", _PLANNER),)


def _refusal(
    model: ModelSpec, hardware: Hardware, precision: str | None, workload: Workload, nearest: Misfit | None
) -> ConfigError:
    """Why nothing was found, in the planner's words."""
    context = min(workload.context or 0, model.context)
    found = fit.fit(model, hardware, Wish(precision=precision or "", context=context))
    if not found.fits:
        instead = f". Instead: {'; '.join(found.advice)}" if found.advice else ""
        reasons = "; ".join(found.reasons)
        return ConfigError(f"{model.title} does not fit on {hardware}: {reasons}{instead}", location="--on")
    if found.plan is not None and found.plan.layout.pipeline > 1:
        return ConfigError(
            f"{model.title} fits on {hardware} only in {found.plan.layout.pipeline} pipeline stages, for which there "
            "are no recipes; give other hardware, or --precision",
            location="--on",
        )
    return nearest or ConfigError(f"there is no recipe for {model.title} on {hardware}", location="--on")

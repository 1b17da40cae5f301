"""A deployment on accelerators: the recipe for this model, chip and count, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from daulat.catalog import accelerators, models
from daulat.catalog.accelerators import ChipSpec
from daulat.catalog.models import ModelSpec
from daulat.core.deployment import Spec
from daulat.engines.port import context_for
from daulat.engines.recipes import deployed
from daulat.engines.recipes.deployed import Deployed
from daulat.engines.recipes.recipe import Recipe, Site, Workload
from daulat.errors import ConfigError, InvalidRequest, NotFound
from daulat.pipeline import recipes
from daulat.registry.model import ModelFacts

ENGINES: Final = ("vllm", "vllm-ascend", "sglang", "mindie")  # that compute on this machine's accelerators
_INSIDE: Final = "/model"  # where a sandbox has the weights
_PORTS: Final = {"mindie": 1025}  # of its config.json, as `engines.mindie` relays them
_WRITTEN: Final = (  # what importing reads of a model's files, and the precision that it means
    *(("w4a8", "w4a8"), ("w8a8", "w8a8"), ("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("fp8", "fp8")),
    *(("awq", "int4"), ("gptq", "int4"), ("bf16", "bf16"), ("f16", "fp16")),
)
_CANN: Final = ("/usr/local/Ascend/ascend-toolkit", "/usr/local/Ascend/cann", "/usr/local/Ascend/nnal")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A replica to be: of `spec`, called `name`, by `engine`, on so many devices."""

    spec: Spec
    facts: ModelFacts
    name: str
    engine: str
    count: int

    @property
    def product(self) -> str:
        """Of its devices, as their tools print it: found when it was deployed, or said by the operator."""
        return str(self.spec.options.get("device", {}).get("product", ""))

    @property
    def arguments(self) -> Sequence[str]:
        """The operator's own."""
        found: Sequence[str] = self.spec.options.get("arguments", ())
        return found


def options(wanted: Wanted, said: Mapping[str, Any], exists: Callable[[str], bool]) -> Deployed:
    """An engine's options, `said` by the operator and by placement, over the recipe's where there is one.

    Raises:
        InvalidRequest: several devices, or MindIE, and neither a recipe nor the operator says how the model is divided.
        ConfigError: the operator's arguments contradict the deployment.
    """
    if wanted.engine not in ENGINES or not wanted.count:
        return Deployed(said, {})
    deployed.refuse_said(wanted.engine, wanted.arguments)
    divided = deployed.divided(wanted.engine, wanted.arguments)
    try:
        found = _recipe(wanted, divided)
    except (ConfigError, NotFound) as error:
        if wanted.engine == "mindie" or (wanted.count > 1 and divided is None):
            location = getattr(error, "location", None)
            raise InvalidRequest(_refusal(wanted, error.message.removeprefix(f"{location}: "))) from None
        return Deployed(said, {})
    said = {**said, "device": {"count": wanted.count, **said.get("device", {})}}
    shown = [path for path in (*deployed.mounted(found), *_cann(wanted)) if exists(path)]
    kind = wanted.spec.devices[0].partition(":")[0]
    return deployed.under(found, wanted.engine, kind, said, shown)


def _recipe(wanted: Wanted, divided: tuple[int, int] | None) -> Recipe:
    """Raises:
    ConfigError: there is none, or it leaves devices idle; NotFound: model or chip are not in the catalogue.
    """
    model, chip = _known(wanted)
    hardware = accelerators.hardware(f"{wanted.count}x{chip.id}")
    if hardware.nodes > 1:
        raise ConfigError(
            f"{wanted.count} devices are {hardware.nodes} nodes: what spans nodes is launched by hand, as "
            f"`daulat model recipe {model.id}` prints it"
        )
    context = context_for(wanted.spec.context, wanted.facts.context_length or wanted.spec.context)
    site = Site(_INSIDE, wanted.name, port=_PORTS.get(wanted.engine, 8000))

    def made(layout: tuple[int, int] | None) -> Recipe:
        workload = Workload(context=context, concurrency=wanted.spec.slots, layout=layout)
        return recipes.recipe(
            model, hardware, workload=workload, site=site, engine=wanted.engine, precision=_precision(wanted, model)
        )

    found = made(divided)
    if found.groups[0].devices != wanted.count and divided is None:
        found = made((wanted.count, 1))  # it would leave devices idle that nobody else may have
    return found


def _known(wanted: Wanted) -> tuple[ModelSpec, ChipSpec]:
    model, chip = models.known(wanted.facts.name, wanted.facts.origin), accelerators.chip(wanted.product)
    if model is None:
        raise NotFound(f"the catalogue does not know {wanted.facts.name}")
    if not wanted.product:
        raise NotFound("what chips these are was not known when it was deployed: deploy it again")
    if chip is None:
        raise NotFound(f"the catalogue does not know the chip {wanted.product!r}")
    return model, chip


def _precision(wanted: Wanted, model: ModelSpec) -> str:
    """Of the weights that were imported: as their files say, else as their origin's name implies, else the native."""
    said = wanted.facts.quantisation.lower()
    if model.native == "fp4" and said.startswith("fp8"):
        return model.native  # FP8 is what its config.json names; its experts are narrower
    found = next((name for words, name in _WRITTEN if words in said), "")
    return found or models.implied_precision(wanted.facts.origin) or model.native


def _cann(wanted: Wanted) -> tuple[str, ...]:
    """The toolkit, which a recipe's image has inside: here the engine comes from an environment of the host."""
    return _CANN if wanted.engine in ("vllm-ascend", "mindie") else ()


def _refusal(wanted: Wanted, why: str) -> str:
    if wanted.engine == "mindie":
        return (
            f"MindIE takes slots, context and devices from its config.json alone, which is written from a recipe: {why}"
        )
    flag = deployed.PARALLEL[wanted.engine][0][0]
    return (
        f"{wanted.count} devices for one replica, and no recipe says how they share the model ({why}): say it with "
        f'--engine-options \'{{"arguments": ["{flag}", "{wanted.count}"]}}\', or give each replica one device'
    )

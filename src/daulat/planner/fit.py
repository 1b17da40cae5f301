"""Whether a model fits on hardware, how it is laid out, and what is left; or why not, and what would be right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from daulat.catalog.accelerators import ChipSpec, Hardware
from daulat.catalog.models import ModelSpec
from daulat.catalog.precision import KV_BYTES, PRECISIONS, Precision
from daulat.errors import ConfigError
from daulat.planner import memory
from daulat.planner.layout import Layout, candidates, forbidden, redundant_experts, with_divided_cache
from daulat.planner.memory import GIB, Item, KvCost

USUAL: Final = 0.90  # share of a device's memory that engines use unless told otherwise (--gpu-memory-utilization)
TIGHT: Final = 0.95  # the most that published deployments ask for
USUAL_CONTEXT: Final = 32_768  # planned for where the caller names none and the model has more
LEAST_CONTEXT: Final = 2_048  # below this, nobody would call it serving
BATCHED: Final = 8_192  # tokens of one step
SEQUENCES: Final = 64  # answers at once in one data-parallel rank, for logits
MOST_CONTEXT: Final = 2**27
_OTHERS: Final = 6  # further layouts that are told: as many as there are widths up to WIDEST, and two
_NODES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_WIDER: Final = 1.1  # how much wider than the native weights counts as wider
_INTEGER: Final = ("w8a8", "w4a8")
_ALIKE: Final = 0.02  # within this, weights of two kinds are of one width
_CPU: Final = ("q8_0", "q4_k_m")  # anybody may convert to these, so they need not be published


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked beside model and hardware. `context` in tokens of prompt and answer; 0 and "" leave it open.

    `batched`: tokens of a step; `sequences`: answers of a step; `graphs`: whether they are captured.
    """

    precision: str = ""
    context: int = 0
    kv: str = ""
    layout: Layout | None = None
    batched: int = BATCHED
    sequences: int = SEQUENCES
    graphs: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """One layout's account of a device, in bytes. `room`: what is left for the KV cache, negative where weights and
    runtime alone are too much. `utilisation`: the share of the memory that was planned with.
    """

    layout: Layout
    items: tuple[Item, ...]
    utilisation: float
    budget: float
    cost: KvCost
    context: int

    @property
    def used(self) -> float:
        """All but the KV cache."""
        return sum(item.bytes for item in self.items)

    @property
    def room(self) -> float:
        """What is left for the KV cache."""
        return self.budget - self.used

    @property
    def tokens(self) -> int:
        """Tokens the whole system can hold in its KV caches; 0 where sequences cost the same at any length."""
        return int(max(self.room, 0) / self.cost.token) * self.layout.data if self.cost.token else 0

    @property
    def concurrency(self) -> int:
        """Sequences of the planned context at once, over all data-parallel ranks."""
        one = self.cost.of(self.context)
        return int(max(self.room, 0) / one) * self.layout.data if one else 0

    @property
    def longest(self) -> int:
        """The longest context that one sequence could have."""
        left = self.room - self.cost.sequence
        return 0 if left <= 0 else int(left / self.cost.token) if self.cost.token else MOST_CONTEXT


@dataclass(frozen=True, slots=True)
class Fit:
    """The answer. `plan`: the chosen layout's account, or the one that came nearest; None where none is possible.

    `reasons`: why it does not fit, in sentences; empty where it does. `notes`: what to know of it. `others`: further
    layouts that fit. `advice`: what would fit instead.
    """

    model: ModelSpec
    hardware: Hardware
    precision: Precision | None
    kv: str
    plan: Plan | None
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    others: tuple[Plan, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons


def fit(model: ModelSpec, hardware: Hardware, wish: Wish = Wish()) -> Fit:
    """Plan a model on hardware.

    Raises:
        ConfigError: the wish itself cannot be (an unknown precision, a context the model does not have).
    """
    _check(model, hardware, wish)
    found = _fit(model, hardware, wish)
    return found if found.fits else replace(found, advice=_advice(model, hardware, wish))


def one(model: ModelSpec, hardware: Hardware, precision: str, layout: Layout, wish: Wish) -> tuple[Plan, str]:
    """One layout in one precision, and why it has no room for a sequence of the wish's context (0: of as few tokens as
    would be called serving); "" where it has.
    """
    plan = account(model, hardware, precision, _kv(model, hardware.chip, precision), layout, wish)
    if _holds(plan, wish):
        return plan, ""
    return plan, _too_little(hardware, precision, plan, memory.whole(model.shape, model.precision(precision)))


def unable(model: ModelSpec, chip: ChipSpec) -> str:
    """Why no engine runs a model of this architecture on a chip; "" where one does."""
    if model.shape.kind in chip.attention:
        return ""
    kinds = {"latent": "latent attention (MLA)", "compressed": "DeepSeek-V4's compressed attention"}
    return f"no engine we know runs {kinds.get(model.shape.kind, model.shape.kind)} on {chip.title}"


def precisions(model: ModelSpec, chip: ChipSpec) -> tuple[str, ...]:
    """Precisions to try on a chip, best first: the native one, narrower checkpoints, wider ones, unpublished ones.

    Checkpoints in INT8 are mostly made for Ascend, by ModelSlim: elsewhere, others of that width come first. Where
    nothing published runs on the chip, the weights may be widened to 16 bits.
    """
    if model.measured is not None:
        return (model.measured.name,)
    offered = list(dict.fromkeys([model.native, *model.weights]))
    if chip.vendor == "cpu":
        offered += [name for name in _CPU if name not in offered]
    usable = [name for name in offered if name in chip.precisions]
    sixteen = "bf16" if "bf16" in chip.precisions else "fp16"
    if sixteen not in usable and (not usable or model.native == "bf16"):
        usable.append(sixteen)
    native = memory.whole(model.shape, model.precision(model.native))

    def rank(name: str) -> tuple[bool, bool, bool, float]:
        size = memory.whole(model.shape, model.precision(name))
        wider = size > native * _WIDER
        if name in _INTEGER and chip.vendor != "huawei":
            size *= 1 + _ALIKE if wider else 1 - _ALIKE
        return name != model.native, name not in model.weights, wider, size if wider else -size

    return tuple(sorted(usable, key=rank))


def account(model: ModelSpec, hardware: Hardware, precision: str, kv: str, layout: Layout, wish: Wish) -> Plan:
    """One layout's memory, at the usual utilisation, or at the tightest where only that leaves room."""
    shape, chip = model.shape, hardware.chip
    cost = memory.kv(shape, kv, layout)
    context = wish.context or min(model.context or USUAL_CONTEXT, USUAL_CONTEXT)
    batched = min(wish.batched, context) if chip.vendor != "cpu" else 512
    items = (
        *memory.weights(shape, model.precision(precision), layout),
        Item("activations", memory.activations(shape, layout, batched=batched, sequences=wish.sequences)),
        *(item for item in memory.runtime(chip, shape, layout) if wish.graphs or item.name != memory.GRAPHS),
    )
    usual = _plan(chip, USUAL, layout, items, cost, context)
    tight = _plan(chip, TIGHT, layout, items, cost, context)
    plan = usual if usual.longest >= context or tight.longest < (wish.context or LEAST_CONTEXT) else tight
    if not wish.context and LEAST_CONTEXT <= plan.longest < context:
        plan = replace(plan, context=plan.longest // 1024 * 1024)
    return plan


def _plan(
    chip: ChipSpec, utilisation: float, layout: Layout, items: tuple[Item, ...], cost: KvCost, context: int
) -> Plan:
    budget = (chip.memory - chip.idle) * utilisation * GIB
    return Plan(layout, items, utilisation, budget, cost, context)


def _check(model: ModelSpec, hardware: Hardware, wish: Wish) -> None:
    if wish.precision:
        model.precision(wish.precision)
    if wish.kv and wish.kv not in KV_BYTES:
        raise ConfigError(f"unknown precision {wish.kv!r} of the KV cache; known are {', '.join(KV_BYTES)}")
    if not 0 <= wish.context <= MOST_CONTEXT:
        raise ConfigError(f"a context of {wish.context} tokens: from 1 to {MOST_CONTEXT} can be planned")
    if wish.layout and wish.layout.devices != hardware.total:
        raise ConfigError(
            f"layout {wish.layout} takes {wish.layout.devices} devices, the hardware has {hardware.total}"
        )
    if model.context and wish.context > model.context:
        raise ConfigError(f"{model.title} has a context of at most {model.context} tokens, not {wish.context}")


def _fit(model: ModelSpec, hardware: Hardware, wish: Wish) -> Fit:
    """Without advice: the first precision and layout that fit, else the nearest with its reasons."""
    final = list(_refusals(model, hardware.chip, wish))
    refusals = list(final)
    offered = (wish.precision,) if wish.precision else precisions(model, hardware.chip)
    nearest: Fit | None = None
    for name in offered:
        if not _computes(hardware.chip, name):
            continue
        found = _with(model, hardware, name, wish)
        if found.fits and not final:
            return found
        refusals += found.reasons
        if nearest is None or _nearer(found, nearest):
            nearest = found
    if nearest is None:
        return Fit(model, hardware, None, "", None, tuple(refusals), ())
    return replace(nearest, reasons=tuple(dict.fromkeys(refusals)))


def _nearer(found: Fit, than: Fit) -> bool:
    if found.plan is None or than.plan is None:
        return than.plan is None
    return found.plan.room > than.plan.room


def _refusals(model: ModelSpec, chip: ChipSpec, wish: Wish) -> Iterator[str]:
    """Reasons that no layout and no number of nodes would change."""
    if words := unable(model, chip):
        yield words
    offered = [wish.precision] if wish.precision else precisions(model, chip)
    if model.measured is not None and chip.vendor != "cpu":
        yield f"a GGUF file is served by the embedded engine, on a CPU only; on {chip.title} take its safetensors"
    elif not [name for name in offered if _computes(chip, name)]:
        published = ", ".join(model.weights)
        yield (
            f"{chip.title} does not compute with {', '.join(offered) or published} weights: it has "
            f"{', '.join(chip.precisions)}; {model.title} is published in {published}"
        )


def _computes(chip: ChipSpec, name: str) -> bool:
    """Whether a chip computes with such weights; those of a GGUF file only a CPU does, through the embedded engine."""
    return name in chip.precisions or (name not in PRECISIONS and chip.vendor == "cpu")


def _with(model: ModelSpec, hardware: Hardware, name: str, wish: Wish) -> Fit:
    """The best layout in one precision."""
    precision, kv = model.precision(name), wish.kv or _kv(model, hardware.chip, name)
    size = memory.whole(model.shape, precision)
    layouts = [wish.layout] if wish.layout else candidates(model.shape, hardware, size / GIB)
    wrong = forbidden(model.shape, wish.layout, hardware) if wish.layout else ""
    if wrong or not layouts:
        return Fit(model, hardware, precision, kv, None, (wrong or _no_layout(model, hardware),), ())
    plans = [account(model, hardware, name, kv, layout, wish) for layout in layouts]
    holding = [plan for plan in _with_divided_caches(model, hardware, name, kv, plans, wish) if _holds(plan, wish)]
    if not holding:
        plan = max(plans, key=lambda plan: plan.room)
        return Fit(model, hardware, precision, kv, plan, (_too_little(hardware, name, plan, size),), ())
    # A layout that holds the whole context planned for beats a preferred one that had to shorten it.
    longest = max(plan.context for plan in holding)
    best, *others = [plan for plan in holding if plan.context == longest]
    return Fit(
        model, hardware, precision, kv, best, (), tuple(_notes(model, name, best, wish)), tuple(others[:_OTHERS])
    )


def _holds(plan: Plan, wish: Wish) -> bool:
    """Whether at least one sequence of the context has room."""
    return plan.longest >= (wish.context or LEAST_CONTEXT) and plan.concurrency > 0


def _with_divided_caches(
    model: ModelSpec, hardware: Hardware, name: str, kv: str, plans: list[Plan], wish: Wish
) -> list[Plan]:
    """The plans; where no flat one holds the context, those with a divided latent cache come before pipelines."""
    flat = [plan for plan in plans if plan.layout.pipeline == 1]
    planned = wish.context or min(model.context or USUAL_CONTEXT, USUAL_CONTEXT)
    if model.shape.latent is None or wish.layout or any(plan.longest >= planned for plan in flat):
        return plans
    layouts = [with_divided_cache(model.shape, plan.layout) for plan in flat if plan.layout.tensor > 1]
    divided = [account(model, hardware, name, kv, layout, wish) for layout in layouts]
    return [*flat, *divided, *(plan for plan in plans if plan.layout.pipeline > 1)]


def _kv(model: ModelSpec, chip: ChipSpec, name: str) -> str:
    weights = model.weights.get(name)
    if weights is not None and weights.kv:
        return weights.kv
    return "bf16" if "bf16" in chip.precisions else "fp16"


def _no_layout(model: ModelSpec, hardware: Hardware) -> str:
    heads = model.shape.attention.heads
    return (
        f"{hardware.total} devices cannot be used whole: {heads} attention heads and {hardware.devices} devices a node "
        f"allow no even layout; a number of devices that is a power of two would"
    )


def _too_little(hardware: Hardware, name: str, plan: Plan, size: float) -> str:
    chip, held = hardware.chip, sum(item.bytes for item in plan.items)
    total = chip.memory * hardware.total
    if plan.room <= 0:
        return (
            f"in {name}, weights take {size / GIB:.0f} GiB of {total:.0f} GiB in all; with the runtime that is "
            f"{held / GIB:.1f} GiB on the fullest device ({plan.layout}), where {plan.budget / GIB:.1f} GiB may be used"
        )
    return (
        f"in {name}, {plan.room / GIB:.1f} GiB a device ({plan.layout}) are left for the KV cache: one sequence of "
        f"{plan.context} tokens needs {plan.cost.of(plan.context) / GIB:.1f} GiB, at most {plan.longest} tokens fit"
    )


def _notes(model: ModelSpec, name: str, plan: Plan, wish: Wish) -> Iterator[str]:
    if plan.utilisation > USUAL:
        yield f"tight: it takes a memory utilisation of {plan.utilisation:.2f} instead of the usual {USUAL:.2f}"
    if plan.layout.context > 1:
        yield f"the KV cache is too large for one device: {plan.layout.context} share it (decode context parallelism)"
    copies = redundant_experts(model.shape, plan.layout)
    if copies:
        yield f"{copies} copies of experts are added, so that {plan.layout.experts} devices hold equally many (EPLB)"
    if name not in model.weights:
        how = "dequantise or widen the published weights" if name in {"bf16", "fp16"} else "quantise them yourself"
        yield f"no published checkpoint in {name} is known: {how}"
    if not wish.context and plan.context < min(model.context or USUAL_CONTEXT, USUAL_CONTEXT):
        yield f"the context is shortened to {plan.context} tokens, which is what fits; the model has {model.context}"
    if model.confidence != "published":
        yield f"the model's numbers: {model.confidence}"


def _advice(model: ModelSpec, hardware: Hardware, wish: Wish) -> tuple[str, ...]:
    """What would fit: more nodes of the same kind, or another precision on the same."""
    if unable(model, hardware.chip):
        return ()
    free = replace(wish, layout=None)
    found = [_more_nodes(model, hardware, free)]
    if wish.precision:
        other = _fit(model, hardware, replace(free, precision=""))
        if other.fits and other.precision is not None:
            found.append(f"on the same hardware it fits in {other.precision.name}")
    if wish.context:
        shorter = _fit(model, hardware, replace(free, context=0))
        if shorter.fits and shorter.plan is not None:
            longest = min(shorter.plan.longest, model.context or MOST_CONTEXT)
            found.append(f"on the same hardware it fits with a context of up to {longest} tokens")
    return tuple(item for item in found if item)


def _more_nodes(model: ModelSpec, hardware: Hardware, wish: Wish) -> str:
    sizes: Iterable[int] = (nodes for nodes in _NODES if nodes > hardware.nodes)
    # Fewer devices than the node has: the whole node first.
    whole = replace(hardware, devices=hardware.node.devices)
    tries = [whole] if hardware.devices < hardware.node.devices else []
    for larger in (*tries, *(replace(whole, nodes=nodes) for nodes in sizes)):
        found = _fit(model, larger, wish)
        if found.fits and found.precision and found.plan:
            nodes = "1 whole node" if larger.nodes == 1 else f"{larger.nodes} nodes"
            return f"{nodes} of {larger.node.title} would hold it in {found.precision.name} ({found.plan.layout})"
    return ""

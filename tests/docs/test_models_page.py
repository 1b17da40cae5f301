"""docs/models.md repeats the catalogue: every row in it is what the data says, and every entry has its row."""

from __future__ import annotations

from pathlib import Path

import pytest

from daulat.catalog.accelerators import ChipSpec, NodeSpec, accelerators
from daulat.catalog.counting import active, parts
from daulat.catalog.models import ModelSpec, models
from daulat.catalog.precision import PRECISIONS, Precision
from daulat.planner import memory
from daulat.planner.layout import Layout

PAGE = (Path(__file__).parents[2] / "docs/models.md").read_text()


def model_row(spec: ModelSpec) -> str:
    shape = spec.shape
    names = [spec.native, *(name for name in spec.weights if name != spec.native)]
    sizes = ", ".join(f"{name} {memory.whole(shape, PRECISIONS[name]) / memory.GIB:,.1f}" for name in names)
    token = memory.kv(shape, "bf16", Layout(1, 1), drafts=False).token
    billions = f"{parts(shape).total / 1e9:,.2f} | {active(shape) / 1e9:,.2f}"
    return f"| `{spec.id}` | {billions} | {shape.layers} | {sizes} | {token:,.0f} | {spec.context:,} | {spec.licence} |"


def chip_row(chip: ChipSpec) -> str:
    flops = ", ".join(f"{name} {value:,.0f}" for name, value in chip.flops.items()) or "-"
    memory_ = f"{chip.memory:g}" if chip.memory else "yours"
    return f"| `{chip.id}` | {memory_} | {flops} | {', '.join(chip.precisions)} | {chip.confidence} |"


def node_row(node: NodeSpec) -> str:
    names = ", ".join(f"`{name}`" for name in node.names) or "-"
    return f"| `{node.id}` | {names} | {node.nodes} x {node.devices} x `{node.chip}` |"


def precision_row(precision: Precision) -> str:
    return f"| `{precision.name}` | {precision.note} |"


ROWS = [
    *map(model_row, models().values()),
    *map(chip_row, accelerators().chips.values()),
    *map(node_row, accelerators().nodes.values()),
    *map(precision_row, PRECISIONS.values()),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("`")[1])
def test_every_entry_stands_in_the_page_on_models_as_the_data_has_it(row: str) -> None:
    assert row in PAGE.splitlines(), f"docs/models.md needs the row\n{row}"


def test_the_page_on_models_has_no_row_that_the_data_has_not() -> None:
    written = {line for line in PAGE.splitlines() if line.startswith("| `")}
    assert written == set(ROWS)

"""Hardware by the names that people and tools use."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import facts

from daulat.catalog.accelerators import accelerators, chip, hardware, parse
from daulat.errors import ConfigError, DaulatError, NotFound


@pytest.mark.parametrize(
    ("text", "chip_id", "devices", "nodes"),
    [
        ("a3", "910c", 16, 1),
        ("A3", "910c", 16, 1),
        ("2xa3", "910c", 16, 2),
        ("atlas-800i-a2", "910b3", 8, 1),
        ("Atlas 800 A2", "910b3", 8, 1),
        ("8xH200", "h200", 8, 1),
        ("4xH200", "h200", 4, 1),
        ("16xH100", "h100", 8, 2),
        ("910B3x8", "910b3", 8, 1),
        ("910B4x8", "910b4", 8, 1),
        ("910Cx32", "910c", 16, 2),
        ("310Px4", "310p", 4, 1),
        ("cloudmatrix384", "910c", 16, 48),
        ("CloudMatrix 384", "910c", 16, 48),
        ("2xCloudMatrix384", "910c", 16, 96),
        ("a3x2", "910c", 16, 2),
        ("768x910C", "910c", 16, 48),
        ("910B", "910b3", 1, 1),
        ("gb200-nvl72", "gb200", 4, 18),
        ("8xGB200", "gb200", 4, 2),
        ("h20", "h20", 1, 1),
        ("8 x MI300X", "mi300x", 8, 1),
        ("950DTx8", "950dt", 8, 1),
        ("cpu:64GiB", "cpu", 1, 1),
    ],
)
def test_hardware_is_named_as_people_name_it(text: str, chip_id: str, devices: int, nodes: int) -> None:
    found = hardware(text)
    assert (found.chip.id, found.devices, found.nodes) == (chip_id, devices, nodes)
    assert found.total == devices * nodes


def test_a_cpu_has_the_memory_it_is_said_to_have() -> None:
    assert hardware("cpu:64GiB").chip.memory == 64
    assert hardware("CPU:8gib").chip.memory == 8


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("h2000", NotFound, r"no hardware 'h2000' .*cloudmatrix384.*cpu:64GiB"),
        ("", NotFound, "no hardware ''"),
        ("12xH100", ConfigError, "12 devices are no whole number of nodes: 8 x H100 has 8"),
        ("0xH100", ConfigError, "from 1 to"),
        ("999999xH100", ConfigError, "from 1 to"),
        ("8xH100x8", NotFound, "no hardware"),
        ("cpu", ConfigError, "how much memory"),
        ("cpu:lots", ConfigError, "Write it as in cpu:64GiB"),
        ("cpu:64GB", ConfigError, "Write it as in cpu:64GiB"),
        ("cpu:0GiB", ConfigError, "how much memory"),
    ],
)
def test_hardware_that_is_not_known_is_refused_with_what_is(text: str, error: type[DaulatError], said: str) -> None:
    with pytest.raises(error, match=said):
        hardware(text)


def test_other_numbers_of_nodes_are_bounded() -> None:
    assert hardware("a3").with_nodes(4).total == 64
    for nodes in (0, 10**9):
        with pytest.raises(ConfigError, match="can be planned"):
            hardware("a3").with_nodes(nodes)


@given(st.text(max_size=40))
def test_any_text_is_hardware_or_a_plain_refusal(text: str) -> None:
    try:
        found = hardware(text)
    except DaulatError:
        return
    assert found.total >= 1


@pytest.mark.parametrize(
    ("printed", "chip_id"),
    [
        ("910B3", "910b3"),
        ("Ascend910B4", "910b4"),
        ("310P3", "310p"),
        ("Ascend910", "910c"),  # all an A3 node prints
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_chips_are_known_by_what_the_tools_print(printed: str, chip_id: str) -> None:
    found = chip(printed)
    assert found is not None
    assert found.id == chip_id


def test_a_chip_that_is_not_known_is_none() -> None:
    assert chip("TPU v7") is None


def test_every_accelerator_of_the_charter_is_there() -> None:
    wanted = {
        "310p",
        "910b1",
        "910b2",
        "910b3",
        "910b4",
        "910c",
        "950dt",
        "950pr",
        "h20",
        "h100",
        "h200",
        "b200",
        "gb200",
    }
    assert wanted | {"mi300x"} <= set(accelerators().chips)
    assert {"atlas-800-a3", "atlas-800-a2", "cloudmatrix384", "gb200-nvl72"} <= set(accelerators().nodes)


def test_ascend_before_the_950_has_no_fp8_and_the_310p_no_bfloat16() -> None:
    for spec in accelerators().chips.values():
        if spec.vendor == "huawei" and not spec.id.startswith("950"):
            assert not {"fp8", "fp4", "nvfp4"} & set(spec.precisions), spec.id
            assert "w8a8" in spec.precisions
    assert "bf16" not in accelerators().chips["310p"].precisions


CHIP: dict[str, Any] = {
    "vendor": "amd", "title": "C", "names": ["c1"], "memory": 1, "bandwidth": 1, "flops": {}, "precisions": ["bf16"],
    "source": "https://x",
}  # fmt: skip
NODE: dict[str, Any] = {
    "title": "N", "names": [], "chip": "c", "devices": 2, "within": 1, "between": 1, "source": "https://x"
}  # fmt: skip


@pytest.mark.parametrize(
    ("chips", "nodes", "said"),
    [
        ({"c": {**CHIP, "vendor": "acme"}}, {}, "vendor is 'acme', expected one of"),
        ({"c": {**CHIP, "precisions": ["fp7"]}}, {}, r"unknown precisions \['fp7'\]"),
        ({"c": {**CHIP, "attention": ["odd"]}}, {}, "attention is"),
        ({"c": {**CHIP, "memory": -1}}, {}, "cannot be negative"),
        ({"c": {**CHIP, "memory": "1"}}, {}, r"f.toml, \[chip\], \[c\]: memory is '1', expected a number"),
        ({"c": CHIP, "d": CHIP}, {}, "'c1' names both c and d"),
        ({"c": CHIP}, {"n": {**NODE, "chip": "e"}}, "chip 'e' is not defined"),
        ({"c": CHIP}, {"n": {**NODE, "devices": 0}}, "at least 1"),
        ({"c": CHIP}, {"C": NODE}, "names both"),
    ],
)
def test_wrong_data_is_refused(chips: dict[str, Any], nodes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse({"f.toml": {"chip": chips, "node": nodes}})


def test_the_public_table_of_hardware_says_the_same_memory() -> None:
    names = {
        "Ascend 910B1": "910b1", "Ascend 910B2": "910b2", "Ascend 910B3": "910b3", "Ascend 910B4": "910b4",
        "Ascend 910B4-1": "910b4-1", "Ascend 910C die (what software sees on A3)": "910c", "NVIDIA H100 SXM": "h100",
        "NVIDIA H200 SXM": "h200", "NVIDIA B200 SXM": "b200", "AMD MI300X": "mi300x", "AMD MI355X": "mi355x",
        "NVIDIA H20": "h20", "NVIDIA GB200 (per GPU in NVL72)": "gb200", "NVIDIA B300 SXM": "b300",
    }  # fmt: skip
    found = {row["device"]: row for row in facts.rows("hardware.csv")}
    if not found:
        facts.folder("hardware.csv")
    for device, key in names.items():
        stated = float(found[device]["hbm_gb"].split("(")[0].split()[0])
        # Vendors count 10^9, or 2^30 rounded up; drivers keep some back.
        assert 0.93 * stated <= accelerators().chips[key].memory <= stated * 1.01, device


def test_what_the_public_table_calls_unsure_is_called_so_here() -> None:
    names = {
        "310P3": "310p",
        "950PR": "950pr",
        "950DT": "950dt",
        "910B4-1": "910b4-1",
        "H20": "h20",
        "MI355X": "mi355x",
    }
    names |= {f"910B{number}": f"910b{number}" for number in range(1, 5)}
    facts.folder("hardware.csv")
    for row in facts.rows("hardware.csv"):
        name = next((key for key in names if re.search(rf"\b{key}(?![-\w])", row["device"])), None)
        said = " ".join(row.values())
        if name and re.search("conflicting|unverified|recalled", said):
            assert accelerators().chips[names[name]].confidence != "published", row["device"]

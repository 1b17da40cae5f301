"""Which `/dev/davinciN` is whose: told by a table or DCMI, by numbers that agree, by the order of as many, or not."""

from __future__ import annotations

import pytest
from tests.unit.fleet.test_npu_smi import A2, A310P

from daulat.core.accelerator import Accelerator
from daulat.fleet.inventory import Inventory, together
from daulat.fleet.outputs import capture
from daulat.fleet.outputs.lines import Reading
from daulat.placement import devices

TWO = A2.replace("| 4     910B3  ", "| 0     910B3  ").replace("| 5     910B3  ", "| 1     910B3  ")
TWO = TWO.replace("| 4       0  ", "| 0       0  ").replace("| Critical  ", "| OK        ")


def read(text: str, *numbers: int) -> Inventory:
    files = "".join(f"/dev/davinci{number}\n" for number in numbers)
    return together(capture.read(f"{text}$ ls /dev/davinci*\n{files}"))


def test_in_a_virtual_machine_whose_files_begin_at_4_they_are_the_npus_in_their_order() -> None:
    found = read(TWO, 5, 4)
    assert [(one.card, one.physical_id) for one in found.accelerators] == [(0, 4), (1, 5)]
    assert list(devices.named(found.accelerators)) == ["npu:4", "npu:5"]
    assert found.problems == ()
    (note,) = found.notes
    assert "NPU 0 die 0 is /dev/davinci4, NPU 1 die 0 is /dev/davinci5" in note


def test_numbers_that_agree_need_no_order() -> None:
    found = read(A2, 4, 5)
    assert [(one.card, one.physical_id) for one in found.accelerators] == [(4, 4), (5, 5)]
    assert found.notes == ()


def test_the_dies_of_a_310p_are_counted_by_their_devices() -> None:
    found = read(A310P, 6, 7)
    assert [(one.logical_id, one.physical_id) for one in found.accelerators] == [(0, 6), (1, 7)]


def test_the_logical_ids_of_the_map_are_the_order_where_the_cards_are_not() -> None:
    mapping = "NPU ID  Chip ID  Chip Logic ID  Chip Name\n0  0  1  Ascend 910B3\n1  0  0  Ascend 910B3\n"
    found = read(f"{TWO}$ npu-smi info -m\n{mapping}", 4, 5)
    assert [(one.card, one.physical_id) for one in found.accelerators] == [(0, 5), (1, 4)]


@pytest.mark.parametrize("first", [True, False])
def test_what_dcmi_or_the_map_tells_is_what_holds(first: bool) -> None:
    told = Reading("dcmi", "", 0, tuple(Accelerator("ascend", card=n, die=0, physical_id=5 - n) for n in (0, 1)))
    others = capture.read(f"{TWO}$ ls /dev/davinci*\n/dev/davinci4\n/dev/davinci5\n")
    found = together([told, *others] if first else [*others, told])
    assert {one.card: one.physical_id for one in found.accelerators} == {0: 5, 1: 4}
    assert found.notes == ()


@pytest.mark.parametrize("numbers", [(4, 5, 6), (7,)])
def test_where_nobody_can_know_a_problem_says_what_to_do(numbers: tuple[int, ...]) -> None:
    found = read(TWO, *numbers)
    assert {one.physical_id for one in found.accelerators} == {None}
    (words,) = found.problems
    assert f"{len(numbers)} device files are there (/dev/davinci{numbers[0]}" in words
    assert "nothing can be placed on them: give this machine or container libdcmi.so" in words

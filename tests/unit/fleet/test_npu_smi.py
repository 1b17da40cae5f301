"""`npu-smi`: tables of every generation are read by their headers, and what does not fit is refused with its line."""

from __future__ import annotations

import pytest

from daulat.core.accelerator import MIB, Accelerator, Health, Process
from daulat.errors import InvalidRequest
from daulat.fleet.inventory import together
from daulat.fleet.outputs import capture

A2 = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 25.5.1                   Version: 25.5.1                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 4     910B3               | OK            | 102.8       45                0    / 0             |
| 0                         | 0000:C1:00.0  | 12          0    / 0          22283/ 65536         |
+===========================+===============+====================================================+
| 5     910B3               | Critical      | NA          NA                0    / 0             |
| 0                         | NA            | 0           0    / 0          3445 / 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 4       0                 | 2290156       | VLLM|EngineCore          | 18630                   |
+===========================+===============+====================================================+
| No running processes found in NPU 5                                                            |
+===========================+===============+====================================================+
"""
A3_WIDE = """\
+------------------------------------------------------------------------------------------------------------------+
| npu-smi 26.0.rc2                            Version: 26.0.rc2                                                    |
+---------------------------+---------------+----------------------------------------------------------------------+
| NPU   Name                | Health        | Power(W)             Temp(C)                 Hugepages-Usage(page)   |
| Chip  Phy-ID              | Bus-Id        | AICore(%)            Memory-Usage(MB)        HBM-Usage(MB)           |
+===========================+===============+======================================================================+
| 7     Ascend910           | OK            | 172.0                53                      0    / 0                |
| 0     14                  | 0000:81:00.0  | 0                    0    / 0                15503/ 65536            |
+------------------------------------------------------------------------------------------------------------------+
| 7     Ascend910           | UNKNOWN       | -                    52                      0    / 0                |
| 1     15                  | 0000:83:00.0  | 0                    0    / 0                15242/ 65536            |
+===========================+===============+======================================================================+
+---------------------------+---------------+----------------------------------------------------------------------+
| NPU     Chip              | Process id    | Process name       | Process memory(MB)    | Process id in container |
+===========================+===============+======================================================================+
| 7       0                 | 692318        |                    | 12417                 | NA                      |
| 7       1                 | 692318        | python3            | 12417                 | 88                      |
+===========================+===============+======================================================================+
"""
A310P = """\
+--------------------------------------------------------------------------------------------------------+
| npu-smi 25.2.0                                   Version: 25.2.0                                       |
+-------------------------------+-----------------+------------------------------------------------------+
| NPU     Name                  | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===============================+=================+======================================================+
| 32768   310P3                 | OK              | NA           45                0     / 0             |
| 0       0                     | 0000:01:00.0    | 3            1529 / 44280                            |
+-------------------------------+-----------------+------------------------------------------------------+
| 32768   310P3                 | Alarm           | NA           43                15    / 15            |
| 1       1                     | 0000:01:00.0    | 0            1412 / 43693                            |
+===============================+=================+======================================================+
"""
A910A_BYTES = """\
+-------------------------------------------------------------------------------------------+
| npu-smi 23.0.rc1.b070            Version: 23.0.rc1.b070                                   |
+----------------------+---------------+----------------------------------------------------+
| NPU   Name           | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                 | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+======================+===============+====================================================+
| 0     910A           | Warning       | 72.0        39                0    / 0             |
| 0                    | 0000:C1:00.0  | 0           938  / 15137      30750/ 32768         |
+======================+===============+====================================================+
+----------------------+---------------+----------------------------------------------------+
| NPU     Chip         | Process id    | Process name             | Process memory(B)       |
+======================+===============+====================================================+
| 0       0            | 41            | python                   | 32243712                |
+======================+===============+====================================================+
"""


def read(text: str) -> tuple[Accelerator, ...]:
    return together(capture.read(text)).accelerators


def test_an_a2_has_one_die_a_card_and_numbers_may_touch_the_slash() -> None:
    first, second = read(A2)
    assert (first.card, first.die, first.product, first.architecture) == (4, 0, "Ascend 910B3", "A2")
    assert (first.memory_kind, first.memory_used, first.memory_total) == ("HBM", 22283 * MIB, 65536 * MIB)
    assert (first.pci, first.power, first.temperature, first.utilisation.core) == ("0000:c1:00.0", 102.8, 45, 12)
    assert first.driver == "25.5.1"
    assert first.health == Health("ok")
    assert first.processes == (Process(2290156, "VLLM|EngineCore", 18630 * MIB),)
    assert (second.pci, second.power, second.temperature) == (None, None, None)
    assert second.health == Health("critical", ("npu-smi says Critical",))
    assert second.physical_id is None, "nobody has told it"


def test_an_a3_has_two_dies_a_package_and_a_wider_table_of_a_newer_release() -> None:
    first, second = read(A3_WIDE)
    assert [(one.card, one.die, one.physical_id) for one in (first, second)] == [(7, 0, 14), (7, 1, 15)]
    assert {one.architecture for one in (first, second)} == {"A3"}
    assert second.power is None
    assert second.health.state == "unknown"
    assert first.processes == (Process(692318, None, 12417 * MIB),)
    assert second.processes == (Process(692318, "python3", 12417 * MIB),)


def test_a_310p_has_ddr_sparse_numbers_and_no_power() -> None:
    first, second = read(A310P)
    assert (first.card, first.die, first.logical_id, first.physical_id) == (32768, 0, 0, None)
    assert (first.memory_kind, first.memory_used, first.memory_total) == ("DDR", 1529 * MIB, 44280 * MIB)
    assert first.power is None
    assert second.health.state == "alarm"
    assert second.architecture == "310P"


def test_a_910a_has_ddr_and_hbm_and_its_processes_are_in_bytes() -> None:
    (one,) = read(A910A_BYTES)
    assert (one.memory_kind, one.memory_total) == ("HBM", 32768 * MIB)
    assert one.processes == (Process(41, "python", 32243712),)
    assert one.architecture == "910A"
    assert one.health.fit, "a warning stops nobody"


def test_the_first_generation_may_call_itself_910b_and_is_known_by_its_two_memories() -> None:
    (one,) = read(A910A_BYTES.replace("910A ", "910B "))
    assert (one.product, one.architecture) == ("Ascend 910B", "910A")


def test_a_capture_whose_headers_were_cut_off_is_read_as_its_first_chip_is() -> None:
    rows = "\n".join(A3_WIDE.splitlines()[6:13])
    assert [(one.physical_id, one.memory_total) for one in read(rows)] == [(14, 65536 * MIB), (15, 65536 * MIB)]


def test_a_cut_capture_with_more_values_than_any_chip_has_is_refused() -> None:
    rows = "\n".join(A3_WIDE.splitlines()[6:8])
    for wrong in (rows.replace("| 0     14  ", "| 0     14 3"), rows.replace("15503/ 65536", "15503/ 65536 7")):
        with pytest.raises(InvalidRequest, match="line 2: this is not the second row"):
            capture.read(wrong)


def test_processes_without_a_header_have_no_unit_and_so_no_memory() -> None:
    (one,) = read("| 3       1                 | 77            | python3            | 12417                 |\n")
    assert (one.card, one.die) == (3, 1)
    assert one.processes == (Process(77, "python3", None),)


LAST_ROW = "| 0                         | NA            | 0           0    / 0          3445 / 65536         |\n"
BROKEN = {
    "half a chip": (A2.replace(LAST_ROW, ""), 10, "second row"),
    "no HBM": (A2.replace("0    / 0          3445 / 65536 ", "0    / 0                        "), 11, "2 of 3 values"),
    "more used than there is": (A2.replace("22283/ 65536", "92283/ 65536"), 8, "92283 of 65536 MB"),
    "a letter in a number": (A2.replace("22283/", "2228O/"), 8, "not a whole number"),
    "an unknown health": (A2.replace("| OK            | 102.8", "| Fine          | 102.8"), 7, "no health that is"),
    "twice": (A2.replace("| 5     910B3  ", "| 4     910B3  "), 10, "twice"),
    "a percentage over 100": (A2.replace("| 12          0", "| 120         0"), 8, "not a percentage"),
    "an odd address": (A2.replace("0000:C1:00.0", "0000:C1:00"), 8, "not a PCI address"),
    "a row that is not closed": (A2.replace("65536         |\n+===", "65536\n+===", 1), 8, "begins and ends with |"),
    "a process without an id": (A2.replace("| 2290156       |", "| -             |"), 16, "a process has"),
    "a cell too few": (A2.replace("| VLLM|EngineCore          |", "|"), 16, "3 cells"),
    "a missing physical id": (A3_WIDE.replace("| 1     15   ", "| 1          "), 11, "1 of 2 values"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_malformed_is_refused_with_its_line_and_never_read_as_a_number(name: str) -> None:
    text, number, why = BROKEN[name]
    assert text not in {A2, A3_WIDE}
    with pytest.raises(InvalidRequest, match=f"line {number}: .*{why}") as caught:
        capture.read(text)
    assert caught.value.code == "malformed_output"
    assert repr(text.splitlines()[number - 1].strip()[:40])[:-1] in caught.value.message, "the line is quoted"


def test_the_map_names_logical_ids_and_the_mcu_is_no_chip() -> None:
    text = (
        "\tNPU ID                         Chip ID                        Chip Logic ID                  Chip Name\n"
        "\t4                              0                              0                              Ascend 910B3\n"
        "\t4                              1                              -                              Mcu\n"
    )
    (one,) = read(text)
    assert (one.card, one.die, one.logical_id, one.product) == (4, 0, 0, "Ascend 910B3")


def test_the_map_of_a_950_has_slots_and_physical_ids() -> None:
    text = "NPU ID  Slot ID  Chip ID  Chip Phy-ID  Chip Name\n0       1        0        8            Ascend950PR\n"
    (one,) = read(text)
    assert (one.slot, one.physical_id, one.product, one.architecture) == (1, 8, "Ascend 950PR", "A5")


def test_a_map_with_a_value_too_few_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="line 2: 3 of 4 values"):
        capture.read("NPU ID  Chip ID  Chip Logic ID  Chip Name\n0 0 0\n")


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("Ascend910_9392", "A3"),
        ("910B2C", "A2"),
        ("Ascend 910ProB", "910A"),
        ("310B4", "310B"),
        ("910", None),
        ("910B", None),
        ("310", "310"),
    ],
)
def test_the_generation_is_known_from_the_name_or_not_at_all(name: str, generation: str | None) -> None:
    (one,) = read(f"NPU ID  Chip ID  Chip Logic ID  Chip Name\n0  0  0  {name}\n")
    assert one.architecture == generation

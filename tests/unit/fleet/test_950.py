"""Ascend 950: its own layout of tables, no chips, faults as events; and `npu-smi info watch` of every generation.

Layouts after the documentation and the source of npu-smi and hccn_tool in the open driver, and after public captures.
"""

from __future__ import annotations

import pytest

from daulat.core.accelerator import MIB, Process
from daulat.errors import InvalidRequest
from daulat.fleet.inventory import Inventory, together
from daulat.fleet.outputs import capture

INFO = """\
+-------------------------------------------------------------------------------------------------+
| npu-smi 25.7.rc1                                 Version: 25.7.rc1                              |
+--------+------------------+---------------+-----------------------------------------------------+
| NPU ID | Name             | Health        | Power(W)    Temp(C)           Hugepages-Usage(page) |
|        |                  | Bus-Id        | NPU Util(%) Memory-Usage(MB)  HBM-Usage(MB)         |
+========+==================+===============+=====================================================+
| 0      | Ascend950PR      | Alarm         | 201.2       70                0     / 0             |
|        |                  | 0000:61:00.0  | 97          0    / 0          80123 / 114688        |
+========+==================+===============+=====================================================+
| 1      | Ascend950PR      | OK            | 190.0       55                0     / 0             |
|        |                  | 0000:71:00.0  | 0           0    / 0          5401  / 131072        |
+========+==================+===============+=====================================================+
+---------------------------+---------------+-----------------------------------------------------+
| NPU ID                    | Process id    | Process name             | Process memory(MB)       |
+===========================+===============+=====================================================+
| 0                         | 4242          | python                   | 4700                     |
+===========================+===============+=====================================================+
| No running processes found in NPU 1                                                             |
+===========================+===============+=====================================================+
"""
MAP = """\
NPU ID          Slot ID          Chip ID          Chip Phy-ID          Chip Name
0               3                0                0                    Ascend950PR
1               4                0                1                    Ascend950PR
"""


def read(text: str) -> Inventory:
    return together(capture.read(text))


def test_the_table_has_numbers_in_a_cell_of_their_own() -> None:
    sick, well = read(INFO).accelerators
    assert (sick.card, sick.die, sick.product, sick.architecture) == (0, None, "Ascend 950PR", "A5")
    assert (sick.health.state, sick.power, sick.temperature, sick.pci) == ("alarm", 201.2, 70, "0000:61:00.0")
    assert (sick.memory_used, sick.memory_total) == (80123 * MIB, 114688 * MIB)
    assert (sick.utilisation.overall, sick.utilisation.core) == (97, None)
    assert sick.processes == (Process(4242, "python", 4700 * MIB),)
    assert (well.health.state, well.processes, well.driver) == ("ok", (), "25.7.rc1")


def test_table_and_map_are_of_the_same_devices() -> None:
    found = read(f"{INFO}$ npu-smi info -m\n{MAP}")
    assert [(one.physical_id, one.slot, one.memory_total) for one in found.accelerators] == [
        (0, 3, 114688 * MIB),
        (1, 4, 131072 * MIB),
    ]
    assert found.problems == ()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [("80123 / 114688", "180123 / 114688", 8), ("| 97  ", "| 197 ", 8), ("| Alarm  ", "| Odd    ", 7)],
)
def test_what_cannot_be_is_refused_with_its_line(old: str, new: str, line: int) -> None:
    with pytest.raises(InvalidRequest, match=f"line {line}: "):
        capture.read(INFO.replace(old, new))
    with pytest.raises(InvalidRequest, match="second row"):
        capture.read("\n".join(INFO.splitlines()[:7]))


def test_faults_are_events_with_a_severity() -> None:
    (one,) = read(
        "$ npu-smi info -t current-fault-event -i 5\n"
        "Fault Event Count              : 2\n"
        "Fault Event Information        : event id=0x81AF8000, severity=1, node type ex=215, node id=0\n"
        "                               : event id=0x80E01801, severity=3, node type ex=192, node id=0\n"
    ).accelerators
    assert (one.card, one.health.state) == (5, "critical")
    assert one.health.codes == ("81AF8000", "80E01801")


def test_board_list_and_sensors() -> None:
    board = "Chip Name : Ascend950PR\nSerial Number : S7\nDDie ID : 870408E3 2120D518\nCompatibility : OK\n"
    (one,) = read(f"$ npu-smi info -t board -i 2\nNPU ID : 2\n{board}").accelerators
    assert (one.card, one.architecture, one.serial, one.unique_id) == (2, "A5", "S7", "870408E3 2120D518")
    (listed,) = read(
        "$ npu-smi info -l\nTotal Count : 1\n\nNPU ID : 0\nProduct Name : A5 PCIe Card\nSerial Number : S8\n"
    ).accelerators
    assert (listed.card, listed.board, listed.serial) == (0, "A5 PCIe Card", "S8")
    (warm,) = read(
        "$ npu-smi info -t sensors -i 0\nSoc Max Temperature (C) : 67\nHBM Temperature (C) : 63\n"
    ).accelerators
    assert (warm.card, warm.temperature, warm.memory_temperature) == (0, 67, 63)


def test_ports_of_a_die_and_the_tables_behind_them() -> None:
    found = read(
        "$ hccn_tool -g -dev_info -i 3\n"
        "+---------+---------+---------------------+-----------+-------------+------------+\n"
        "| UDie ID | Port ID | Speed Ability(Gbps) | Port Type | Link Status | Media Type |\n"
        "+---------+---------+---------------------+-----------+-------------+------------+\n"
        "| 0       | 4       | 400                 | UB        | UP          | Electrical |\n"
        "| 0       | 5       | 400                 | UB        | DOWN        | Electrical |\n"
        "+---------+---------+---------------------+-----------+-------------+------------+\n"
        "+-----------------+------------+---------+\n"
        "| Interface Name  | IP Address | Netmask |\n"
        "+-----------------+------------+---------+\n"
        "| end0v0          | 10.2.2.9   | NA      |\n"
    )
    (one,) = found.accelerators
    assert (one.physical_id, one.port.state, one.port.speed_mbps) == (3, "up", 400_000)
    assert found.problems == ("port 5 of die 0 (UB) is down",)


def test_some_links_up_is_said() -> None:
    found = read("$ hccn_tool -g -ub_connect -i 0\nlink status : PARTIAL LINK\nport 4 : UP\nport 5 : DOWN\n")
    assert found.accelerators[0].port.state == "up"
    assert found.problems == ("NPU physical 0: net health is partial link",)


WATCH = """\
$ npu-smi info watch
NpuID(Idx)  ChipId(Idx) Pwr(W)      Temp(C)     AI Core(%)  AI Cpu(%)   Ctrl Cpu(%) Memory(%)   Memory BW(%)
0           0           160.5       43          17          0           5           95          14
0           1           NA          41          36          0           1           94          13
0           0           161.7       44          18          0           5           95          15
"""


def test_a_watch_tells_of_each_chip_what_it_told_last() -> None:
    one, two = read(WATCH).accelerators
    assert (one.die, one.power, one.temperature) == (0, 161.7, 44)
    assert (one.utilisation.core, one.utilisation.memory_bandwidth) == (18, 15)
    assert (two.die, two.power, two.utilisation.core) == (1, None, 36)
    (short,) = read("NpuID(Idx)  Pwr(W)      Temp(C) \n3           280.8       84\n").accelerators
    assert (short.card, short.die, short.power, short.temperature) == (3, None, 280.8, 84)


@pytest.mark.parametrize("row", ["0 0 160 43 17 0 5 95", "0 0 160 43 170 0 5 95 14", "NA 0 160 43 17 0 5 95 14"])
def test_a_row_of_a_watch_that_does_not_fit_is_refused(row: str) -> None:
    with pytest.raises(InvalidRequest, match="line 6: "):
        capture.read(f"{WATCH}{row}\n")

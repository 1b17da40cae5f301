"""Real captures, where they are at hand: what they say, number by number. They are not part of the project."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from daulat.core.accelerator import MIB
from daulat.fleet.inventory import Inventory, together
from daulat.fleet.outputs import capture

FACTS = Path(os.environ.get("DAULAT_FACTS") or Path(__file__).parents[4] / "shared/facts") / "npu-smi"
pytestmark = pytest.mark.skipif(not FACTS.is_dir(), reason="real captures are not at hand (DAULAT_FACTS)")


def read(*names: str) -> Inventory:
    return together(
        reading for name in names for reading in capture.read_file((FACTS / f"{name}.txt").read_text(), name)
    )


def test_an_a3_node_of_sixteen_dies_meets_its_device_files_and_addresses() -> None:
    found = read("910C_A3_info_dual_die_functionsystem", "ls_dev_davinci", "hccn_conf_16npu").accelerators
    assert [one.physical_id for one in found] == list(range(16))
    assert {one.architecture for one in found} == {"A3"}
    assert [one.power is None for one in found] == [False, True] * 8
    assert (found[8].memory_used, found[8].pci) == (52553 * MIB, "0000:8d:00.0")
    assert found[9].processes[0].pid == 957770
    assert found[15].port.address == "127.0.0.94"
    assert all(one.memory_total == 65536 * MIB for one in found)


def test_processes_without_names_and_several_a_die() -> None:
    found = {(one.card, one.die): one for one in read("A3_910C_info_processes_multi_per_chip").accelerators}
    assert len(found) == 16, "the first die's rows were cut off, its processes were not"
    assert [user.pid for user in found[0, 0].processes] == [3325989, 3330598, 3328327, 3333165]
    assert found[0, 0].memory_total is None
    assert {user.name for one in found.values() for user in one.processes} == {None}
    assert found[6, 1].utilisation.core == 17


def test_a2_nodes_by_table_map_usages_temperature_board_and_topology() -> None:
    names = (
        "info_validated_two_cards",
        "map_m",
        "telegraf_usages",
        "telegraf_temp",
        "telegraf_board",
        "topo_with_affinity",
    )
    found = {one.card: one for one in read(*(f"910B3_{name}" for name in names)).accelerators}
    assert (found[0].serial, found[0].firmware, found[0].temperature) == ("1025C9048791", "7.8.0.6.201", 45)
    assert (found[5].memory_used, found[5].utilisation.core, found[5].cpu_affinity) == (60156 * MIB, 12, "0-23")
    assert found[5].processes[0].memory == 56630 * MIB
    assert {link.kind for link in found[0].links} == {"HCCS"}


def test_310p_cards_have_sparse_numbers_and_ddr() -> None:
    found = read("310P3_info_functionsystem").accelerators
    assert [one.card for one in found[::2]] == [1536, 1792, 2048, 2304]
    assert {one.memory_kind for one in found} == {"DDR"}
    assert {one.power for one in found} == {None}
    assert found[6].memory_used == 1656 * MIB


def test_a_collection_of_a_910a_before_and_after_its_fault() -> None:
    before, *_ = read("910A_mindcluster_kg_parse_npu_info_before").accelerators
    assert (before.health.state, before.memory_total, before.port.optical_present) == ("ok", 31129 * MIB, False)
    assert before.unique_id == "42C711D4 20B03704 4A10C8D4 14CC040A D2102003"
    (after,) = read("910A_mindcluster_kg_parse_npu_info_after").accelerators
    assert (after.health.state, len(after.health.reasons), after.driver) == ("alarm", 3, "23.0.7")
    assert after.health.codes == ("A4025021", "8C03A000", "8C084E00")


def test_warnings_and_numbers_that_touch_the_slash() -> None:
    found = read("910A_info_health_warning").accelerators
    assert Counter(one.health.state for one in found) == {"warning": 4}
    assert found[2].memory_used == 30750 * MIB


def test_ports_of_a_whole_worker() -> None:
    found = {one.physical_id: one for one in read("mindcluster_st_worker0_npu_info_after").accelerators}
    assert sorted(number for number in found if number is not None) == list(range(8))
    assert dict(found[6].port.counters) == {"roce_rx_err_pkt_num": 13, "roce_tx_err_pkt_num": 77}
    assert (found[5].port.address, found[5].port.link_ups) == ("10.10.0.15", 2)


def test_an_rtx_3090() -> None:
    (one,) = read("nvidia_smi_q_rtx3090").accelerators
    assert (one.product, one.memory_total, one.power, one.temperature) == (
        "NVIDIA GeForce RTX 3090",
        24576 * MIB,
        99.31,
        33,
    )
    assert (one.ecc.double_bit, one.health.state, one.driver) == (None, "ok", "535.154.05")


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("error_driver_not_loaded", lambda found: any("the driver is not loaded" in words for words in found.problems)),
        (
            "910B4_topo_hccs_full_mesh",
            lambda found: found.topology["NPU7"]["NPU0"] == "HCCS" and len(found.topology) == 8,
        ),
        ("npu_topo_pcie_4card", lambda found: found.topology["NPU0"] == {"NPU1": "PXB", "NPU2": "SYS", "NPU3": "PXB"}),
        ("950DT_map_topo_process_unit_test", lambda found: found.accelerators[1].links[0].kind == "UB"),
        ("hccn_tool_A2_ok", lambda found: found.accelerators[0].port.state == "up"),
        ("910B3_telegraf_list_l", lambda found: [one.card for one in found.accelerators] == list(range(8))),
        ("910B3_telegraf_power", lambda found: found.accelerators[0].power == 103.5),
        ("A3_usages_two_chips", lambda found: [one.utilisation.overall for one in found.accelerators] == [65, 58]),
        ("910B2C_info_partial", lambda found: [one.card for one in found.accelerators] == [0, 1, 15]),
    ],
)
def test_what_else_was_captured(name: str, check: Callable[[Inventory], bool]) -> None:
    assert check(read(name))

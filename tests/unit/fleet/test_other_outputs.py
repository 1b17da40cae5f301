"""`npu-smi -t`, `hccn_tool`, `nvidia-smi`, topologies and AMD's JSON: one by one, and several in one file."""

from __future__ import annotations

import json

import pytest

from daulat.core.accelerator import MIB, Accelerator, Ecc, Link, Process
from daulat.errors import InvalidRequest
from daulat.fleet.inventory import Inventory, together
from daulat.fleet.outputs import capture


def read(text: str) -> Inventory:
    return together(capture.read(text))


def only(text: str) -> Accelerator:
    (one,) = read(text).accelerators
    return one


USAGES = """\
	NPU ID                         : 0
	Chip Count                     : 2

	DDR Capacity(MB)               : 0
	HBM Capacity(MB)               : 65536
	HBM Usage Rate(%)              : 16
	Aicore Usage Rate(%)           : 2
	NPU Utilization(%)             : 65
	Chip ID                        : 0

	HBM Capacity(MB)               : 65536
	Aicore Usage Rate(%)           : 12
	HBM Bandwidth Usage Rate(%)    : 7
	Chip ID                        : 1
"""


def test_a_chips_number_may_close_its_block() -> None:
    first, second = read(USAGES).accelerators
    assert (first.die, first.utilisation.core, first.utilisation.overall) == (0, 2, 65)
    assert (second.die, second.utilisation.core, second.utilisation.memory_bandwidth) == (1, 12, 7)
    assert first.memory_total == 65536 * MIB
    assert first.memory_used is None, "a rounded rate is no amount"


def test_without_empty_lines_a_name_that_comes_again_begins_the_next_chip() -> None:
    packed = "\n".join(line for line in USAGES.splitlines() if line.strip())
    assert [one.utilisation.core for one in read(packed).accelerators] == [2, 12]


def test_a_board_is_of_the_whole_card_and_reaches_both_dies() -> None:
    board = (
        "$ npu-smi info -t board -i 0\n\tNPU ID : 0\n\tSerial Number : 102\n\tFirmware Version : 7.8.0\n"
        "\tPCIe Bus Info : 0000:9D:00.0\n\tCompatibility : NA\n"
    )
    first, second = read(USAGES + board).accelerators
    assert (first.serial, second.serial, second.firmware, second.pci) == ("102", "102", "7.8.0", None)


def test_the_mcus_temperatures_are_not_the_chips() -> None:
    one = only(
        "\tNPU ID : 3\n\tChip Count : 1\n\n\tNPU Temperature (C) : 39\n"
        "\tChip ID : 0\n\n\tLM75A_TE (C) : 36\n\tChip Name : MCU\n"
    )
    assert (one.card, one.die, one.temperature) == (3, 0, 39)


def test_health_has_codes_and_reasons_over_several_lines() -> None:
    one = only(
        "/usr/local/bin/npu-smi info -i 6 -c 1 -t health\n\tHealth Status : Alarm\n\tError Code : A4025021 8C03A000\n"
        "\tError Information : lost heart beat\n\n\t                : node type=adda, event state=Heartbeat Lost.\n"
    )
    assert (one.card, one.die, one.health.state) == (6, 1, "alarm")
    assert one.health.codes == ("A4025021", "8C03A000")
    assert one.health.reasons == ("lost heart beat", "node type=adda, event state=Heartbeat Lost.")
    assert not one.health.fit


def test_double_bit_errors_are_an_alarm_whatever_npu_smi_calls_its_health() -> None:
    one = only(
        "# npu-smi info -t ecc -i 1 -c 0\n\tNPU ID : 1\n\tHBM Single Bit Error Count : 14\n"
        "\tHBM Double Bit Error Count : 3\n\tHBM Double Bit Isolated Pages Count : 2\n"
    )
    assert one.ecc == Ecc(single_bit=14, double_bit=3, double_bit_isolated_pages=2)
    assert one.health.state == "alarm"
    assert one.health.reasons == (
        "3 double bit errors of the memory",
        "2 pages of the memory are isolated for double bit errors",
    )


def test_processes_of_one_chip() -> None:
    text = "NPU ID : 0\nProcess id:1654497 Process name:python            Process memory(MB):177\nChip ID : 0\n"
    assert only(text).processes == (Process(1654497, "python", 177 * MIB),)


def test_a_list_says_which_cards_there_are_and_whether_it_was_cut() -> None:
    found = read("\tTotal Count : 3\n\n\tNPU ID : 4\n\tChip Count : 1\n\n\tNPU ID : 5\n\tChip Count : 1\n")
    assert [one.card for one in found.accelerators] == [4, 5]
    assert found.problems == ("line 1: 3 NPUs are counted, 2 are listed",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("NPU ID : 0\nHBM Capacity(MB) : 65S36\n", "line 2: '65S36' is not a whole number"),
        ("NPU ID : 0\nHealth Status : Splendid\n", "line 2: 'Splendid' is no health"),
        ("NPU ID : 0\nHealth Status : Alarm\nError Code : XYZ\n", "line 3: 'XYZ' is not a code"),
        ("NPU ID : 0\nNPU Temperature (C) 39\n", "line 2: this is not `name : value`"),
        ("NPU ID : 0\nAicore Usage Rate(%) : 101\n", "line 2: 101 is not a percentage"),
    ],
)
def test_malformed_fields_are_refused_with_their_line(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why.replace("(", r"\(").replace(")", r"\)")):
        capture.read(text)


def test_hccn_tool_speaks_of_the_device_in_its_command_line() -> None:
    found = read(
        "hccn_tool -i 12 -link -g\nlink status: DOWN\n\nhccn_tool -i 12 -ip -g\nipaddr:10.0.0.7\nnetmask:255.255.0.0\n"
        "hccn_tool -i 12 -net_health -g\nnet health status: Receive timeout\n"
        "hccn_tool -i 12 -speed -g\nSpeed: 200000 Mb/s\n"
        "hccn_tool -i 12 -stat -g\npacket statistics:\nroce_rx_err_pkt_num:11\n"
    )
    (one,) = found.accelerators
    assert one.physical_id == 12
    assert (one.port.state, one.port.address, one.port.speed_mbps) == ("down", "10.0.0.7", 200_000)
    assert one.port.counters == (("roce_rx_err_pkt_num", 11),)
    assert "NPU physical 12: its link is down" in found.problems
    assert "NPU physical 12: net health is Receive timeout" in found.problems


def test_hccn_tool_without_a_command_line_is_of_an_unknown_device() -> None:
    one = only("ipaddr:10.86.1.80\nnetmask:255.255.255.0\nlink status: UP\nnet health status: Success\n")
    assert one.physical_id is None
    assert (one.port.state, one.port.health) == ("up", "Success")


def test_neighbours_and_optics() -> None:
    one = only(
        "hccn_tool -i 3 -lldp -g\nChassis ID TLV\n\tMAC: 44:31:92:6b:5e:fc\nPort ID TLV\n\tIfname: 400GE1/0/7\n"
        "System Name TLV\n\tspine-2\nSystem Description TLV\n\tSwitch of\n\ttwo lines\n"
        "hccn_tool -i 3 -optical -g\noptical info:\npresent              : present\ntemperature          : 47 C\n"
        "Vcc                  : 3262.90 mV\nTx Power0            : 1.4035 mW\nHost SNR Lane0       : not supported\n"
    )
    assert (one.port.peer, one.port.peer_port) == ("spine-2", "400GE1/0/7")
    assert one.port.optical_present is True
    assert dict(one.port.optical) == {"temperature": 47.0, "vcc": 3262.9, "txpower0": 1.4035}


def test_ports_of_a_950_have_a_table() -> None:
    found = read(
        "$ hccn_tool -g -dev_info -i 2\n+--------+--------+-------+----------+-------------+------------+\n"
        "| UdieID | PortID | Speed | PortType | Link Status | Media Type |\n"
        "| 0      | 4      | 200   | ETH      | DOWN        | Electrical |\n"
        "| 1      | 9      | 200   | UB       | UP          | Optical    |\n"
    )
    (one,) = found.accelerators
    assert (one.physical_id, one.port.state, one.port.speed_mbps) == (2, "up", 200_000)
    assert found.problems == ("port 4 of die 0 (ETH) is down",)


@pytest.mark.parametrize(
    "text",
    ["link status: SIDEWAYS\n", "ipaddr:10.0.0.777\n", "Speed: fast\n", "packet statistics:\nroce_rx_err_pkt_num:x\n"],
)
def test_malformed_ports_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"line [12]: "):
        capture.read(text)


def test_hccn_conf_and_device_files_meet_by_the_physical_id_of_any_number_of_digits() -> None:
    conf = "".join(f"address_{n}=10.0.0.{n}\nnetmask_{n}=255.255.0.0\nsend_arp_status_{n}=1\n" for n in (2, 11))
    found = read(conf).accelerators
    assert [(one.physical_id, one.port.address) for one in found] == [(2, "10.0.0.2"), (11, "10.0.0.11")]
    files = read("crw-rw---- 1 HwHiAiUser HwHiAiUser 236, 11 Mar  1 08:00 /dev/davinci11\ndavinci2\ndavinci_manager\n")
    assert [one.physical_id for one in files.accelerators] == [2, 11]


TOPO = """\
           Phy-ID0    Phy-ID1    Phy-ID2    CPU Affinity
Phy-ID0    X          SIO        HCCS_SW    0-39
Phy-ID1    SIO        X          HCCS_SW    0-39
Phy-ID2    HCCS_SW    HCCS_SW    X          40-79

Legend:

  X    = Self
  SIO  = two dies of one package
"""


def test_a_topology_by_physical_ids_gives_each_die_its_links() -> None:
    files = "\ndavinci0\ndavinci1\ndavinci2\n"
    first, *_, last = read(TOPO + files).accelerators
    assert first.links == (Link("Phy-ID1", "SIO"), Link("Phy-ID2", "HCCS_SW"))
    assert last.cpu_affinity == "40-79"


def test_a_topology_without_affinity_and_of_nvidia() -> None:
    found = read("\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \tNV18\tPIX\t0-55\t0\t\tN/A\n"
                 "GPU1\tNV18\t X \tSYS\t0-55\t0\t\tN/A\nNIC0\tPIX\tSYS\t X \t\t\t\n")  # fmt: skip
    assert found.topology["GPU0"] == {"GPU1": "NV18", "NIC0": "PIX"}
    assert found.affinity == {"GPU0": "0-55", "GPU1": "0-55"}
    assert read("      NPU0  NPU1\nNPU0   X    PXB\nNPU1   PXB  X\n").topology["NPU1"] == {"NPU0": "PXB"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("NPU0 NPU1\nNPU0 X HCCS\nNPU1 HCCS\n", "line 3: 1 relations for 2 devices"),
        ("NPU0 NPU1\nNPU0 X BLAH\n", "line 2: 'BLAH' is no relation"),
        ("NPU0 NPU1\nNPU0 HCCS X\n", "line 2: X stands for the device itself"),
        ("NPU0 NPU1\nNPU0 X HCCS\nNPU0 X HCCS\n", "line 3: NPU0 is there twice"),
    ],
)
def test_a_malformed_topology_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        capture.read(text)


Q = """\
==============NVSMI LOG==============

Driver Version                            : 550.144.03
Attached GPUs                             : 1
GPU 00000000:04:00.0
    Product Name                          : NVIDIA H100
    Product Architecture                  : Hopper
    MIG Mode
        Current                           : Enabled
        Pending                           : Enabled
    MIG Device
        Index                             : 0
        GPU Instance ID                   : 1
        Compute Instance ID               : 0
        FB Memory Usage
            Total                         : 40448 MiB
            Used                          : 37 MiB
    MIG Device
        Index                             : 1
        GPU Instance ID                   : 2
        Compute Instance ID               : 0
        FB Memory Usage
            Total                         : 40448 MiB
            Used                          : 0 MiB
    Serial Number                         : N/A
    GPU UUID                              : GPU-6b1d0869
    Minor Number                          : 3
    FB Memory Usage
        Total                             : 81559 MiB
        Used                              : 74 MiB
    Utilization
        Gpu                               : N/A
    ECC Errors
        Volatile
            DRAM Uncorrectable            : 2
    Temperature
        GPU Current Temp                  : 33 C
    GPU Power Readings
        Power Draw                        : 99.31 W
    Processes
        GPU instance ID                   : 1
            Process ID                    : 812
            Name                          : python3
            Used GPU Memory               : 30 MiB
"""


def test_a_gpu_and_its_mig_devices() -> None:
    whole, first, second = read(Q).accelerators
    assert (whole.product, whole.physical_id, whole.pci, whole.power) == ("NVIDIA H100", 3, "0000:04:00.0", 99.31)
    assert (whole.memory_total, whole.serial, whole.utilisation.core) == (81559 * MIB, None, None)
    assert (whole.health.state, whole.health.reasons) == ("critical", ("2 uncorrectable errors of the memory",))
    assert whole.processes == (Process(812, "python3", 30 * MIB),)
    assert [(one.partition, one.parent, one.memory_total) for one in (first, second)] == [
        ("MIG 0", "GPU-6b1d0869", 40448 * MIB),
        ("MIG 1", "GPU-6b1d0869", 40448 * MIB),
    ]
    assert first.features == ("GI 1", "CI 0")


def test_fewer_gpus_than_are_attached_are_read_and_said_for_so_it_is_with_one_asked_for() -> None:
    said = read(
        Q.replace("Attached GPUs                             : 1", "Attached GPUs                             : 2")
    )
    assert len(said.accelerators) == len(read(Q).accelerators)
    assert said.problems == ("line 4: 2 GPUs are attached, 1 are shown",)


def test_nvidias_csv_with_units_in_the_header_or_in_the_command_line() -> None:
    one = only(
        "index, name, memory.total [MiB], utilization.gpu [%], power.draw [W]\n0, NVIDIA H200, 143771 MiB, 7 %, [N/A]\n"
    )
    assert (one.product, one.memory_total, one.utilisation.core, one.power) == ("NVIDIA H200", 143771 * MIB, 7, None)
    bare = only("$ nvidia-smi --query-gpu=index,memory.used --format=csv,noheader,nounits\n5, 812\n")
    assert (bare.card, bare.memory_used) == (5, 812 * MIB)
    with pytest.raises(InvalidRequest, match="line 2: 1 of 2 values"):
        capture.read("index, name\n0\n")


def test_nvidias_list_and_table() -> None:
    gpu, mig = read("GPU 0: NVIDIA A100 (UUID: GPU-ab)\n  MIG 1g.5gb      Device  0: (UUID: MIG-cd)\n").accelerators
    assert (gpu.unique_id, mig.unique_id, mig.parent, mig.partition) == ("GPU-ab", "MIG-cd", "GPU-ab", "MIG 0")
    table = (
        "+---------------------------------------------------------------------------------------+\n"
        "| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15      CUDA Version: 12.4              |\n"
        "|-----------------------------------------+------------------------+--------------------|\n"
        "|   0  NVIDIA H20                     On  |   00000000:4F:00.0 Off |                  3 |\n"
        "| N/A   29C    P8             23W /  500W |    512MiB /  97871MiB  |      4%      Default|\n"
        "|                                         |                        |             Disabled|\n"
        "+-----------------------------------------+------------------------+--------------------+\n"
        "|    0   N/A  N/A      4711      C   python3                                    500MiB  |\n"
    )
    one = only(table)
    assert (one.product, one.memory_used, one.memory_total, one.power) == ("NVIDIA H20", 512 * MIB, 97871 * MIB, 23)
    assert (one.ecc.double_bit, one.health.state) == (3, "critical"), "as nvidia-smi -q has it"
    assert one.processes == (Process(4711, "python3", 500 * MIB),)
    with pytest.raises(InvalidRequest, match="second row of a GPU"):
        capture.read(table.replace("512MiB /", "512MiB"))


def test_amds_json_of_both_tools() -> None:
    rocm = {
        "card0": {"Card Series": "MI300X", "VRAM Total Memory (B)": "206141652992", "GPU use (%)": "3"},
        "system": {"Driver version": "6.8"},
    }
    one = only(json.dumps(rocm))
    assert (one.vendor, one.product, one.memory_total, one.driver) == ("amd", "MI300X", 206141652992, "6.8")
    smi = [
        {
            "gpu": 1,
            "asic": {"market_name": "MI300X"},
            "bus": {"bdf": "0000:05:00.0"},
            "vram": {"size": {"value": 196592, "unit": "MB"}},
        }
    ]
    two = only(json.dumps(smi))
    assert (two.card, two.pci, two.memory_total) == (1, "0000:05:00.0", 196592 * MIB)
    for text in ('{"a": 1}', "{broken"):
        with pytest.raises(InvalidRequest, match="line 1: "):
            capture.read(text)


def test_a_driver_that_is_not_loaded_is_a_problem_with_its_meaning() -> None:
    found = read("DrvMngGetConsoleLogLevel failed. (ret=4)\ndcmi module initialize failed. ret is -8005\n")
    assert not found.accelerators
    assert any("-8005 (the driver is not loaded" in words for words in found.problems)


def test_a_session_with_prompts_and_other_commands_is_read_through() -> None:
    found = read(
        "[root@node7 ~]# uname -r\n5.10.0-60\n[root@node7 ~]# cat /usr/local/Ascend/driver/version.info\n"
        "Version=25.5.1\npackage_version=25.5.1\n[root@node7 ~]# npu-smi info -m\n"
        "NPU ID  Chip ID  Chip Logic ID  Chip Name\n0 0 0 Ascend 910B4\n[root@node7 ~]# lspci | grep acce\n"
        "3d:00.0 Processing accelerators: Huawei Technologies Co., Ltd. Device d802 (rev 20)\n"
        "root@node7:/# ls /dev/davinci*\n/dev/davinci0  /dev/davinci_manager\n"
        "root@node7:/# npu-smi info -t p2p-enable -i 0\nThis device does not support querying p2p-enable.\n"
    )
    (one,) = found.accelerators
    assert (one.product, one.driver, one.physical_id) == ("Ascend 910B4", "25.5.1", 0)
    assert found.problems == ("This device does not support querying p2p-enable.",)


def test_as_many_files_as_npus_meet_in_their_order_and_nobody_is_counted_twice() -> None:
    """A virtual machine whose NPUs begin at 4 and whose device files begin at 0."""
    table = "NPU ID  Chip ID  Chip Logic ID  Chip Name\n4 0 0 Ascend 910B4\n5 0 1 Ascend 910B4\n"
    port = "\n$ hccn_tool -i 0 -link -g\nlink status: UP\n"
    found = read(f"{table}\ndavinci0\ndavinci1\n{port}")
    assert [(one.card, one.physical_id) for one in found.accelerators] == [(4, 0), (5, 1)]
    assert (found.accelerators[0].port.state, found.problems) == ("up", ())
    assert len(found.notes) == 1
    lone = read(f"{table}\ndavinci0\n{port}")
    assert "NPU physical 0: it is not known which NPU this port (up) belongs to" in lone.problems
    more = read(f"{table}\ndavinci0\ndavinci1\ndavinci2\n")
    assert len(more.accelerators) == 2
    (words,) = more.problems
    assert words.startswith("3 device files are there")
    assert "npu-smi lists 2 NPUs, and nothing tells which is which" in words


def test_one_port_that_is_asked_does_not_hide_the_other_files_npus() -> None:
    table = "NPU ID  Chip ID  Chip Logic ID  Chip Name\n0 0 0 Ascend 910B4\n1 0 1 Ascend 910B4\n"
    found = read(f"{table}\n$ hccn_tool -i 1 -link -g\nlink status: UP\n# ls /dev\ndavinci0\ndavinci1\n")
    assert [(one.card, one.physical_id, one.port.state) for one in found.accelerators] == [(0, 0, None), (1, 1, "up")]
    assert found.problems == ()


def test_underlined_headers_prompts_and_legends_are_no_trouble() -> None:
    found = read(
        "[root@node ~]# nvidia-smi topo -m\n\t\x1b[4mGPU0\tGPU1\tNIC0\tCPU Affinity\x1b[0m\n"
        "GPU0\t X \tNV18\tPIX\t0-55\nGPU1\tNV18\t X \tSYS\t0-55\nNIC0\tPIX\tSYS\t X\n\n"
        "NIC Legend:\n\n  NIC0: mlx5_0\n\n[root@node ~]#\n"
    )
    assert found.topology["GPU1"] == {"GPU0": "NV18", "NIC0": "SYS"}
    assert found.problems == ()


def test_remarks_around_an_output_are_passed_over_and_said_but_half_a_row_is_not() -> None:
    table = "NPU ID  Chip ID  Chip Logic ID  Chip Name\n0 0 0 Ascend 910B4\n"
    found = read(f"This is node seven\n\n{table}\nthat is all\n")
    assert len(found.accelerators) == 1
    assert found.problems == (
        "line 1 is in no output that is known: 'This is node seven'",
        "line 6 is in no output that is known: 'that is all'",
    )
    with pytest.raises(InvalidRequest, match=r"line 5: .*'910B4 \| OK'"):
        capture.read(f"{table}\n\n910B4 | OK\n")


@pytest.mark.parametrize("text", ["", "\n\n", "hello\n", "NPU ID : 0\nhello\n", "#" * 50])
def test_what_nobody_knows_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"line [12]: "):
        capture.read(text)


def test_a_lost_die_is_shown_and_files_of_two_machines_are_not_mixed() -> None:
    table = "NPU ID  Chip ID  Chip Logic ID  Chip Name\n0 0 0 Ascend 910B4\n1 0 1 Ascend 910B4\n"
    *_, lost = read(f"{table}\ndavinci0\ndavinci1\ndavinci2\n").accelerators
    assert (lost.physical_id, lost.health.state, lost.health.fit) == (2, "unknown", False)
    found = read(f"{table}\n$ npu-smi info -m\n{table.replace('910B4', '910B1')}")
    assert len(found.accelerators) == 4
    assert "are they of one machine?" in found.problems[0]

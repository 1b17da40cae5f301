"""nvidia-smi in all its forms say the same of a GPU, XML without entities; and what AMD's tools print as text."""

# ruff: noqa: E501  what tools print is as wide as it is
from __future__ import annotations

import pytest

from daulat.core.accelerator import MIB, Accelerator, Process
from daulat.errors import InvalidRequest
from daulat.fleet.inventory import Inventory, together
from daulat.fleet.outputs import capture

HOT = "clocks_event_reason"
XML = """\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
	<driver_version>590.48.01</driver_version>
	<attached_gpus>1</attached_gpus>
	<gpu id="00000000:83:00.0">
		<product_name>NVIDIA H200</product_name>
		<product_architecture>Hopper</product_architecture>
		<mig_mode>
			<current_mig>Enabled</current_mig>
		</mig_mode>
		<mig_devices>
			<mig_device>
				<index>0</index>
				<gpu_instance_id>2</gpu_instance_id>
				<compute_instance_id>1</compute_instance_id>
				<fb_memory_usage>
					<total>71424 MiB</total>
					<used>22 MiB</used>
				</fb_memory_usage>
			</mig_device>
		</mig_devices>
		<serial>REDACTED</serial>
		<uuid>GPU-7</uuid>
		<minor_number>3</minor_number>
		<fb_memory_usage>
			<total>143771 MiB</total>
			<used>55 MiB</used>
		</fb_memory_usage>
		<utilization>
			<gpu_util>7 %</gpu_util>
			<memory_util>N/A</memory_util>
		</utilization>
		<ecc_errors>
			<volatile>
				<dram_correctable>2</dram_correctable>
				<dram_uncorrectable>0</dram_uncorrectable>
			</volatile>
		</ecc_errors>
		<temperature>
			<gpu_temp>41 C</gpu_temp>
			<memory_temp>44 C</memory_temp>
		</temperature>
		<gpu_power_readings>
			<average_power_draw>78.28 W</average_power_draw>
		</gpu_power_readings>
		<processes>
			<process_info>
				<pid>77</pid>
				<process_name>python3 &amp; more</process_name>
				<used_memory>16925 MiB</used_memory>
			</process_info>
		</processes>
	</gpu>
</nvidia_smi_log>
"""


def read(text: str) -> Inventory:
    return together(capture.read(text))


def test_xml_tells_what_the_text_tells() -> None:
    gpu, part = read(XML).accelerators
    assert (gpu.product, gpu.architecture, gpu.card, gpu.physical_id, gpu.driver) == (
        *("NVIDIA H200", "Hopper", 0, 3),
        "590.48.01",
    )
    assert (gpu.unique_id, gpu.serial, gpu.pci) == ("GPU-7", None, "0000:83:00.0")
    assert (gpu.memory_used, gpu.memory_total, gpu.power) == (55 * MIB, 143771 * MIB, 78.28)
    assert (gpu.temperature, gpu.memory_temperature, gpu.utilisation.core) == (41, 44, 7)
    assert (gpu.utilisation.memory_bandwidth, gpu.ecc.single_bit, gpu.ecc.total_double_bit) == (None, 2, None)
    assert (gpu.health.state, gpu.features) == ("ok", ("mig",))
    assert gpu.processes == (Process(77, "python3 & more", 16925 * MIB),)
    assert (part.partition, part.parent, part.features) == ("MIG 0", "GPU-7", ("GI 2", "CI 1"))
    assert (part.memory_used, part.memory_total) == (22 * MIB, 71424 * MIB)


@pytest.mark.parametrize(
    ("old", "new", "state"),
    [
        ("<serial>", "<gpu_recovery_action>Reset</gpu_recovery_action><serial>", "critical"),
        ("<dram_uncorrectable>0", "<dram_uncorrectable>3", "critical"),
        (
            "<serial>",
            "<remapped_rows><remapped_row_failure>Yes</remapped_row_failure></remapped_rows><serial>",
            "alarm",
        ),
        (
            "<serial>",
            f"<{HOT}s><{HOT}_hw_thermal_slowdown>Active</{HOT}_hw_thermal_slowdown></{HOT}s><serial>",
            "warning",
        ),
    ],
)
def test_what_is_wrong_with_it(old: str, new: str, state: str) -> None:
    assert read(XML.replace(old, new, 1)).accelerators[0].health.state == state


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("<gpu_temp>41 C", "<gpu_temp>4l C", "line 41: '4l' is not a number"),
        ("</utilization>", "</utilisation>", "line 33: this is not XML"),
        (' SYSTEM "nvsmi_device_v12.dtd"', ' [<!ENTITY a "aaaa">]', "line 2: XML with entities"),
        ("nvidia_smi_log>", "other>", "line 3: this XML is not of nvidia-smi"),
        ("<serial>", "<a>" * 20 + "<serial>", "nested too deep"),
        ("<serial>", "\x01<serial>", "line 23: this is not XML"),
    ],
)
def test_xml_that_is_none_or_has_entities_is_refused(old: str, new: str, line: str) -> None:
    with pytest.raises(InvalidRequest, match=line):
        capture.read(XML.replace(old, new))


def test_fewer_gpus_than_are_attached_is_said() -> None:
    assert read(XML.replace("attached_gpus>1", "attached_gpus>8")).problems == (
        "line 5: 8 GPUs are attached, 1 are shown",
    )


TABLE = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 610.62                 KMD Version: 610.62        CUDA UMD Version: 13.3     |
+-----------------------------------------+------------------------+----------------------+
| GPU  Name                  Driver-Model | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|                                         |                        |               MIG M. |
|=========================================+========================+======================|
|   0  NVIDIA GeForce RTX 4090 ...  WDDM  |   00000000:0C:00.0  On |                  N/A |
| 38%   39C    P8             37W /  250W |     797MiB /   8192MiB |      3%      Default |
|                                         |                        |                  N/A |
+-----------------------------------------+------------------------+----------------------+
|   1  NVIDIA GB10                    On  |   0000000F:01:00.0 Off |                  N/A |
| N/A   45C    P0              11W /  N/A | Not Supported          |      0%      Default |
|                                         |                        |                  N/A |
+-----------------------------------------+------------------------+----------------------+
|   2  Orin (nvgpu)                  N/A  | N/A              N/A   |                  N/A |
| N/A   N/A  N/A               N/A /  N/A | Not Supported          |     N/A          N/A |
|                                         |                        |                  N/A |
+-----------------------------------------+------------------------+----------------------+
|   3  NVIDIA H100                    On  |   00000000:83:00.0 Off |                   On |
|ERR!  ERR! ERR!             ERR! / ERR!  |      55MiB /  81559MiB |     N/A      Default |
|                                         |                        |              Enabled |
+-----------------------------------------+------------------------+----------------------+
+-----------------------------------------------------------------------------------------+
| MIG devices:                                                                            |
+------------------+----------------------------------+-----------+-----------------------+
| GPU  GI  CI  MIG |              Shared Memory-Usage |        Vol|        Shared         |
|  3    2   1   0  |              22MiB / 40192MiB    | 16      0 |  3   0    3    0    3 |
|                  |               0MiB / 65535MiB    |           |                       |
+------------------+----------------------------------+-----------+-----------------------+
| Processes:                                                                              |
|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |
|=========================================================================================|
|    0   N/A  N/A            2140    C+G   C:\\Windows\\explorer.exe               N/A      |
|    3   N/A  N/A            4711      C   python3                             500MiB     |
+-----------------------------------------------------------------------------------------+
"""


def test_the_table_of_windows_of_a_gpu_without_memory_of_its_own_of_a_broken_one_and_mig() -> None:
    one, spark, orin, broken, part = read(TABLE).accelerators
    assert (one.product, one.driver, one.memory_used) == ("NVIDIA GeForce RTX 4090", "610.62", 797 * MIB)
    assert one.processes == (Process(2140, "C:\\Windows\\explorer.exe", None),)
    assert (spark.product, spark.memory_total, spark.power, spark.pci) == ("NVIDIA GB10", None, 11, "000f:01:00.0")
    assert (orin.product, orin.pci, orin.temperature) == ("Orin (nvgpu)", None, None)
    assert (broken.health.state, broken.temperature, broken.power) == ("critical", None, None)
    assert broken.processes == (Process(4711, "python3", 500 * MIB),)
    assert (part.card, part.partition, part.memory_total) == (3, "MIG 0", 40192 * MIB)


def test_processes_asked_for_go_to_their_gpus_and_a_list_tells_of_links() -> None:
    found = read(
        "$ nvidia-smi --query-compute-apps=gpu_uuid,pid,process_name,used_gpu_memory --format=csv\n"
        "gpu_uuid, pid, process_name, used_gpu_memory [MiB]\n"
        "GPU-7, 41, /bin/a, 500 MiB\nGPU-7, 42, /bin/b, [N/A]\nGPU-8, 43, /bin/c, 1 MiB\n"
        "$ nvidia-smi nvlink -s\n"
        "GPU 0: NVIDIA H200 (UUID: GPU-7)\n\t Link 0: 26.562 GB/s\n\t Link 1: <inactive>\n"
        "GPU 1: NVIDIA H200 (UUID: GPU-8)\nNvlink queries are not supported for Devices in MIG mode\n"
    )
    first, second = found.accelerators
    assert (first.card, first.product) == (0, "NVIDIA H200")
    assert first.processes == (Process(41, "/bin/a", 500 * MIB), Process(42, "/bin/b", None))
    assert [user.pid for user in second.processes] == [43]
    assert found.problems == ("GPU 0: its NVLink 1 is inactive",)


def test_dmon_tells_what_it_told_last() -> None:
    head = "# gpu    pwr  gtemp  mtemp     sm    mem\n# Idx      W      C      C      %      %\n"
    (one,) = read(
        f"{head}    0     78     28     33      -      -\n{head}    0     99     29     33      7      1\n"
    ).accelerators
    assert (one.power, one.temperature, one.memory_temperature, one.utilisation.core) == (99, 29, 33, 7)
    with pytest.raises(InvalidRequest, match="line 3: 3 of 6 values"):
        capture.read(f"{head}    0     78     28\n")


def test_a_header_may_have_more_names_than_we_know_and_one_asked_for_alone_is_read() -> None:
    (one,) = read("$ nvidia-smi --query-gpu=memory.total --format=csv\nmemory.total [MiB]\n81559 MiB\n").accelerators
    assert one.memory_total == 81559 * MIB
    (two,) = read(
        "$ nvidia-smi --query-gpu=index,fabric.cliqueId --format=csv\nindex, fabric.cliqueId\n1, 7\n"
    ).accelerators
    assert two.card == 1


def test_rocm_smis_table_old_and_new_and_its_lines() -> None:
    new = (
        "Device  Node  IDs              Temp        Power     Partitions          SCLK    MCLK     Fan  Perf  PwrCap  VRAM%  GPU%\n"
        "              (DID,     GUID)  (Junction)  (Socket)  (Mem, Compute, ID)\n"
        "==========================\n"
        "0       2     0x74a1,   28851  38.0\u00b0C      138.0W    NPS1, SPX, 0        134Mhz  900Mhz   0%   auto  750.0W  0%     4%\n"
        "================== End of ROCm SMI Log ===================\n"
    )
    old = "GPU  Temp   AvgPwr  SCLK    MCLK     Fan     Perf  PwrCap  VRAM%  GPU%\n0    36.0c  39.0W   300Mhz  1200Mhz  0%      auto  290.0W    0%   9%\n"
    for text, expected in ((new, (38, 138, 4)), (old, (36, 39, 9))):
        (one,) = read(text).accelerators
        assert (one.temperature, one.power, one.utilisation.core) == expected
    lines = "GPU[0]\t\t: Card Series: \t\tAMD Instinct MI300X\nGPU[0]\t\t: VRAM Total Memory (B): 206141652992\nGPU[1]\t\t: Card Series: x\n"
    first, second = read(lines).accelerators
    assert (first.product, first.memory_total, second.product) == ("AMD Instinct MI300X", 206141652992, "x")


AMD_TABLE = """\
+------------------------------------------------------------------------------+
| AMD-SMI 26.2.2+1d06e2956f    amdgpu version: 6.16.13  ROCm version: 7.2.1    |
| VBIOS version: 00143754                                                      |
| Platform: Linux Baremetal                                                    |
|-------------------------------------+----------------------------------------|
| BDF                        GPU-Name | Mem-Uti   Temp   UEC       Power-Usage |
| GPU  HIP-ID  OAM-ID  Partition-Mode | GFX-Uti    Fan               Mem-Usage |
|=====================================+========================================|
| 0000:05:00.0    AMD Instinct MI300X | 1 %      38 \u00b0C   0           138/750 W |
|   0       0       7        SPX/NPS1 | 4 %        N/A           283/196592 MB |
|-------------------------------------+----------------------------------------|
| 0000:26:00.0    AMD Instinct MI300X | N/A        N/A   2                 N/A |
|   1       1       6        SPX/NPS1 | N/A     20.0 %           283/196592 MB |
+-------------------------------------+----------------------------------------+
+------------------------------------------------------------------------------+
| Processes:                                                                   |
|  GPU        PID  Process Name          GTT_MEM  VRAM_MEM  MEM_USAGE     CU % |
|==============================================================================|
|    0      12345  python3                2.0 MB  170.0 GB   170.1 GB    0.0 % |
+------------------------------------------------------------------------------+
"""


def test_amd_smis_table() -> None:
    one, two = read(AMD_TABLE).accelerators
    assert (one.card, one.product, one.pci, one.driver) == (0, "AMD Instinct MI300X", "0000:05:00.0", "6.16.13")
    assert (one.power, one.temperature, one.utilisation.core, one.utilisation.memory_bandwidth) == (138, 38, 4, 1)
    assert (one.memory_used, one.memory_total, one.health.state) == (283 * MIB, 196592 * MIB, "unknown")
    assert (two.card, two.power, two.temperature, two.utilisation.core) == (1, None, None, None)
    assert (two.ecc.double_bit, two.health.state) == (2, "alarm")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("283/196592 MB", "283196592 MB", "line 10: this is not the second row"),
        ("283/196592 MB", "283/196 MB   ", "line 10: 283 of 196 MB"),
        ("138/750 W", "l38/750 W", "line 9: this is not the first row"),
        ("|   0       0       7        SPX/NPS1 | 4 %        N/A           283/196592 MB |\n", "", "line 10: "),
    ],
)
def test_rows_of_amd_smis_table_that_do_not_fit_are_refused(old: str, new: str, line: str) -> None:
    with pytest.raises(InvalidRequest, match=line):
        capture.read(AMD_TABLE.replace(old, new, 1))


def amd() -> list[Accelerator]:
    static = (
        "GPU: 0\n    ASIC:\n        MARKET_NAME: AMD Instinct MI300X\n    BUS:\n        BDF: 0000:05:00.0\n    LIMIT:\n"
        "        SOCKET_POWER: 550 W\n    VRAM:\n        TYPE: HBM\n        SIZE: 196288 MB\n\nGPU: 1\n    BUS:\n        BDF: 0000:26:00.0\n"
    )
    metric = "GPU: 0\n    USAGE:\n        GFX_ACTIVITY: 12 %\n    POWER:\n        SOCKET_POWER: 141 W\n    TEMPERATURE:\n        HOTSPOT: 39 \u00b0C\n        MEM: N/A\n"
    return list(read(f"$ amd-smi static\n{static}$ amd-smi metric\n{metric}").accelerators)


def test_amd_smis_tree_is_read_by_where_a_name_stands() -> None:
    one, two = amd()
    assert (one.product, one.pci, one.memory_total) == ("AMD Instinct MI300X", "0000:05:00.0", 196288 * MIB)
    assert (one.power, one.temperature, one.memory_temperature, one.utilisation.core) == (141, 39, None, 12)
    assert (two.card, two.pci) == (1, "0000:26:00.0")

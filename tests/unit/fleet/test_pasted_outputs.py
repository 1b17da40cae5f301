"""Outputs as people hand them over: quoted, commented, behind a prompt or a prefix, coloured, masked, in a loop."""

from __future__ import annotations

import pytest

from daulat.core.accelerator import MIB, Process
from daulat.errors import InvalidRequest
from daulat.fleet.inventory import together
from daulat.fleet.outputs import capture

INFO = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 25.2.0                   Version: 25.2.0                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 6     910B4               | OK            | 81.5        36                0    / 0             |
| 0                         | 0000:42:00.0  | 3           0    / 0          2931 / 32768         |
+===========================+===============+====================================================+
"""


def each(text: str) -> str:
    return "".join(f"{text}{line}\n" for line in INFO.splitlines())


AROUND = {
    "quoted": each("> "),
    "quoted twice": each("> > "),
    "indented": each("        "),
    "a comment": each("    # "),
    "a comment in C": each("// "),
    "a container's prefix": each("worker-0  | "),
    "a rank's prefix": each("[1,0]<stdout>:"),
    "carriage returns": INFO.replace("\n", "\r\n"),
    "no-break spaces": INFO.replace("  ", "\xa0 "),
    "a byte order mark": f"\ufeff{INFO}",
    "colours": INFO.replace("OK  ", "\x1b[1;32mOK\x1b[0m  "),
    "a title of the terminal": f"\x1b]0;root@node\x07{INFO}",
    "a prompt": f"[root@node-7 ~]# npu-smi info\n{INFO}[root@node-7 ~]# ",
    "a prompt with an environment": f"(vllm) root@node-7:/home# npu-smi info\n{INFO}(vllm) root@node-7:/home#",
    "within a container": f"$ docker exec -it vllm-ascend npu-smi info\n{INFO}",
    "within a pod": f"$ kubectl exec -n ai pod-0 -- npu-smi info\n{INFO}",
    "watched": f"$ watch -n 1 npu-smi info\nEvery 1.0s: npu-smi info\n\n{INFO}",
    "markdown": f"**Environment**\nOutput of `npu-smi info`:\n```text\n{INFO}```\nIt hangs | always.\n",
}


@pytest.mark.parametrize("how", AROUND)
def test_what_stands_around_a_table_does_not_matter(how: str) -> None:
    found = together(capture.read(AROUND[how]))
    (one,) = found.accelerators
    assert (one.card, one.product, one.health.state, one.power) == (6, "Ascend 910B4", "ok", 81.5)
    assert (one.memory_used, one.memory_total, one.utilisation.core) == (2931 * MIB, 32768 * MIB, 3)
    assert one.pci == "0000:42:00.0"


def test_reports_on_a_whole_machine_are_passed_over_but_for_the_table() -> None:
    report = (
        "PyTorch version: 2.5.1\nOS: Ubuntu 22.04.5 LTS (aarch64)\nModel name: Kunpeng-920\n"
        "NUMA node0 CPU(s): 0-23\n"
        "\tProduct Name: Atlas 800\n\tSerial Number: 21X\n[pip3] numpy==1.26.4\nNPU:\n"
    )
    (one,) = together(capture.read(f"{report}{INFO}CANN:\nversion=8.5.0\n")).accelerators
    assert (one.card, one.serial, one.board) == (6, None, None)


@pytest.mark.parametrize("masked", ["0000:xx:00.0", "****:**:**.*", "XXXX:XX:00.0"])
def test_a_masked_address_is_not_known_and_an_odd_one_is_refused(masked: str) -> None:
    (one,) = together(capture.read(INFO.replace("0000:42:00.0", masked))).accelerators
    assert one.pci is None
    with pytest.raises(InvalidRequest, match=r"line 8: .*not a PCI address"):
        capture.read(INFO.replace("0000:42:00.0", "0000:4g:00.0"))


def test_a_masked_address_of_a_port_is_not_known() -> None:
    (one,) = together(capture.read("$ hccn_tool -i 2 -ip -g\nipaddr:10.xx.xx.10\nnetmask:255.255.255.0\n")).accelerators
    assert (one.port.address, one.port.netmask) == (None, "255.255.255.0")
    with pytest.raises(InvalidRequest, match=r"line 2: .*is not an address"):
        capture.read("$ hccn_tool -i 2 -ip -g\nipaddr:10.300.1.10\n")


def test_a_gateway_may_be_told_with_its_interface_and_tables_of_routes_are_passed_over() -> None:
    said = "$ hccn_tool -i 2 -gateway -g\ndefault gateway:10.1.0.1, Iface:eth2\n"
    routes = "$ hccn_tool -i 2 -route -g\nRouting table:\nDestination     Gateway\ndefault         10.1.0.1\n"
    found = together(capture.read(f"{said}{routes}"))
    assert [(one.physical_id, one.port.gateway) for one in found.accelerators] == [(2, "10.1.0.1")]
    assert found.problems == ()


def test_masked_serial_numbers_and_uuids_make_no_two_gpus_one() -> None:
    row = "GPU-00000000-0000-0000-0000-000000000000, 0000000000000, NVIDIA H200"
    text = f"index, uuid, serial, name\n0, {row}\n1, {row}\n"
    found = together(capture.read(text))
    assert [(one.card, one.unique_id, one.serial) for one in found.accelerators] == [(0, None, None), (1, None, None)]
    assert found.problems == ()


@pytest.mark.parametrize("loop", ["for i in {4..6}", "for i in $(seq 4 6)", "for i in `seq 4 6`", "for i in 4 5 6"])
def test_a_shells_loop_tells_which_port_is_which(loop: str) -> None:
    text = f"# {loop}; do hccn_tool -i $i -link -g; done\nlink status: UP\nlink status: DOWN\nlink status: UP\n"
    found = together(capture.read(text))
    assert {one.physical_id: one.port.state for one in found.accelerators} == {4: "up", 5: "down", 6: "up"}
    assert found.problems == ("NPU physical 5: its link is down",)


def test_ports_of_devices_that_nobody_names_are_several_and_no_one_says_two_things() -> None:
    found = together(capture.read("link status: UP\nlink status: DOWN\nlink status: UP\n"))
    assert [one.port.state for one in found.accelerators] == ["up", "down", "up"]
    assert {one.physical_id for one in found.accelerators} == {None}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("npu-smi info -h", "Usage: npu-smi info <watch|-t type>\n\nOptions:\n       -i %d          NPU ID\n"),
        ("npu-smi set -t reset -i 0 -m 1", "Are you sure you want to continue?(Y/N)\ny\n\tStatus : OK\n"),
        ("npu-smi -v", "npu-smi version: 25.7.rc1\n"),
        ("hccn_tool -i 0 -tls -g", "dev_id:0, tls switch[0](0:disable, 1:enable)\n\t subject[/C=CN/CN=x]\n"),
        ("hccn_tool -g -fec -i 0 -u 0 -p 4", "+-----+------+\n| NPU | UDie |\n+-----+------+\n| 0   | 0    |\n"),
        ("nvidia-smi --version", "NVIDIA-SMI version  : 590.48.01\n"),
        ("nvidia-smi pmon -c 1", "# gpu         pid   type\n# Idx           #    C/G\n    0          -     -\n"),
    ],
)
def test_a_command_of_ours_that_tells_nothing_of_devices_is_no_error(command: str, said: str) -> None:
    found = together(capture.read(f"$ {command}\n{said}$ npu-smi info\n{INFO}"))
    assert [one.card for one in found.accelerators] == [6]
    assert found.problems == ()
    assert together(capture.read(f"$ {command}\n{said}")).accelerators == ()


def test_half_a_row_is_refused_wherever_it_stands() -> None:
    for row in ("910B4 | OK", "6 910B4 | Critical | 81.5", "2931 / 32768 | 0000:42:00.0"):
        with pytest.raises(InvalidRequest, match="line 10: this is in no output"):
            capture.read(f"{INFO}{row}\n")


def test_no_process_in_a_device_is_said_in_words() -> None:
    said = "$ npu-smi info -t proc-mem -i 3\n\tNPU ID                         : 3\n\tNo process in device.\n"
    assert together(capture.read(said)).accelerators == ()
    used = said.replace(
        "No process in device.", "Process id:77      Process name:python3           Process memory(MB):512"
    )
    (one,) = together(capture.read(used)).accelerators
    assert one.processes == (Process(77, "python3", 512 * MIB),)


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("dcmi module initialize failed. ret is -8005", "the driver is not loaded"),
        ("dcmi model initialized failed, because the device is used. ret is -8020", "another container"),
        ("dcmi module initialize failed. ret is -8002", "this user may not"),
        ("Unable to determine the device handle for GPU 0000:83:00.0: GPU is lost.", "restart the machine"),
        ("Failed to initialize NVML: Driver/library version mismatch", "restart after the upgrade"),
    ],
)
def test_what_a_tool_says_instead_of_an_answer_is_explained(said: str, meaning: str) -> None:
    found = together(capture.read(f"{said}\n"))
    assert found.accelerators == ()
    (words,) = found.problems
    assert words.startswith(said)
    assert meaning in words

"""A support file may hold any outputs in any order, glued or apart: each is read as if alone, the last one holds."""

from __future__ import annotations

import itertools
import os
from functools import cache
from pathlib import Path

import pytest
from tests.fakes import ascend_tools, machine, nvidia_tool
from tests.fuzz.test_accelerator_outputs import GOOD
from tests.unit.fleet.test_npu_smi import A2, A3_WIDE, A310P
from tests.unit.fleet.test_npu_smi import LAST_ROW as _ROW

from daulat.core.accelerator import MIB, Accelerator
from daulat.errors import InvalidRequest
from daulat.fleet.inventory import Inventory, together
from daulat.fleet.outputs import capture
from daulat.fleet.outputs.lines import Edge

NODE = machine.describe("a2")
NODE["devices"] = NODE["devices"][:2]
H200 = machine.describe("8xh200")
H200["devices"] = H200["devices"][:1]
KINDS = {
    "npu-smi info": A2,
    "npu-smi info -m": ascend_tools.mapping(NODE),
    "npu-smi info -t topo": ascend_tools.topo(NODE),
    "npu-smi info -l": ascend_tools.listing(NODE),
    **{
        f"npu-smi info -t {what} -i 1": ascend_tools.npu_smi(NODE, f"info -t {what} -i 1".split())[0]
        for what in ("board", "usages", "ecc", "common", "temp")
    },
    "npu-smi info -t health -i 1 -c 0": "\tHealth Status : Alarm\n\tError Code : NA\n\tError Information : NA\n",
    "npu-smi info watch": GOOD["watch"],
    "ls /dev/davinci*": "/dev/davinci0\n/dev/davinci1\n/dev/davinci_manager\n",
    "hccn_tool -i 1 -link -g": "link status: UP\n",
    "hccn_tool -i 1 -optical -g": GOOD["-optical"],
    "cat /etc/hccn.conf": "address_1=10.0.0.1\nnetmask_1=255.255.0.0\n",
    "nvidia-smi": GOOD["table"],
    "nvidia-smi -q": nvidia_tool.nvidia_smi(H200, ["-q"])[0],
    "nvidia-smi -q -x": GOOD["xml"],
    "nvidia-smi -L": "GPU 0: NVIDIA A100 (UUID: GPU-ab)\n",
    "nvidia-smi topo -m": GOOD["topo -m"],
    "nvidia-smi dmon": GOOD["dmon"],
    "nvidia-smi --query-gpu=index,name,memory.total --format=csv": GOOD["csv"],
    "amd-smi": GOOD["amd table"],
    "rocm-smi --json": GOOD["json"] + "\n",
    "rocm-smi -a": GOOD["rocm lines"],
    "amd-smi metric": "GPU: 0\n    USAGE:\n        GFX_ACTIVITY: 12 %\n",
    "npu-smi info # without a driver": "dcmi module initialize failed. ret is -8005\n",
}
read = cache(capture.read)  # what stands alone is read once
Facts = tuple[list[Accelerator], list[Edge]]


def facts(*texts: str) -> Facts:
    readings = [reading for text in texts for reading in read(text)]
    return [one for each in readings for one in each.accelerators], [edge for each in readings for edge in each.edges]


def together_of(*texts: str) -> Inventory:
    return together(reading for text in texts for reading in read(text))


@pytest.mark.parametrize("first", KINDS)
def test_any_output_may_follow_any_other_directly_or_after_an_empty_line(first: str) -> None:
    for second, between in itertools.product(KINDS, ("", "\n")):
        ports = first.startswith("hccn_tool") and second.startswith("hccn_tool")  # without numbers they are one port's
        if second == first or ports:
            continue
        found = together(capture.read(KINDS[first] + between + KINDS[second]))
        alone = together_of(KINDS[first], KINDS[second])
        assert found.accelerators == alone.accelerators, (first, second, between)
        assert found.topology == alone.topology, (first, second, between)
        assert set(alone.problems) <= set(found.problems) or any("line " in words for words in alone.problems)


@pytest.mark.parametrize("prompt", ["[root@node-7 ~]# ", "+ "])
def test_command_lines_stand_between_any_two(prompt: str) -> None:
    for first, second in itertools.permutations(KINDS, 2):
        one, two = (f"{prompt}{name}\n{KINDS[name]}" for name in (first, second))
        assert facts(one + two) == facts(one, two), (first, second)


@pytest.mark.parametrize("line", ["[root@node-7 ~]# \n", "root@node-7:/home$ ./collect.sh --all\n"])
def test_a_prompt_or_a_command_that_is_not_known_ends_what_is_above(line: str) -> None:
    for first, second in itertools.permutations(KINDS, 2):
        found = together(capture.read(KINDS[first] + line + KINDS[second]))
        assert found.accelerators == together_of(KINDS[first], KINDS[second]).accelerators, (first, second)


AGAIN = A2.replace("22283/ 65536", "9999 / 65536").replace("| Critical ", "| OK       ")


@pytest.mark.parametrize("between", ["", "\n", "$ npu-smi info\n", "[root@n ~]# date\nSat\n[root@n ~]# npu-smi info\n"])
def test_of_the_same_table_twice_the_last_one_holds_and_that_is_said(between: str) -> None:
    found = together(capture.read(A2 + between + AGAIN))
    first, second = found.accelerators
    assert (first.memory_used, second.health.state) == (9999 * MIB, "ok")
    assert any("npu-smi info is here 2 times: what the last one says holds" in words for words in found.problems)


def test_an_npu_that_is_in_the_first_table_only_has_been_lost() -> None:
    rows = A2.splitlines(keepends=True)
    after = "".join([*rows[:9], *rows[12:]])
    _, lost = sorted(together(capture.read(A2 + after)).accelerators, key=lambda one: one.card or 0)
    assert (lost.card, lost.health.state) == (5, "unknown")
    assert "no more in that of line" in lost.health.reasons[0]


def test_tables_of_two_machines_contradict_each_other_and_that_is_said() -> None:
    found = together(capture.read(A2 + A310P.replace("| 32768   310P3 ", "| 4       310P3 ")))
    assert any("are they of one machine?" in words for words in found.problems)


def test_what_is_asked_of_one_device_again_and_again_is_told_by_the_last_answer() -> None:
    text = "".join(
        f"$ npu-smi info -t health -i 3 -c 0\n\tHealth Status : {state}\n\tError Code : NA\n"
        for state in ("Alarm", "OK")
    )
    (one,) = together(capture.read(text)).accelerators
    assert one.health.state == "ok"


def test_a_health_without_its_command_is_not_the_npus_above_it() -> None:
    found = together(capture.read(KINDS["npu-smi info -t usages -i 1"] + KINDS["npu-smi info -t health -i 1 -c 0"]))
    known = [one for one in found.accelerators if one.card == 1]
    assert {one.health.state for one in known} == {"unknown"}
    assert any("keep the command line above it" in words for words in found.problems)


# Wrong numbers.


def test_power_and_temperature_are_known_by_their_headers() -> None:
    (one, _) = together(capture.read(A2.replace("Power(W)    Temp(C) ", "Temp(C)     Power(W)"))).accelerators
    assert (one.temperature, one.power) == (102.8, 45)
    swapped = A2.replace("AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)", "HBM-Usage(MB)   Memory-Usage(MB)  AICore(%)")
    swapped = swapped.replace(
        "| 12          0    / 0          22283/ 65536 ", "| 22283/ 65536  0    / 0          12           "
    )
    swapped = swapped.replace(
        _ROW.strip(), _ROW.strip().replace("0           0    / 0          3445 / 65536", "3445/65536 0/0 0")
    )
    (one, _) = together(capture.read(swapped)).accelerators
    assert (one.memory_used, one.utilisation.core) == (22283 * MIB, 12)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (
            "nvidia-smi -q",
            "Used                              : 4 MiB",
            "Used                              : 999999 MiB",
        ),
        ("nvidia-smi -q -x", "<used>1 MiB", "<used>9 MiB"),
        ("nvidia-smi", "22MiB / 714MiB", "999MiB / 714MiB"),
        ("nvidia-smi", "55MiB /", "999999MiB /"),
        ("rocm-smi --json", '"206141652992"}', '"2000", "VRAM Total Used Memory (B)": "3000"}'),
        ("amd-smi", "283/196592", "983283/196592"),
    ],
)
def test_more_memory_used_than_there_is_is_refused_by_every_reader(name: str, old: str, new: str) -> None:
    assert old in KINDS[name]
    with pytest.raises(InvalidRequest, match=r"line \d+: \d+ of \d+ MB are used"):
        capture.read(KINDS[name].replace(old, new, 1))
    with pytest.raises(InvalidRequest, match="9 of 5 MB are used"):
        capture.read("index, name, memory.total [MiB], memory.used [MiB]\n0, NVIDIA H200, 5 MiB, 9 MiB\n")


MAP = ascend_tools.mapping(NODE).replace("Mcu", "Mcu                          ")


@pytest.mark.parametrize("cut", range(1, len("Ascend 910B3")))
def test_a_map_that_is_cut_off_in_a_name_is_refused_with_its_line(cut: int) -> None:
    whole = MAP[: MAP.rindex("Ascend 910B3")]
    with pytest.raises(InvalidRequest, match=r"line 4: (?:this row (?:may be|is) cut off|\d of 4 values)"):
        capture.read(whole + "Ascend 910B3"[:cut])
    assert capture.read(whole + "Ascend 910B3"), "without a newline, but whole"


@pytest.mark.parametrize(
    "text",
    [
        "NPU0  NPU1\nNPU0 X HCCS_SW 0-23\nNPU1 HCCS_SW X 0-2",
        "/dev/davinci10\n/dev/davinci11\n/dev/davinci1",
        "index, name, memory.total [MiB]\n0, NVIDIA H200, 143771 MiB\n1, NVIDIA H200, 14",
    ],
)
def test_a_last_row_that_may_be_cut_off_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="this row may be cut off"):
        capture.read(text)
    assert capture.read(text + "\n")


USAGES = KINDS["npu-smi info -t usages -i 1"].rstrip()


def test_fields_that_are_cut_off_within_a_chip_are_refused_and_whole_ones_need_no_newline() -> None:
    with pytest.raises(InvalidRequest, match=r"line 6: this output is cut off.*: 'HBM Capacity\(MB\) +: 655'"):
        capture.read(USAGES[: USAGES.index("65536") + 3])
    (one,) = together(capture.read(USAGES)).accelerators
    assert one.memory_total == 65536 * MIB
    with pytest.raises(InvalidRequest, match="this speed has no unit"):
        capture.read("Speed: 20000")


def test_a_wide_table_may_follow_a_narrow_one() -> None:
    found = together(capture.read(A2 + A3_WIDE.replace("| 7     ", "| 9     ").replace("| 7       ", "| 9       ")))
    assert {one.card for one in found.accelerators} == {4, 5, 9}


FACTS = Path(os.environ.get("DAULAT_FACTS") or Path(__file__).parents[4] / "shared/facts") / "npu-smi"
REAL = (
    *("910B3_info_validated_two_cards", "910B3_map_m", "910B3_topo_with_affinity", "910B3_telegraf_usages"),
    *(
        "910B3_telegraf_board",
        "910B3_telegraf_temp",
        "310P3_duo_dual_chip_info",
        "910C_A3_info_dual_die_functionsystem",
    ),
    *("hccn_tool_A2_ok", "hccn_conf_16npu", "ls_dev_davinci", "nvidia_smi_q_rtx3090", "error_driver_not_loaded"),
)


@pytest.mark.skipif(not FACTS.is_dir(), reason="real captures are not at hand (DAULAT_FACTS)")
@pytest.mark.parametrize("between", ["", "\n", "[root@node-7 ~]# \n"])
def test_real_captures_may_follow_each_other(between: str) -> None:
    texts = {name: f"{(FACTS / f'{name}.txt').read_text().rstrip()}\n" for name in REAL}
    for first, second in itertools.permutations(REAL, 2):
        if "info" in first and "info" in second:  # of two machines
            continue
        assert facts(texts[first] + between + texts[second]) == facts(texts[first], texts[second]), (first, second)

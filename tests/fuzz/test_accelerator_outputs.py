"""No output of a tool, however mangled, gets more out of the readers than their own error, and none takes long."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes import ascend_tools, machine, nvidia_tool

from daulat.errors import DaulatError
from daulat.fleet.inventory import together
from daulat.fleet.outputs import capture

A3 = machine.describe("a3", ("ecc:3", "process-stuck:0"))
WHOLE = ("info", "info -m", "info -l", "info -t topo", "info -t board -i 1", "info -t usages -i 1")
ASKED = (*WHOLE, "info -t health -i 1 -c 1", "info -t ecc -i 1 -c 1")
PORTS = ("-link", "-ip", "-net_health", "-speed", "-link_stat", "-stat", "-optical")
LINE = "+-----------------------------------------------+\n"
GOOD = {
    **{words: ascend_tools.npu_smi(A3, words.split())[0] for words in ASKED},
    **{words: ascend_tools.hccn_tool(A3, ["-i", "3", words, "-g"])[0] for words in PORTS},
    "-q": nvidia_tool.nvidia_smi(machine.describe("8xh200"), ["-q"])[0],
    "topo -m": nvidia_tool.nvidia_smi(machine.describe("8xh200"), ["topo", "-m"])[0],
    "csv": "index, name, memory.total [MiB]\n0, NVIDIA H200, 143771 MiB\n",
    "-L": "GPU 0: NVIDIA A100 (UUID: GPU-ab)\n  MIG 1g.5gb      Device  0: (UUID: MIG-cd)\n",
    "950": f"{LINE}| npu-smi 25.7 Version: 25.7 |\n{LINE}| NPU ID | Name | Health | Power(W) Temp(C) |\n"
    f"| | | Bus-Id | NPU Util(%) HBM-Usage(MB) |\n{LINE}| 0 | Ascend950PR | OK | 1.0 2 |\n| | | NA | 0 1/ 2 |\n",
    "watch": "NpuID(Idx)  ChipId(Idx) Pwr(W)      Temp(C)\n0           0           160.5       43\n",
    "events": "$ npu-smi info -t current-fault-event -i 5\nFault Event Information : event id=0x81AF8000, severity=1\n",
    "loop": "for i in {0..2}; do hccn_tool -i $i -link -g; done\nlink status: UP\nlink status: DOWN\nlink status: UP\n",
    "xml": '<?xml version="1.0"?>\n<nvidia_smi_log>\n<driver_version>5</driver_version>\n<gpu id="00000000:83:00.0">\n'
    "<fb_memory_usage>\n<total>2 MiB</total>\n<used>1 MiB</used>\n</fb_memory_usage>\n</gpu>\n</nvidia_smi_log>\n",
    "table": "| NVIDIA-SMI 590.48 Driver Version: 590.48 |\n| 0 NVIDIA H200 On | 00000000:83:00.0 Off | 0 |\n"
    "| N/A 28C P0 78W / 700W | 55MiB / 143771MiB | 7% Default |\n| MIG devices: |\n| 0 2 0 0 | 22MiB / 714MiB | 1 |\n",
    "dmon": "# gpu    pwr  gtemp\n# Idx      W      C\n    0     78     28\n",
    "apps": "gpu_uuid, pid, used_gpu_memory [MiB]\nGPU-7, 41, 500 MiB\n",
    "nvlink": "GPU 0: NVIDIA H200 (UUID: GPU-7)\n\t Link 0: 26.562 GB/s\n\t Link 1: <inactive>\n",
    "rocm": "GPU  Temp   AvgPwr  VRAM%  GPU%\n0    36.0c  39.0W   0%   0%\n",
    "amd table": "| AMD-SMI 26.2 amdgpu version: 6.1 |\n| 0000:05:00.0 MI300X | 1 % 38 \u00b0C 0 1/7 W |\n"
    "| 0 0 7 SPX/NPS1 | 4 % N/A 283/196592 MB |\n",
    "rocm lines": "GPU[0]\t\t: Card Series: \t\tMI300X\nGPU[0]\t\t: VRAM Total Memory (B): 2061416\n",
    "amd tree": "$ amd-smi metric\nGPU: 0\n    USAGE:\n        GFX_ACTIVITY: 12 %\n",
    "quoted": "> | NVIDIA-SMI 590 Driver Version: 590 |\n> | 0 A | 00000000:83:00.0 Off | 0 |\n"
    "> | 0% 2C P0 7W / 7W | 1MiB / 2MiB | 7% D |\n",
    "json": '{"card0": {"Card Series": "MI300X", "VRAM Total Memory (B)": "206141652992"}}',
    "session": "$ npu-smi info -m\nNPU ID  Chip ID  Chip Logic ID  Chip Name\n0 0 0 Ascend 910B4\n# ls\ndavinci0\n",
}  # fmt: skip
# fmt: off
PIECES = ["", "\n", " ", "\0", "|", "+--", ":", "/", "-1", "9" * 30, "NA", "٣", "\t", "é", "\ud800", "{", "[", "%",
          "0x", "MiB", "npu-smi info\n", "Phy-ID3 ", "\r\n", "X", "Process id:1 Process name:x Process memory(MB):y",
          "address_1=", "<", "</gpu>", "&a;", "> ", "# ", "[4m", "\x1b[1m", "for i in {0..9}; do npu-smi ",
          "NPU ID", "\xa0"]
# fmt: on
SECONDS = 15.0  # of the processor; what grows faster than the text takes minutes


def refused_or_read(text: str) -> None:
    words, code = "", "malformed_output"
    try:
        together(capture.read(text))
    except DaulatError as error:
        words, code = error.message, error.code
    assert code == "malformed_output"
    assert len(words) < 2000, "an error is a line, not what it was given"


@pytest.mark.parametrize("name", GOOD)
def test_what_is_good_is_read(name: str) -> None:
    assert capture.read(GOOD[name])


@given(text=st.text(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_text(text: str) -> None:
    refused_or_read(text)


@pytest.mark.parametrize("name", GOOD)
def test_good_outputs_cut_spliced_and_doubled(name: str) -> None:
    draw = random.Random(name)  # noqa: S311  a fuzz that can be repeated
    good = GOOD[name]
    for _ in range(40):
        text = good
        for _ in range(draw.choice([1, 1, 2, 4])):
            start = draw.randrange(len(text) + 1)
            end = min(len(text), start + draw.choice([0, 0, 1, 2, 10, 500]))
            piece = draw.choice([*PIECES, text[start : start + 40], draw.choice(list(GOOD.values()))[:200]])
            text = text[:start] + piece + text[end:]
        refused_or_read(text)


def test_no_row_of_a_table_that_lost_characters_is_read_as_another_number() -> None:
    """Cut anywhere in a chip's numbers, the row is refused, or says less, or is a shorter number in the same place."""
    lines = GOOD["info"].splitlines()
    at = next(number for number, line in enumerate(lines) if "65536" in line)
    for cut in range(1, len(lines[at])):
        mangled = [*lines[:at], lines[at][:cut], *lines[at + 1 :]]
        with pytest.raises(DaulatError, match=f"line {at + 1}|line {at}"):
            capture.read("\n".join(mangled))


HUGE = [
    *("|" * 10**6, "| a " * 250_000, "NPU ID : 0\n" * 90_000, "[" * 10**6, '{"a":' * 200_000, "9" * 10**6, " " * 10**6),
    *("NPU0 " * 200_000, "(cut" * 250_000, "\n".join(["|" + " " * 4000 + "|"] * 250), "link status: UP\n" * 60_000),
    *("hello\n" * 90_000, "davinci1\n\n" * 45_000, "".join(f"roce_a{n}:1\n" for n in range(9_000)), "a | b\n" * 9),
    *("$ npu-smi info\n" * 60_000, "davinci1\n" * 90_000, "".join(f"address_{n}=10.0.0.1\n" for n in range(50_000))),
    *("for i in " * 110_000, "> " * 500_000, "\x1b[" * 500_000, "[4m" * 330_000, ("NVIDIA-SMI a " * 20 + "\n") * 3_800),
    *("\n".join(["(a) b c d e f g h i j k l m n o p q r s t " * 9] * 2_700), "<a>" * 330_000, "<?xml?>\n" * 100_000),
    *("\n".join(["watch -n 1 " * 36] * 2_500), "\n".join(["sudo time docker exec a b " * 15] * 2_600), "\xa0" * 10**6),
    *("GPU[0]: a: 1\n" * 75_000, "GPU: 0\n  A: 1\n" * 60_000, "NpuID(Idx) a\n" * 75_000, "# gpu pwr\n0 1\n" * 49_000),
    "+----------" * 90_000,
    "x+----------\n" * 75_000,
]


@pytest.mark.parametrize("text", HUGE, ids=range(len(HUGE)))
def test_a_megabyte_of_anything_takes_no_time(text: str) -> None:
    began = time.process_time()
    refused_or_read(text)
    assert time.process_time() - began < SECONDS


FACTS = Path(os.environ.get("DAULAT_FACTS") or Path(__file__).parents[3] / "shared/facts")


@pytest.mark.skipif(not FACTS.is_dir(), reason="real captures are not at hand (DAULAT_FACTS)")
def test_real_captures_are_read() -> None:
    names = sorted(FACTS.glob("npu-smi/*.txt"))
    assert names
    for path in names:
        if path.name.startswith("malformed"):
            with pytest.raises(DaulatError, match=r"line \d+: "):
                capture.read(path.read_text())
        else:
            assert capture.read(path.read_text()), path.name

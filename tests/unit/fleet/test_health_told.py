"""Health is what the memory's errors and the error codes say, whatever the vendor's one word for it; else unknown."""

from __future__ import annotations

import pytest
from tests.fakes import ascend_tools, machine, nvidia_tool
from tests.unit.fleet.test_npu_smi import A2

from daulat.core.accelerator import Accelerator
from daulat.fleet.inventory import Inventory, together
from daulat.fleet.outputs import capture


def read(text: str) -> Inventory:
    return together(capture.read(text))


def a2(*faults: str, asked: tuple[str, ...]) -> Accelerator:
    """NPU 3 of an A2 node: what its table says, and what it says to each question of `npu-smi info`."""
    described = machine.describe("a2", faults)
    texts = ["$ npu-smi info", ascend_tools.info(described)]
    for words in asked:
        texts += [f"$ npu-smi info {words}", ascend_tools.npu_smi(described, ["info", *words.split()])[0]]
    return next(one for one in read("\n".join(texts)).accelerators if one.card == 3)


@pytest.mark.parametrize("words", ["-t ecc -i 3 -c 0", "-t ecc -i 3"])
def test_double_bit_errors_are_an_alarm_while_the_table_says_ok(words: str) -> None:
    one = a2("ecc-quiet:3", asked=(words,))
    assert (one.health.state, one.health.fit) == ("alarm", False)
    assert "3 double bit errors of the memory" in one.health.reasons
    assert a2(asked=(words,)).health.state == "ok"


def test_the_code_of_a_multi_bit_error_is_an_alarm_while_the_health_says_ok() -> None:
    one = a2("ecc-code:3", asked=("-t health -i 3 -c 0",))
    assert (one.health.state, one.health.codes) == ("alarm", ("80E01801",))
    assert "error code 80E01801: a multi bit error of the memory" in one.health.reasons


@pytest.mark.parametrize(
    ("code", "words", "state"),
    [
        ("80E18402", "NA", "alarm"),
        ("0x80E18402", "NA", "alarm"),
        ("NA", "node type=HBM, event state=Multi Bit Ecc Error", "alarm"),
        ("80E18401", "a notice of isolated pages", "ok"),
    ],
)
def test_codes_for_which_the_vendor_takes_an_npu_out_are_an_alarm_and_notices_are_not(
    code: str, words: str, state: str
) -> None:
    health = f"$ npu-smi info -t health -i 4 -c 0\n\tHealth Status : OK\n\tError Code : {code}\n"
    one = next(
        one
        for one in read(f"{health}\tError Information : {words}\n$ npu-smi info\n{A2}").accelerators
        if one.card == 4
    )
    assert one.health.state == state


def test_isolated_pages_alone_are_a_reason_and_stop_nobody() -> None:
    one = a2("pages:3", asked=("-t ecc -i 3",))
    assert (one.health.state, one.health.fit) == ("ok", True)
    assert one.health.reasons == ("2 pages of the memory are isolated for double bit errors",)


def test_errors_of_the_ddr_count_beside_those_of_the_hbm() -> None:
    (one,) = read("NPU ID : 0\nDDR Double Bit Error Count : 7\nHBM Double Bit Error Count : 0\n").accelerators
    assert (one.health.state, one.ecc.double_bit) == ("alarm", 0)
    assert one.health.reasons == ("7 double bit errors of the DDR",)


Q = nvidia_tool.nvidia_smi(machine.describe("8xh200"), ["-q"])[0]


def test_uncorrectable_errors_of_a_gpus_sram_are_critical() -> None:
    first, second, *_ = read(
        nvidia_tool.nvidia_smi(machine.describe("8xh200", ("ecc-code:1",)), ["-q"])[0]
    ).accelerators
    assert (second.health.state, second.ecc.sram_double_bit) == ("critical", 12)
    assert second.health.reasons == ("12 uncorrectable errors of the SRAM",)
    assert (first.health.state, first.ecc.sram_double_bit) == ("ok", 0)


def test_newer_drivers_count_the_srams_errors_by_kind() -> None:
    said = Q.replace(
        "            SRAM Uncorrectable            : 0\n",
        "            SRAM Uncorrectable Parity     : 2\n            SRAM Uncorrectable SEC-DED    : 3\n",
        1,
    )
    assert read(said).accelerators[0].ecc.sram_double_bit == 5


def test_a_gpu_that_is_hot_and_has_errors_is_critical() -> None:
    said = nvidia_tool.nvidia_smi(machine.describe("8xh200", ("ecc:1", "hot:1")), ["-q"])[0]
    assert read(said.replace("Drain and Reset  ", "None")).accelerators[1].health.state == "critical"


@pytest.mark.parametrize("until", ["FB Memory Usage", "ECC Errors", "Aggregate", "Remapping Failure"])
def test_an_output_that_is_cut_off_before_it_tells_the_health_leaves_it_unknown(until: str) -> None:
    one = Q[: Q.index("\nGPU 0000", Q.index("GPU 0000"))] + "\n"
    found = read(one[: one.index(until) + 20])
    assert found.accelerators[0].health.state == "unknown"
    assert any("GPU 0: its health is not known" in words for words in found.problems)


def test_a_query_with_errors_is_critical_in_every_form() -> None:
    (one,) = read("index, name, ecc.errors.uncorrected.volatile.sram\n0, NVIDIA H200, 2\n").accelerators
    assert one.health.state == "critical"

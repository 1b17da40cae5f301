"""Accelerators by name: which are taken, and what an engine is shown of them."""

from __future__ import annotations

import pytest

from daulat.core.accelerator import Accelerator, Health
from daulat.errors import InvalidRequest
from daulat.placement import devices

GIB = 2**30


def npu(number: int, state: str = "ok", gib: int = 64) -> Accelerator:
    return Accelerator("ascend", physical_id=number, memory_total=gib * GIB, health=Health(state))  # type: ignore[arg-type]


EIGHT = devices.named([npu(number) for number in reversed(range(8))])


def test_devices_are_named_by_their_files_number_and_sick_ones_are_left_out() -> None:
    found = devices.named([npu(10), npu(2), npu(3, "critical"), npu(4, "warning"), Accelerator("cpu", physical_id=0)])
    assert list(found) == ["npu:2", "npu:4", "npu:10"]


def test_what_is_not_there_is_refused_with_what_is() -> None:
    devices.checked(["npu:1"], EIGHT)
    with pytest.raises(InvalidRequest, match=r"npu:9 is not here.*; this machine's accelerators are: npu:0"):
        devices.checked(["npu:1", "npu:9"], EIGHT)
    with pytest.raises(InvalidRequest, match="none but its CPU"):
        devices.checked(["gpu:0"], ())
    with pytest.raises(InvalidRequest, match="of one kind"):
        devices.checked(["gpu:0", "npu:1"], EIGHT)


def test_a_refusal_says_what_is_wrong_with_the_device_and_with_the_machine() -> None:
    sick = Accelerator("ascend", physical_id=3, health=Health("alarm", ("7 double bit errors of the memory",)))
    with pytest.raises(
        InvalidRequest, match=r"device npu:3 .* is alarm: 7 double bit errors of the memory; npu:3 is not"
    ):
        devices.checked(["npu:3"], devices.named([sick]), [sick])
    with pytest.raises(InvalidRequest, match="none but its CPU; nothing tells which is which"):
        devices.checked(["npu:4"], (), (), ["nothing tells which is which"])


@pytest.mark.parametrize(
    ("gib", "replicas", "taken", "expected"),
    [
        (40, 1, (), ["npu:0"]),
        (60, 1, (), ["npu:0", "npu:1"]),
        (60, 2, ("npu:1",), ["npu:0", "npu:2", "npu:3", "npu:4"]),
        (200, 1, ("npu:0",), ["npu:1", "npu:2", "npu:3", "npu:4"]),
        (200, 2, ("npu:0",), []),
        (1000, 1, (), []),
        (1, 0, (), []),
    ],
)
def test_each_replica_gets_the_fewest_free_devices_that_hold_the_model(
    gib: int, replicas: int, taken: tuple[str, ...], expected: list[str]
) -> None:
    assert list(devices.choose(EIGHT, taken, gib * GIB, replicas)) == expected


def test_a_device_whose_memory_is_unknown_is_not_guessed_at() -> None:
    assert devices.choose(devices.named([Accelerator("ascend", physical_id=0, health=Health("ok"))]), (), 1, 1) == ()


def test_the_engine_goes_by_format_and_device() -> None:
    assert devices.engine_for("gguf", ()) == "llama.cpp"
    assert devices.engine_for("safetensors", ()) == "vllm"
    assert devices.engine_for("safetensors", ("gpu:0",)) == "vllm"
    assert devices.engine_for("safetensors", ("npu:0",)) == "vllm-ascend"


def test_the_sandbox_shows_these_device_files_and_no_others() -> None:
    said = {"python": "/opt/vllm/bin/python", "environment": {"HCCL_OP_EXPANSION_MODE": "AIV"}}
    found = devices.options(("npu:8", "npu:9"), said)
    assert found == {
        "python": "/opt/vllm/bin/python",
        "devices": ["/dev/davinci8", "/dev/davinci9", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"],
        "environment": {"ASCEND_RT_VISIBLE_DEVICES": "8,9", "HCCL_OP_EXPANSION_MODE": "AIV"},
    }
    assert devices.options(("gpu:0",), {})["devices"] == ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"]
    assert devices.options((), said) == said


USED = ("npu:2", "npu:3")


def test_a_chip_that_says_it_is_broken_is_unfit_at_once_and_fit_when_it_says_so() -> None:
    broken = Accelerator(
        "ascend", card=1, die=1, physical_id=3, health=Health("critical", ("npu-smi says Critical",), ("80E01801",))
    )
    found = devices.Fitness().after(USED, [npu(2, "warning"), broken])
    assert found.unfit == {
        "npu:3": "device npu:3 (NPU 1 die 1) is critical: npu-smi says Critical; error code 80E01801"
    }
    assert found.after(USED, [npu(2), npu(3)]) == devices.Fitness()


@pytest.mark.parametrize("look", [[], [npu(3, "unknown")]], ids=["gone", "unknown"])
def test_a_chip_that_is_not_seen_is_unfit_after_the_second_look(look: list[Accelerator]) -> None:
    once = devices.Fitness().after(["npu:3"], look)
    assert once.unfit == {}
    assert once.after(["npu:3"], [npu(3)]) == devices.Fitness(), "a tool may hang once"
    twice = once.after(["npu:3"], look)
    assert "npu:3" in twice.unfit["npu:3"]
    assert twice.after(["npu:3"], look).unfit == twice.unfit


def test_a_broken_chip_that_then_disappears_stays_unfit_for_what_it_said() -> None:
    broken = devices.Fitness().after(["npu:3"], [npu(3, "alarm")])
    assert broken.after(["npu:3"], []).unfit == broken.unfit
    assert "alarm" in broken.unfit["npu:3"]


def test_what_nobody_uses_is_not_watched() -> None:
    assert devices.Fitness().after([], [npu(3, "critical")]) == devices.Fitness()

"""GPU metrics: DCGM exporter's names, labels and units, nothing for what is not known."""

from __future__ import annotations

from tests.fakes import machine, nvidia_tool

from daulat.core.accelerator import Accelerator, Ecc, Utilisation
from daulat.fleet import gpu_metrics
from daulat.fleet.inventory import Inventory, together
from daulat.fleet.outputs import capture
from daulat.processes import watch

GIB = 2**30
ONE = Accelerator(
    "nvidia",
    "NVIDIA H200",
    card=3,
    physical_id=5,
    unique_id="GPU-3",
    pci="0000:c1:00.0",
    driver="590.48.01",
    memory_total=141 * GIB,
    memory_used=GIB,
    temperature=40.0,
    memory_temperature=44.0,
    power=301.5,
    utilisation=Utilisation(core=7.0, memory_bandwidth=2.0),
    ecc=Ecc(1, 0, 9, 2),
)
WHO = (
    'gpu="3",UUID="GPU-3",pci_bus_id="00000000:C1:00.0",device="nvidia5",modelName="NVIDIA H200",'
    'DCGM_FI_DRIVER_VERSION="590.48.01"'
)


def test_a_gpu_has_its_samples_under_dcgm_exporters_names_labels_and_units() -> None:
    samples = gpu_metrics.samples(Inventory((ONE,), {}, {}, ()))
    assert {name: values.pop(WHO) for name, values in samples.items()} == {
        "DCGM_FI_DEV_GPU_TEMP": 40,
        "DCGM_FI_DEV_MEMORY_TEMP": 44,
        "DCGM_FI_DEV_POWER_USAGE": 301.5,
        "DCGM_FI_DEV_GPU_UTIL": 7,
        "DCGM_FI_DEV_MEM_COPY_UTIL": 2,
        "DCGM_FI_DEV_FB_USED": 1024,
        "DCGM_FI_DEV_FB_FREE": 140 * 1024,
        "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": 1,
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": 0,
        "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL": 9,
        "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": 2,
    }
    assert set(samples) == set(gpu_metrics.HELP)


def test_a_mig_device_has_its_memory_alone_under_its_gpus_uuid() -> None:
    part = Accelerator(
        "nvidia",
        "NVIDIA H200 MIG 3g.71gb",
        card=3,
        unique_id="MIG-7",
        parent="GPU-3",
        partition="MIG 0",
        features=("GI 2", "CI 0"),
        memory_total=70 * GIB,
        memory_used=0,
        temperature=40.0,
    )
    samples = gpu_metrics.samples(Inventory((part,), {}, {}, ()))
    assert set(samples) == {"DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE"}
    (who,) = samples["DCGM_FI_DEV_FB_FREE"]
    assert 'UUID="GPU-3"' in who
    assert 'GPU_I_PROFILE="3g.71gb",GPU_I_ID="2"' in who


def test_what_is_not_known_has_no_sample_and_other_vendors_have_none() -> None:
    assert gpu_metrics.samples(Inventory((Accelerator("nvidia", card=0), Accelerator("ascend")), {}, {}, ())) == {}


def test_a_whole_machine_is_on_the_page() -> None:
    said, _ = nvidia_tool.nvidia_smi(machine.describe("8xh200", ("hot:2",)), ["-q"])
    page = watch.text(together(capture.read(said)))
    lines = [line for line in page.splitlines() if line.startswith("DCGM_FI_DEV_GPU_TEMP{")]
    assert len(lines) == 8
    assert "# TYPE DCGM_FI_DEV_ECC_DBE_VOL_TOTAL counter" in page
    assert lines[0].startswith('DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-')

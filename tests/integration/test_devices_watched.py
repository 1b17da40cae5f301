"""The real service and the real engine on two NPUs that are not there: one breaks while people ask, and is mended.

The NPUs are those of `tests/fakes`: their tools stand on the service's PATH, their device files in a `/dev` that only
the service sees. llama.cpp computes on the CPU; what is shown is how the service treats what it is bound to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.__main__ import install
from tests.support.askers import Askers
from tests.support.service import Service, daulat

MODEL = "smollm2-135m-instruct"
NAME = "on-npus"
DEV = """
set -e
new="$0/dev-of-the-service"
mkdir -p "$new"
mount -t tmpfs none "$new"
mkdir "$new/shm" "$new/pts"
for name in null zero full random urandom tty; do touch "$new/$name"; mount --bind "/dev/$name" "$new/$name"; done
mount --bind /dev/shm "$new/shm"
mount --rbind /dev/pts "$new/pts"
ln -s /proc/self/fd "$new/fd"
touch "$new/davinci2" "$new/davinci3" "$new/davinci_manager" "$new/devmm_svm" "$new/hisi_hdc"
mount --rbind "$new" /dev
exec "$@"
"""


def _may_mount() -> bool:
    unshare = shutil.which("unshare")
    return (
        unshare is not None
        and subprocess.run([unshare, "--mount", "true"], capture_output=True, check=False).returncode == 0
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(1800),  # engines are started anew several times
    pytest.mark.skipif(not _may_mount(), reason="a /dev of the service's own needs root"),
]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a3")
    install(folder, "a3")
    return folder


@pytest.fixture(scope="module")
def service(machine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(
        tmp_path_factory.mktemp("devices") / "home",
        environment={
            "PATH": f"{machine / 'bin'}:{os.environ['PATH']}",
            "DAULAT_DEVICE_SECONDS": "1",
            "DAULAT_CANARY_SECONDS": "2",
            "DAULAT_CONTEXT": "512",
        },
        python=("unshare", "--mount", "sh", "-c", DEV, str(machine), sys.executable),
    )
    made.start("--slots", "2")
    with made.closing():
        daulat(
            "deploy", MODEL, "--name", NAME, "--engine", "llama.cpp", "--on", "npu:2,npu:3", "--replicas", "2",
            home=made.home,
        )  # fmt: skip
        yield made


def on(service: Service) -> dict[str, str]:
    """Phases by device."""
    rows = [row for row in daulat("replicas", home=service.home) if row["deployment"] == NAME]
    return {device: row["phase"] for row in rows for device in row["devices"]}


def fit(service: Service) -> list[int]:
    """How many NPUs are fit, lease by lease."""
    return [
        sum(kind["fit"] for kind in entry["evidence"]["inventory"]["accelerators"])
        for entry in service.entries("node.lease/v1")
    ]


def ends(service: Service) -> list[dict[str, Any]]:
    return [entry for entry in service.entries("replica.stopped/v1") if entry["reason"].startswith("device ")]


def test_a_chip_that_breaks_loses_its_replica_no_request_is_lost_and_it_comes_back(
    service: Service, machine: Path
) -> None:
    service.wait(lambda: on(service) == {"npu:2": "ready", "npu:3": "ready"})
    assert fit(service)[-1] == 16
    with Askers(service, NAME) as asking:
        asking.more(6)
        install(machine, "a3", ("critical:3",))
        service.wait(lambda: on(service) == {"npu:2": "ready"})
        asking.more(8)
    assert all(answer.status == 200 for answer in asking.answers if not answer.error)
    assert not any(answer.status == 200 and not answer.text for answer in asking.answers)
    assert sum(bool(answer.text and answer.whole) for answer in asking.answers) >= 14 - 4, (
        "at most what had begun there"
    )
    (end,) = ends(service)
    assert end["reason"] == "device npu:3 (NPU 1 die 1) is critical: npu-smi says Critical"
    service.wait(lambda: fit(service)[-1] == 15)
    install(machine, "a3")
    service.wait(lambda: on(service) == {"npu:2": "ready", "npu:3": "ready"})
    service.wait(lambda: fit(service)[-1] == 16)
    assert len(ends(service)) == 1


def test_a_machine_whose_driver_goes_serves_nothing_on_its_npus_and_says_why(service: Service, machine: Path) -> None:
    install(machine, "a3", ("driver-gone",))
    service.wait(lambda: on(service) == {})
    why = daulat("status", home=service.home, code=1)["not_serving_because"]
    assert any("device npu:2" in words for words in why), why
    reasons = {entry["reason"] for entry in ends(service)}
    assert any("npu:2" in reason for reason in reasons)
    install(machine, "a3")
    service.wait(lambda: on(service) == {"npu:2": "ready", "npu:3": "ready"})

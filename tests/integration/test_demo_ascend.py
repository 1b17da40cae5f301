"""`make demo-ascend`'s script: every step says something, faults are seen, and it never claims to be silicon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def test_a_whole_a3_node_is_shown() -> None:
    said = subprocess.run(
        [ROOT / "tools/demo-ascend", Path(sys.prefix)], capture_output=True, text=True, timeout=300, check=True
    ).stdout
    assert said.count("o silicon was touched".upper()) + said.count("o silicon was touched") == 2
    whole, faulty, gone, fit, command, container, metrics, _ = said.split("== ")[2 - 1 :]
    assert whole.count("/dev/davinci") == 16
    assert "(exit code 1)" not in whole
    for word in ("WARN", "ALARM", "10.20.6.10 down", "used by process 31337", "(exit code 1)"):
        assert word in faulty
    assert "the driver is not loaded" in gone
    assert "it fits" in fit
    assert "it does not fit" in fit
    assert "vllm serve" in command
    assert "ASCEND_RT_VISIBLE_DEVICES=0,1,2," in command
    assert container.count("--device /dev/davinci") == 17, "16 dies and the manager"
    assert "machine_npu_nums 16" in metrics
    assert 'npu_chip_info_hbm_used_memory{id="0"' in metrics

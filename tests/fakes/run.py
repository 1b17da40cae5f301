"""A fake `npu-smi`, `hccn_tool` or `nvidia-smi`: what the real one would print on the described machine."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import ascend_tools  # type: ignore[import-not-found]  # beside this file: it is run by itself
import nvidia_tool  # type: ignore[import-not-found]


def main() -> int:
    tool, described, *arguments = sys.argv[1:]
    machine = json.loads(Path(described).read_text())
    if "hang" in machine["faults"]:
        time.sleep(600)
    answers = {
        "npu-smi": ascend_tools.npu_smi,
        "hccn_tool": ascend_tools.hccn_tool,
        "nvidia-smi": nvidia_tool.nvidia_smi,
    }
    text, code = answers[tool](machine, arguments)
    sys.stdout.write(text)
    return code


if __name__ == "__main__":
    sys.exit(main())

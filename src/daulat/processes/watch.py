"""The accelerators, looked at again and again for the metrics page, beside whoever reads it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from daulat import __version__
from daulat.adapters.accelerators import discover
from daulat.fleet import gpu_metrics, npu_metrics
from daulat.fleet.inventory import Inventory
from daulat.gateway import metrics

SECONDS: Final = 30.0  # between looks: tools take their time, and the driver is not to be kept busy with questions
_log = logging.getLogger(__name__)


class Watch:
    """The newest samples of NPUs and GPUs, in Prometheus' text; empty on a machine without any."""

    def __init__(self, look: Callable[[], Inventory] = discover) -> None:
        self._look = look
        self.text = ""

    def start(self) -> None:
        """Look for ever, on a thread that keeps nobody from ending. Once, where there is neither."""
        threading.Thread(target=self._run, name="accelerators", daemon=True).start()

    def look(self) -> bool:
        """Look once; whether this machine has NPUs or GPUs."""
        try:
            found = self._look()
        except OSError as error:
            _log.warning("the accelerators could not be looked at: %s", error)
            return True
        self.text = text(found)
        return bool(self.text)

    def _run(self) -> None:
        while self.look():
            time.sleep(SECONDS)


def text(found: Inventory) -> str:
    """The metrics of an inventory, under the names of npu-exporter and DCGM exporter; empty where there are none."""
    samples = {**npu_metrics.samples(found, __version__), **gpu_metrics.samples(found)}
    return metrics.render(samples, {**npu_metrics.HELP, **gpu_metrics.HELP}) if samples else ""

"""Which error codes of an NPU mean that nothing may run on it, whatever its one word for its health is.

After `faultCode.json` of mind-cluster's device plugin (github.com/Ascend/mind-cluster, commit 018a2e0d): the codes for
which it takes an NPU out of service, and the one of a multi bit error of the memory, for which it ends the job.
"""

from __future__ import annotations

import re
from typing import Final

from daulat.core.accelerator import Health

_MULTI_BIT: Final = "80E01801"
# fmt: off
_SEPARATED: Final = frozenset(
    {
        "80E3A201", "80E18402", "80E0020B", "817F8002", "816F8002", "814F8002", "9419321B", "A2301000", "A2301001",
        "A2302001", "A4192C1A", "A4193216", "A419321B", "A419321C", "A42F390F", "A42F3916", "A42F391A", "A6183207",
        "A62F3934", "A8028801", "A819320F", "A8193234", "A8193235", "80818C00", "80818C05", "80DF8402", "4C4BA00C",
    }
)
# fmt: on
_WORDS: Final = re.compile(r"(?:multi|double)[ -]?bit ecc error|uncorrectable ecc error", re.IGNORECASE)


def weighed(health: Health) -> Health:
    """A health at least as bad as its codes and reasons say.

    A code that is not in these lists changes nothing: most are notices, and the vendor's word for the health stands.
    """
    for code in health.codes:
        if code == _MULTI_BIT:
            health = health.at_least("alarm", f"error code {code}: a multi bit error of the memory")
        elif code in _SEPARATED:
            health = health.at_least("alarm", f"error code {code}: the vendor takes an NPU that has it out of service")
    if any(_WORDS.search(words) for words in health.reasons):
        health = health.at_least("alarm")
    return health

"""A charter that asks for approvals comes into force only where there are operators to give them."""

from __future__ import annotations

from pathlib import Path

import pytest

from daulat.adapters.control_db import ControlDatabase
from daulat.catalog import charters
from daulat.errors import ConfigError
from daulat.processes.consenting import in_force
from daulat.settings import Home


def operators(rows: ControlDatabase, count: int) -> None:
    rows.add("tenants", {"id": "t", "name": "operators", "epoch_key": ""})
    for number in range(count):
        who = {"name": str(number), "tenant": "t", "citizenship": "MY", "assurance": "high", "roles": ["operator"]}
        rows.add("people", {"id": f"p{number}", **who, "expires": 1, "version": 1})
        key = {"name": str(number), "person": f"p{number}", "vkey": "v", "origin": "log/1", "position": 0}
        rows.add("operator_keys", {"id": f"k{number}", **key, "revoked": None})


@pytest.mark.parametrize(("approvals", "there", "starts"), [(0, 0, True), (2, 0, False), (2, 2, False), (2, 3, True)])
def test_nobody_locks_themselves_out(tmp_path: Path, approvals: int, there: int, starts: bool) -> None:
    home, rows = Home(tmp_path), ControlDatabase(tmp_path / "control.db")
    home.charter.write_text(charters.starter().replace("approvals = 0", f"approvals = {approvals}"))
    operators(rows, there)
    if starts:
        assert in_force(rows, home).waiting == ()
    else:
        with pytest.raises(ConfigError, match=f"approvals = 2 needs 3 operators with keys, and there are {there}"):
            in_force(rows, home)
    rows.close()

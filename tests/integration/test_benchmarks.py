"""The benchmark runs to its end and writes its table: every suite once, briefly, without the peers. Not how fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
TENANTS = 20
OURS = {"direct", "daulat", "daulat-split", f"daulat-{TENANTS}", f"daulat-{TENANTS}-split"}
JSON_ONLY = {"daulat-tcp-split", f"daulat-{TENANTS}-kept", f"daulat-{TENANTS}-kept-split"}


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="load and proxy have a core each")
def test_every_suite_is_measured_and_written(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.run", "--peers", "", "--tenants", str(TENANTS), "--rounds", "1"]
    command += ["--seconds", "1", "--calm", "0", "--results", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads((tmp_path / "stub.json").read_text())["rows"]
    seen: dict[str, set[str]] = {}
    for row in rows:
        seen.setdefault(row["suite"], set()).add(row.get("server", "worker"))
        if row["suite"] != "memory":
            assert 0 < row["window"]["pace"] <= 2
            load = row["load"]
            assert load.get("requests") or load["completed"]
            assert not any(load.get(name) for name in ("not_200", "socket_errors", "errors", "unfinished"))
    assert seen == {
        "json-256": OURS | JSON_ONLY,
        "json-64": OURS | JSON_ONLY,
        "streams": OURS,
        "open": OURS,
        "memory": {"worker"},
        "scaling": {"daulat-1", "daulat-2"},
    }
    table = (tmp_path / "results.md").read_text()
    for name in OURS | JSON_ONLY:
        assert f"\n| {name} |" in table
    assert (tmp_path / "plot.svg").read_bytes().startswith(b"<?xml")

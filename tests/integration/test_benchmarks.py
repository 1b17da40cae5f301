"""The benchmarks before the stub, and the audit's, run to their end, briefly and without the peers. Not how fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
OURS = {"direct", "daulat", "daulat-split"}
JSON_ONLY = {"daulat-tcp-split"}


def run(name: str, results: Path, *more: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--results", str(results), "--rounds", "1", *more]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="load and proxy have a core each")
def test_everything_is_measured_and_written(tmp_path: Path) -> None:
    briefly = ("--seconds", "1", "--calm", "0")
    run("run", tmp_path, "--only", "memory", "--peers", "", "--tenants", "20", *briefly)
    run("tenants", tmp_path, "--tenants", "20", *briefly)
    run("audit", tmp_path, "--entries", "8000")
    run("run", tmp_path, "--only", "json,streams,open,scaling", "--peers", "", "--tenants", "0", *briefly)
    assert json.loads((tmp_path / "tenants.json").read_text())["summary"]["errors"] == 0
    seen: dict[str, set[str]] = {}
    for row in json.loads((tmp_path / "stub.json").read_text())["rows"]:
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
    for title in ("Ten thousand tenants", "Auditing a log", "Memory", "Workers on two cores, nothing pinned"):
        assert f"\n## {title}\n" in table
    assert (tmp_path / "plot.svg").read_bytes().startswith(b"<?xml")

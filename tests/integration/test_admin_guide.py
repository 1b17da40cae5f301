"""Every `curl` that the admin API's guide shows, typed as it is printed, against a running service."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.besieged import Besieged, besieged

pytestmark = pytest.mark.slow
GUIDE = (Path(__file__).parents[2] / "docs" / "admin-api.md").read_text()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    with besieged(tmp_path_factory.mktemp("guide")) as running:
        yield running


def test_every_request_of_the_guide_does_what_the_guide_says(service: Besieged) -> None:
    lines = re.findall(r"^    (curl (?:.*\\\n)*.*)$", GUIDE, re.MULTILINE)
    assert len(lines) > 10
    tenant = service.ask("admin-boss", "GET", "/admin/v1/me").json()["tenant"]
    keys = {"ADMIN_KEY": service.secrets["admin-first-operator"], "TENANT_KEY": service.secrets["admin-boss"]}
    now = int(time.time() * 1000)
    times = {"BEGINS": now - 60_000, "ENDS": now - 30_000, "LEARNED": now, "AT": now}
    named = {"URL": service.running.url, "TENANT": tenant, **keys, **{name: str(at) for name, at in times.items()}}
    for line in lines:
        done = subprocess.run(
            ["bash", "-euc", line], capture_output=True, text=True, env={**os.environ, **named}, timeout=60, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        said = json.loads(done.stdout)
        assert "error" not in said, f"{line}\n{said}"
        if "POST" in line:
            kind = said["id"].partition("_")[0]
            if kind != "tenant":
                named[kind.upper()] = said["id"]
    people = service.ask("admin-first-operator", "GET", "/admin/v1/people?limit=100").json()["data"]
    (hassan,) = [row for row in people if row["name"] == "hassan"]
    assert (hassan["citizenship"], hassan["version"]) == ("MY", 3)

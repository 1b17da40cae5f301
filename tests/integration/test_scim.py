"""A whole running service and a directory's real client: who leaves is out within a second, and the log stands up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_tester import Status, check_server
from tests.support.besieged import CHAT, PATIENCE, Besieged, besieged
from tests.support.service import daulat, slowness

from daulat.pipeline.actions import PATHS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    with besieged(tmp_path_factory.mktemp("scim")) as running:
        yield running


@pytest.fixture
def directory(service: Besieged) -> Iterator[SyncSCIMClient]:
    asked: dict[str, Any] = {"label": "keycloak", "provider": "", "days": 9, "person_days": 90}
    made = service.control("directory.create", tenant="first-agency", **asked)
    headers = {"authorization": f"Bearer {made['directory_token']}"}
    url = f"{service.running.url}/scim/v2"
    with httpx2.Client(base_url=url, headers=headers, timeout=PATIENCE, trust_env=False) as client:
        found = SyncSCIMClient(client)
        found.discover()
        yield found
        service.control("directory.revoke", wanted=made["id"])
        assert client.get("/Users").status_code == 401, "over at once"


def leaves(service: Besieged, directory: SyncSCIMClient, name: str) -> float:
    """Somebody comes, is vouched for, asks, leaves, and is refused at the next request: seconds from the leaving on."""
    user = directory.get_resource_model("User")
    assert user is not None
    made: Any = directory.create(user(user_name=f"{name}@agency.example", external_id=name, active=True))
    assert made.meta.location == f"{service.running.url}/scim/v2/Users/{made.id}"
    key = service.control("key.create", person=made.id, label=name, models=[], requests_per_minute=0, days=9)
    service.secrets[name] = key["api_key"]
    refused = service.ask(name, "POST", PATHS["chat.completions"], CHAT)
    assert refused.status_code == 403, "a directory makes nobody a citizen"
    service.control("person.correct", person=made.id, changes={"citizenship": "MY", "assurance": "substantial"})
    assert service.ask(name, "POST", PATHS["chat.completions"], CHAT).status_code == 200
    current: Any = directory.query(user, made.id)
    current.active = False
    began = time.monotonic()
    left: Any = directory.replace(current)
    assert service.ask(name, "POST", PATHS["chat.completions"], CHAT).status_code == 401
    seconds = time.monotonic() - began
    assert left.active is False
    return seconds


def test_whoever_leaves_is_out_within_a_second(service: Besieged, directory: SyncSCIMClient) -> None:
    took = [leaves(service, directory, name) for name in ("aminah", "bina", "chong")]
    assert min(took) < slowness(), f"other load adds to it: {took}"
    acts = [entry["action"] for entry in service.entries("operator.action/v1")]
    assert "directory.create" in acts
    service.wait(lambda: any(entry["action"] == "person.end" for entry in service.entries("operator.action/v1")))


def test_all_of_it_goes_through_the_worker_too(service: Besieged, directory: SyncSCIMClient) -> None:
    results = check_server(directory)
    wrong = {result.title: result.reason for result in results if result.status is not Status.SUCCESS}
    assert [*wrong] == ["check_remove_attribute"], "as in tests/unit/processes/test_scim.py"
    assert sum(result.status is Status.SUCCESS for result in results) > 30
    with httpx2.Client(base_url=f"{service.running.url}/scim/v2", timeout=PATIENCE, trust_env=False) as client:
        assert client.get("/ServiceProviderConfig").status_code == 200
        assert client.get("/Users", headers={"x-api-key": service.secrets["ours"]}).status_code == 401
        large = client.post("/Users", content=b" " * 70_000, headers={"authorization": "Bearer dt-x"})
        assert large.status_code == 413


def test_the_whole_log_is_audited(service: Besieged, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(service.running.auditor_token)
    known = ("--vkey", service.running.control.vkey, "--token-file", str(token))
    assert daulat("audit", f"{service.running.url}/log", *known)["logs"]

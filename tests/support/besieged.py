"""A whole running service with two tenants and a played engine, for those who attack it, or type what a guide says.

The control plane, its sequencer, a worker and the pages are processes of their own.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.support.installation import Running, start
from tests.support.service import free_port
from tests.support.stub_engine import StubEngine

from daulat.adapters import rpc
from daulat.adapters.log_files import LogFolder, current_period
from daulat.ledger.reading import read_entries
from daulat.pipeline.actions import PATHS
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog.note import Verifier

PATIENCE = 180.0
CHAT = {"model": "stub", "messages": [{"role": "user", "content": "rahsia"}]}


@dataclass
class Besieged:
    """A service with two tenants. `secrets` by name; `asked` by name: the id of what each tenant's user has asked."""

    running: Running
    secrets: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)

    def control(self, method: str, **params: Any) -> Any:
        return rpc.call(self.running.home.control_socket, method, **params)

    def ask(self, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.secrets[who]}"} if who else {}
        with httpx.Client(base_url=self.running.url, headers=headers, timeout=PATIENCE, trust_env=False) as client:
            return client.request(method, path, json=body)

    def upload(self, who: str, content: bytes) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.secrets[who]}"}
        files = {"file": ("surat.txt", content), "purpose": (None, "user_data")}
        with httpx.Client(base_url=self.running.url, headers=headers, timeout=PATIENCE, trust_env=False) as client:
            return client.post("/v1/files", files=files)

    def entries(self, type_: str) -> list[dict[str, Any]]:
        folder = LogFolder(self.running.home.log / current_period(self.running.home.log))
        size = checkpoints.open_checkpoint(folder.published(), Verifier(folder.vkey())).size
        read = [json.loads(entry) for entry in read_entries(folder, 0, size, size)]
        return [entry for entry in read if entry["type"] == type_]

    def wait(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.05)
        raise AssertionError("not in time")

    def refusals(self, action: str, count: int) -> list[dict[str, Any]]:
        """The entries about refusals of that action, once there are so many more than none."""

        def found() -> list[dict[str, Any]]:
            refused = [entry for entry in self.entries("access.refused/v1") if entry["action"] == action]
            return refused if len(refused) >= count else []

        return list(self.wait(found))


@contextmanager
def besieged(folder: Path) -> Iterator[Besieged]:
    """Started in a thread with a loop of its own, and ended."""
    loop = asyncio.new_event_loop()
    began, over = threading.Event(), asyncio.Event()
    made: list[Running] = []

    async def serve() -> None:
        async with StubEngine(folder / "engine", events=2) as engine:
            try:
                made.append(await start(folder / "home", engine.address, port=free_port()))
                began.set()
                await over.wait()
            finally:
                began.set()
                if made:
                    await made[0].control.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert began.wait(PATIENCE)
        assert made, "it did not start"
        yield _populated(Besieged(made[0]))
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        loop.close()


def _populated(besieged: Besieged) -> Besieged:
    control, secrets = besieged.control, besieged.secrets
    control("tenant.add", name="other-agency")
    vouched = {"citizenship": "MY", "assurance": "substantial", "days": 30}
    for name, house, roles in (
        ("ours", "first-agency", ["user"]),
        ("colleague", "first-agency", ["user"]),
        ("theirs", "other-agency", ["user"]),
        ("boss", "other-agency", ["tenant-admin"]),
    ):
        control("person.add", name=name, tenant=house, roles=roles, **vouched)
        made = control("key.create", person=name, label=name, models=[], requests_per_minute=0, days=9)
        secrets[name] = made["api_key"]
    control("person.add", name="resident", tenant="first-agency", roles=["user"], **{**vouched, "citizenship": "SG"})
    for person, label, models in (
        ("resident", "resident", []),
        ("ours", "narrow", ["another"]),
        ("ours", "revoked", []),
    ):
        made = control("key.create", person=person, label=label, models=models, requests_per_minute=0, days=9)
        secrets[label] = made["api_key"]
    control("key.revoke", wanted="revoked")
    for person in ("first-operator", "boss"):
        secrets[f"admin-{person}"] = control("adminkey.create", person=person, label=person, days=1)["admin_key"]
    secrets["auditor"] = besieged.running.auditor_token
    for who in ("ours", "theirs"):
        answer = besieged.ask(who, "POST", PATHS["chat.completions"], CHAT)
        assert answer.status_code == 200, answer.text
        besieged.asked[who] = answer.headers["x-request-id"]
    for who, id_ in besieged.asked.items():
        besieged.wait(lambda who=who, id_=id_: besieged.ask(who, "GET", f"/v1/receipts/{id_}").status_code == 200)
    return besieged

"""Open WebUI itself, its server unchanged, in front of the real service: what its page asks for is asked for here.

Installed without what it uses for speech, documents and images (torch and the like), which chat does not need.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.service import LONG_SECONDS, Service, free_port

pytestmark = pytest.mark.slow
MODEL = "smollm2-135m-instruct"
ASK = [{"role": "user", "content": "What is the capital of Malaysia?"}]
PYTHON = Path(sys.prefix) / "open-webui" / "bin" / "python"  # `make test-slow` makes it
START_SECONDS = 600.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, starter: Path) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("behind") / "home", environment={"DAULAT_MODEL": str(starter)})
    with made:
        yield made


@pytest.fixture(scope="module")
def page(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Signed in at Open WebUI, which knows nothing but Daulat's URL and a key."""
    if not PYTHON.exists():
        pytest.skip("Open WebUI's environment is made by `make test-slow`")
    folder, port = tmp_path_factory.mktemp("open-webui"), free_port()
    settings = {
        "OPENAI_API_BASE_URL": f"{service.facts['url']}/v1",
        "OPENAI_API_KEY": service.facts["api_key"],
        "ENABLE_OLLAMA_API": "false",
        "WEBUI_AUTH": "false",
        "WEBUI_SECRET_KEY": "a test's",
        "DATA_DIR": str(folder),
        "FROM_INIT_PY": "true",  # where an installed package finds its own files
        "OFFLINE_MODE": "true",
        "AIOHTTP_CLIENT_TIMEOUT_MODEL_LIST": "120",  # a busy machine may be silent for longer than its 10 s
        "RAG_EMBEDDING_ENGINE": "openai",
        "VECTOR_DB": "opensearch",  # never asked: no documents are
        "OPENSEARCH_USERNAME": "nobody",
        "OPENSEARCH_PASSWORD": "nothing",
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
    }
    command = [PYTHON, "-m", "uvicorn", "open_webui.main:app", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=settings, cwd=folder, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600, trust_env=False) as client:
            wait(client, process, folder / "log")
            signed = client.post("/api/v1/auths/signin", json={"email": "", "password": ""})
            client.headers["authorization"] = f"Bearer {signed.json()['token']}"
            yield client
    finally:
        process.terminate()
        process.wait(LONG_SECONDS)


def wait(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def answered(service: Service) -> int:
    return sum(entry["completion"]["outcome"] == "ok" for entry in service.entries("inference/v1"))


def test_it_lists_the_model(page: httpx.Client) -> None:
    assert MODEL in [item["id"] for item in page.get("/api/models").json()["data"]]


def test_it_chats_and_every_answer_is_logged(page: httpx.Client, service: Service) -> None:
    before = answered(service)
    got = page.post("/api/chat/completions", json={"model": MODEL, "messages": ASK, "stream": False, "temperature": 0})
    assert got.status_code == 200, got.text
    assert "Kuala Lumpur" in got.json()["choices"][0]["message"]["content"]
    service.wait(lambda: answered(service) > before)


def test_it_streams(page: httpx.Client) -> None:
    body: dict[str, Any] = {"model": MODEL, "messages": ASK, "stream": True, "temperature": 0, "max_tokens": 40}
    with page.stream("POST", "/api/chat/completions", json=body) as got:
        assert got.status_code == 200, got.read()
        lines = [line.removeprefix("data: ") for line in got.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
    assert "Kuala Lumpur" in "".join(choice["delta"].get("content") or "" for choice in choices)


def test_its_background_tasks_work_too(page: httpx.Client) -> None:
    asked = {"model": MODEL, "messages": [*ASK, {"role": "assistant", "content": "Kuala Lumpur."}], "chat_id": "local"}
    got = page.post("/api/v1/tasks/title/completions", json=asked)
    assert got.status_code == 200, got.text
    assert got.json()["choices"]


def test_an_error_of_ours_reaches_its_page_in_words(page: httpx.Client) -> None:
    got = page.post("/api/chat/completions", json={"model": MODEL, "messages": ASK, "stream": False, "n": 500})
    assert got.status_code == 400
    assert "128" in got.text

"""One service for all tests that need the starter model on vLLM: it takes long to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI
from tests.support.real_vllm import MODEL, deploy, options, smollm2
from tests.support.service import Service, daulat


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With vLLM beside llama.cpp; canaries every five seconds, so that the log has counters often."""
    home = tmp_path_factory.mktemp("real") / "home"
    # Two silent canaries end a replica: a vLLM that was killed is gone after up to five seconds, and is to be found so.
    with Service(home, environment={"DAULAT_CANARY_SECONDS": "5"}) as running:
        daulat("model", "import", str(smollm2()), "--name", MODEL, "--licence", "apache-2.0", home=home)
        asked = ("--engine", "vllm", "--engine-options", options(), "--context", "2048", "--slots", "4")
        told = deploy(running, MODEL, *asked)
        assert told["status"]["ready_replicas"] == 1, told
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.facts['url']}/v1", api_key=service.facts["api_key"], max_retries=0) as made:
        yield made

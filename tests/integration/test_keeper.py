"""The keeper beneath the `openai` package against the real service: each answer's receipt, and all promises at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI, OpenAI, PermissionDeniedError
from tests.support.service import LONG_SECONDS, Service, daulat

from daulat.client import Keeper

pytestmark = pytest.mark.slow
MODEL = "smollm2-135m-instruct"
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of Malaysia?"}]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("keeper") / "home") as running:
        yield running


def client(service: Service, kept: Keeper, api_key: str) -> OpenAI:
    inner = httpx2.Client(transport=kept.transport(httpx2.HTTPTransport()), timeout=120)
    return OpenAI(base_url=f"{service.facts['url']}/v1", api_key=api_key, max_retries=0, http_client=inner)


def test_every_way_of_asking_leaves_a_receipt_that_verifies(service: Service, tmp_path: Path) -> None:
    kept, key = Keeper(service.facts["log_vkey"]), service.facts["api_key"]
    with client(service, kept, key) as api:
        whole = api.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=8)
        list(api.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=8, stream=True))
        api.completions.create(model=MODEL, prompt="Malaysia is", max_tokens=4)
        assert len(kept.exchanges) == 3
        for request_id in kept.exchanges:
            verdict = kept.verify(request_id, LONG_SECONDS)
            assert (verdict.effect, verdict.outcome) == ("allow", "ok")
            assert sum("byte for byte" in words for words in verdict.proven) == 2
            assert any("kept in time" in words for words in verdict.proven)
        assert whole._request_id in kept.exchanges

    async def asynchronously() -> str:
        inner = httpx2.AsyncClient(transport=kept.async_transport(httpx2.AsyncHTTPTransport()), timeout=120)
        async with AsyncOpenAI(base_url=f"{service.facts['url']}/v1", api_key=key, http_client=inner) as api:
            stream = await api.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=8, stream=True)
            async for _ in stream:
                pass
            return (await kept.verify_async(next(reversed(kept.exchanges)), LONG_SECONDS)).outcome

    assert asyncio.run(asynchronously()) == "ok"

    refused = stranger(service, kept)
    assert refused == ("deny", "denied")

    (tmp_path / "token").write_text(service.facts["auditor_token"])
    (tmp_path / "promises").write_text("\n".join(kept.promises()))
    arguments = ["--vkey", service.facts["log_vkey"], "--token-file", str(tmp_path / "token")]
    report = daulat("audit", service.facts["log_url"], *arguments, "--promises", str(tmp_path / "promises"))
    assert report["logs"][-1]["promises"] == {"kept": 5, "pending": 0}


def stranger(service: Service, kept: Keeper) -> tuple[str, str]:
    """Somebody whom the rules refuse has a receipt of the refusal."""
    daulat("person", "add", "visitor", "--tenant", "first-agency", "--citizenship", "XX", home=service.home)
    key = daulat("key", "create", "--person", "visitor", home=service.home)["api_key"]
    with client(service, kept, key) as api:
        with pytest.raises(PermissionDeniedError):
            api.chat.completions.create(model=MODEL, messages=QUESTION)
        verdict = kept.verify(next(reversed(kept.exchanges)), LONG_SECONDS)
    return verdict.effect, verdict.outcome

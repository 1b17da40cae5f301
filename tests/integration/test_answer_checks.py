"""Answer checks with the real engine: a sound model serves, a spoilt one never, and the audit tells them from use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.corrupt import Garbling
from tests.support.corrupted import permuted, scaled
from tests.support.service import Service, daulat

from daulat.adapters import engine_http
from daulat.engines import plain
from daulat.engines.answers import Answer, Ask, Report, check
from daulat.engines.llamacpp.asking import LlamaCppAsker
from daulat.settings import Home

pytestmark = pytest.mark.slow
MODEL = "smollm2-135m-instruct"
EVERY = {"DAULAT_CANARY_SECONDS": "2", "DAULAT_ANSWER_SECONDS": "3"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("answers") / "home", environment=EVERY) as running:
        yield running


def engine_socket(service: Service) -> Path:
    return Path(service.wait(lambda: [*Home(service.home).run.glob("engine-*/e.sock")])[0])


def checked(service: Service, asker_type: type[LlamaCppAsker] = LlamaCppAsker) -> Report:
    """A round of our own against the running engine."""

    async def fetch(method: str, target: str, body: bytes) -> tuple[int, bytes]:
        return await engine_http.fetch(engine_socket(service), method, target, body, seconds=60)

    report = Report()
    asyncio.run(check(asker_type(fetch, MODEL), report, slots=4, context=2048, seed=7))
    return report


def test_a_sound_model_serves_and_its_checks_are_in_the_log_apart_from_use(service: Service, tmp_path: Path) -> None:
    with service.client() as client:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
        assert client.post("chat/completions", json=body).status_code == 200
    (started,) = service.entries("replica.started/v1")
    first = started["counters"]["checked_prompt_tokens"]
    assert 0 < first == started["counters"]["prompt_tokens"], "nothing but checks before the first lease"
    assert 0 < started["counters"]["checked_completion_tokens"] == started["counters"]["completion_tokens"]

    def again() -> bool:
        read = [entry for entry in service.entries("canary/v1") if entry["started"] is not None]
        return bool(read) and read[-1]["counters"]["checked_prompt_tokens"] >= 3 * first

    service.wait(again)
    assert service.entries("replica.stopped/v1") == []
    (tmp_path / "token").write_text(service.facts["auditor_token"])
    given = ["--vkey", service.facts["log_vkey"], "--token-file", str(tmp_path / "token")]
    (log,) = daulat("audit", service.facts["log_url"], *given)["logs"]
    assert not [finding for finding in log["findings"] if finding["kind"] == "counters"]


def test_a_sound_model_however_small_passes_the_plain_check_as_well(service: Service) -> None:
    async def fetch(method: str, target: str, body: bytes) -> tuple[int, bytes]:
        return await engine_http.fetch(engine_socket(service), method, target, body, seconds=60)

    for seed in range(5):
        report = Report()
        asyncio.run(plain.check(fetch, MODEL, report, seed=100 * seed))
        assert report.faults == []
        assert 0 < report.completion_tokens <= plain.DRAWS * plain.MOST_TOKENS


def test_an_engine_that_begins_to_answer_wrongly_is_left_and_serves_again_once_it_answers_rightly(
    service: Service,
) -> None:
    (before,) = daulat("replicas", home=service.home)
    with Garbling(Home(service.home).engine(before["id"]) / "e.sock"):
        service.wait(lambda: service.entries("replica.stopped/v1"), 120)
    (stopped,) = service.entries("replica.stopped/v1")
    assert stopped["reason"].startswith("wrong answers: "), "which check met it first depends on when it began"
    assert stopped["started"] is not None, "it had been routed to"

    def ready() -> bool:
        (now,) = daulat("replicas", home=service.home)
        return now["phase"] == "ready" and now["ends"] > before["ends"]

    service.wait(ready, 120)
    with service.client() as client:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
        service.wait(lambda: client.post("chat/completions", json=body).status_code == 200)


class Garbled(LlamaCppAsker):
    """The real engine, whose cache forgets the beginning of a long prompt before it decodes."""

    async def ask(self, ask: Ask) -> Answer:
        if isinstance(ask.prompt, tuple) and ask.most > 1:
            ask = Ask(ask.prompt[len(ask.prompt) // 2 :], most=ask.most)
        return await super().ask(ask)


def test_a_cache_that_forgets_is_found_with_the_real_engines_numbers(service: Service) -> None:
    sound, garbled = checked(service), checked(service, Garbled)
    assert sound.faults == []
    assert "its KV cache and a prompt read anew differ" in garbled.faults[0]
    assert garbled.measured["cache_nats"] > 2 * sound.measured["cache_nats"]


SPOILT: dict[str, Any] = {
    "every key's rows shuffled": lambda source, made: permuted(source, made, "attn_k.weight"),
    "every feed-forward layer shuffled": lambda source, made: permuted(source, made, "ffn_down.weight"),
    "every feed-forward layer too large": lambda source, made: scaled(source, made, "ffn_down.weight", 8),
    "no values": lambda source, made: scaled(source, made, "attn_v.weight", 0),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_spoilt_model_loads_and_is_never_routed_to(starter: Path, tmp_path: Path, spoilt: str) -> None:
    made = SPOILT[spoilt](starter, tmp_path / "spoilt.gguf")
    home = tmp_path / "home"
    daulat("model", "import", str(made), "--name", "spoilt", "--licence", "apache-2.0", home=home)
    broken = Service(home)
    with broken.closing():
        with pytest.raises(AssertionError, match="wrong answers"):
            broken.start("--model", "spoilt")
        assert broken.process is not None
        assert broken.process.wait(120) == 1
    broken.wait(lambda: broken.left_running() == [], 20)  # what had to be killed is gone a moment later
    log = "".join(path.read_text() for path in (home / "replicas").glob("*.log"))
    assert "wrong answers" in log
    ends = broken.entries("replica.stopped/v1")
    assert ends
    assert all(entry["started"] is None and "wrong answers: " in entry["reason"] for entry in ends)

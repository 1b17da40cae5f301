"""Ctrl-C in the middle of an answer."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx
import pytest
from tests.support.service import Service

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_a_stream_that_the_service_cannot_finish_ends_with_words(tmp_path: Path) -> None:
    with Service(tmp_path / "home") as service:
        lines: list[str] = []
        begun = threading.Event()

        def ask() -> None:
            body = {
                "model": "smollm2-135m-instruct",
                "messages": [{"role": "user", "content": "Count to a million."}],
                "stream": True,
                "max_tokens": 8000,
                "ignore_eos": True,  # llama.cpp's own: it goes on until it is stopped
            }
            key = {"authorization": f"Bearer {service.facts['api_key']}"}
            url = f"{service.facts['url']}/v1/chat/completions"
            with httpx.stream("POST", url, headers=key, json=body, timeout=120) as answer:
                for line in answer.iter_lines():
                    lines.append(line)
                    begun.set()

        asking = threading.Thread(target=ask)
        asking.start()
        assert begun.wait(120)
        assert service.stop() == 0
        asking.join(30)
        assert not asking.is_alive()
        last = [line for line in lines if line][-1]
        error = json.loads(last.removeprefix("data: "))["error"]
        assert (error["type"], error["code"]) == ("service_unavailable_error", "interrupted")
        service.wait(lambda: service.left_running() == [], 20)  # what had to be killed is gone a moment later

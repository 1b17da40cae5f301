"""`daulat bench`: how a running service does, as its clients see it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import click
import httpx

from daulat.cli import emit, service
from daulat.cli.options import json_option
from daulat.cli.progress import Progress
from daulat.errors import InvalidRequest, Unavailable

_SECONDS = 600.0
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # what another shape raises


@dataclass(slots=True)
class _Tally:
    """What came back. Times in seconds."""

    first: list[float] = field(default_factory=list)  # to the first content of a stream
    whole: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def failed(self, what: str) -> None:
        self.errors[what] = self.errors.get(what, 0) + 1


@click.command()
@click.argument("url", default="http://127.0.0.1:8470")
@click.option("--key-file", type=click.Path(exists=True, path_type=Path), help="The API key (else $DAULAT_API_KEY).")
@click.option("--model", help="Which model (default: the first that is served).")
@click.option("--requests", default=32, show_default=True, type=click.IntRange(1))
@click.option("--concurrency", default=4, show_default=True, type=click.IntRange(1, 4096))
@click.option("--tokens", default=64, show_default=True, type=click.IntRange(1), help="At most, for each answer.")
@click.option("--prompt", default="Tell a story about a river.", show_default=True)
@json_option
def bench(
    url: str,
    key_file: Path | None,
    model: str | None,
    requests: int,
    concurrency: int,
    tokens: int,
    prompt: str,
    as_json: bool,
) -> None:
    """Measure a running service: time to the first token, whole answers, tokens a second, errors.

    Every request is real, streamed, and leaves an entry in the log. (`make bench` measures the gateway against others.)

    \b
    Example:
        daulat bench --requests 64 --concurrency 8
        daulat bench https://ai.agency.gov.my --key-file key --json
    """
    root, secret = service.address(url), service.api_key(key_file)
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    progress = Progress(quiet=as_json)
    value = asyncio.run(_measure(root, secret, model, body, requests, concurrency, progress))
    emit(value, as_json=as_json, text="\n".join(f"{name:<22} {_shown(item)}" for name, item in value.items()))
    if value["errors"]:
        raise SystemExit(1)


async def _measure(
    url: str, secret: str, model: str | None, body: dict[str, Any], requests: int, concurrency: int, progress: Progress
) -> dict[str, Any]:
    tally, left = _Tally(), iter(range(requests))
    headers = {"authorization": f"Bearer {secret}"}
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(headers=headers, timeout=_SECONDS, limits=limits) as client:
        body = {"model": model or await _first_model(client, url), **body}
        began = time.monotonic()

        async def work() -> None:
            for _ in left:
                await _one(client, f"{url}/v1/chat/completions", body, tally)
                progress.bar("answers", len(tally.whole) + sum(tally.errors.values()), requests)

        await asyncio.gather(*(work() for _ in range(concurrency)))
        seconds = time.monotonic() - began
    return {
        "model": body["model"],
        "answers": len(tally.whole),
        "errors": tally.errors,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tally.tokens / seconds, 1),
        "first_token_ms": _spread(tally.first),
        "answer_ms": _spread(tally.whole),
    }


async def _first_model(client: httpx.AsyncClient, url: str) -> str:
    try:
        answer = await client.get(f"{url}/v1/models")
    except httpx.HTTPError as error:
        raise service.unreachable(url, error) from None
    if answer.status_code != httpx.codes.OK:
        raise service.refusal(url, answer)
    try:
        names = [str(row["id"]) for row in answer.json()["data"]]
    except _UNREADABLE:
        raise Unavailable(f"{url} lists no models, so it is no such service") from None
    if not names:
        raise InvalidRequest("this key may use no model")
    return names[0]


async def _one(client: httpx.AsyncClient, url: str, body: dict[str, Any], tally: _Tally) -> None:
    began, first = time.monotonic(), 0.0
    try:
        async with client.stream("POST", url, json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                tally.failed(f"status {answer.status_code}")
                return
            last = ""
            async for line in answer.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    value = json.loads(line[6:])
                    if "error" in value:
                        tally.failed(str(value["error"].get("code")))
                        return
                    tally.tokens += (value.get("usage") or {}).get("completion_tokens", 0)
                    if not first and any(choice["delta"].get("content") for choice in value.get("choices", ())):
                        first = time.monotonic()
                last = line or last
            if last != "data: [DONE]":
                tally.failed("cut short")
                return
    except httpx.HTTPError as error:
        tally.failed(type(error).__name__)
        return
    except _UNREADABLE:
        tally.failed("unreadable")
        return
    tally.whole.append(time.monotonic() - began)
    tally.first.append((first or time.monotonic()) - began)


def _spread(seconds: list[float]) -> dict[str, float]:
    """Median, 90th and 99th percentile in milliseconds."""
    if not seconds:
        return {}
    if len(seconds) == 1:
        return {"p50": round(seconds[0] * 1000, 1)}
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {f"p{at}": round(cuts[at - 1] * 1000, 1) for at in (50, 90, 99)}


def _shown(item: Any) -> str:
    if isinstance(item, dict):
        return ", ".join(f"{name} {value}" for name, value in item.items()) or "none"
    return str(item)

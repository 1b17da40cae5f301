"""The real engine, asked directly and through Daulat.

    python -m benchmarks.engine [--rounds 7] [--tokens 96] [--prefix-rounds 2]

Starts `daulat up` with the starter model in a fresh home, then alternates: streams straight to the engine's Unix
socket, and the same through Daulat. Writes results/engine.json and the report anew. Nothing is pinned: an engine with
its own compute threads beside the gateway is what one machine has.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import host, load, report
from benchmarks.environments import RESULTS, ROOT, WORK
from daulat.settings import Home

PORT: Final = 18700
SLOTS: Final = 8
MODEL: Final = "smollm2-135m-instruct"
CONCURRENT: Final = (1, 4, 8)
_STREAMS_EACH: Final = {1: 4, 4: 2, 8: 2}  # answers each connection asks for, one after the other
_QUESTIONS: Final = (
    "Tell me about the sea.",
    "Describe a mountain village.",
    "What makes bread rise?",
    "Explain how rain forms.",
    "Write about a long train journey.",
    "What do bees do all day?",
    "Describe an old library.",
    "How is paper made?",
)
_WORDS: Final = "the officer keeps every record in order and answers each question with care and in plain words . "


@dataclass(frozen=True)
class Installation:
    """What a started Daulat says of itself, and where its engine listens."""

    url: str
    key: str
    engine: Path


@contextmanager
def started() -> Iterator[Installation]:
    """`daulat up` in a fresh home; the model is kept for the next time."""
    folder, kept = WORK / "engine-home", WORK / "engine-models"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    if kept.exists():
        kept.rename(folder / "models")
    command = [sys.executable, "-m", "daulat", "up", "--home", str(folder), "--port", str(PORT)]
    command += ["--slots", str(SLOTS), "--json"]
    with (WORK / "engine-up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=ROOT)
    try:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise RuntimeError(f"Daulat did not start; see {WORK}/engine-up.log and {folder}/daulat.log")
        said = json.loads(line)
        (engine,) = Home(folder).run.glob("engine-*/e.sock")
        yield Installation(said["url"], said["api_key"], engine)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        if (folder / "models").exists():
            (folder / "models").rename(kept)


def _files(name: str, key: str, bodies: Sequence[bytes]) -> list[Path]:
    return [load.request_file(f"engine-{name}-{number}", body, key) for number, body in enumerate(bodies)]


def _bodies(system: str, tokens: int) -> list[bytes]:
    return [
        json.dumps(
            {
                "model": MODEL,
                "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}],
                "stream": True,
                "temperature": 0,
                "max_tokens": tokens,
                "ignore_eos": True,
            }
        ).encode()
        for question in _QUESTIONS
    ]


def _ask(installation: Installation, way: str, bodies: Sequence[bytes], connections: int, total: int) -> dict[str, Any]:
    raw = way == "raw"
    files = _files(way, "" if raw else installation.key, bodies)
    to: str | int = str(installation.engine) if raw else PORT
    found = load.streams(to, files, core=None, connections=connections, total=total, seconds=300)
    if found["errors"] or found["completed"] != total:
        raise RuntimeError(f"{way}: {found['errors']} errors, {found['completed']} of {total} completed")
    return found


def _ways(number: int) -> tuple[str, str]:
    return ("raw", "through") if number % 2 == 0 else ("through", "raw")


def throughput(installation: Installation, rounds: int, tokens: int) -> list[dict[str, Any]]:
    """Tokens a second with 1, 4 and 8 concurrent streams; each stream makes exactly `tokens` tokens."""
    bodies = _bodies("You are a helpful assistant.", tokens)
    _ask(installation, "raw", bodies, SLOTS, SLOTS)  # warm
    _ask(installation, "through", bodies, SLOTS, SLOTS)
    results = []
    for connections in CONCURRENT:
        total = connections * _STREAMS_EACH[connections]
        seen: dict[str, list[float]] = {"raw": [], "through": []}
        for number in range(rounds):
            for way in _ways(number):
                with host.Window({}) as window:
                    found = _ask(installation, way, bodies, connections, total)
                seen[way].append(total * tokens / found["wall_us"] * 1e6)
                first, load_ = found["ttft_us"]["p50"] / 1000, window.result["load_average"]
                rate = f"{seen[way][-1]:7.1f} tokens/s"
                print(
                    f"{connections} streams {way:<8} {rate}, first after {first:.0f} ms, load {load_}",
                    file=sys.stderr,
                    flush=True,
                )
        middle = {way: round(statistics.median(values), 2) for way, values in seen.items()}
        results.append({"streams": connections, **middle, "all": seen})
    return results


def prefix(installation: Installation, rounds: int, *, warm: bool) -> dict[str, Any]:
    """Eight at once with one system prompt of about 900 tokens: milliseconds to first token.

    `warm`: one request has had that prompt shortly before; otherwise nothing has seen it.
    """
    seen: dict[str, list[dict[str, float]]] = {"raw": [], "through": []}
    for number in range(rounds):
        for way in _ways(number):
            bodies = _bodies(f"Case {secrets.token_hex(8)}. " + _WORDS * 50, 16)
            if warm:
                _ask(installation, way, bodies[-1:], 1, 1)
                bodies = bodies[:-1]
            found = _ask(installation, way, bodies, SLOTS, SLOTS)["ttft_us"]
            seen[way].append({"p50_ms": found["p50"] / 1000, "max_ms": found["max"] / 1000})
            print(f"prefix, {'warm' if warm else 'cold'} {way:<8} {seen[way][-1]}", file=sys.stderr, flush=True)
    return {
        way: {at: round(statistics.median(each[at] for each in values), 1) for at in ("p50_ms", "max_ms")}
        | {"all": values}
        for way, values in seen.items()
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="benchmarks.engine", description="The real engine, raw and through Daulat.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--prefix-rounds", type=int, default=2)
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    with started() as installation:
        result = {
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "model": MODEL,
            "slots": SLOTS,
            "tokens": arguments.tokens,
            "throughput": throughput(installation, arguments.rounds, arguments.tokens),
            "prefix_cold": prefix(installation, arguments.prefix_rounds, warm=False),
            "prefix_warm": prefix(installation, arguments.prefix_rounds, warm=True),
        }
    (RESULTS / "engine.json").write_text(json.dumps(result, indent=1) + "\n")
    if (RESULTS / "stub.json").exists():
        report.write(RESULTS)
    print(report.engine_results(RESULTS / "engine.json")[0])


if __name__ == "__main__":
    main()

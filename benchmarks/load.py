"""Load: `wrk` for JSON, our own `streams` for what wrk does not measure. Both on the load's core."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.environments import WORK, program
from benchmarks.host import LOAD_CORE
from benchmarks.servers import Server

REQUEST_BYTES: Final = 2300
CONNECTIONS: Final = 256

_SCRIPT: Final = """
wrk.method = "POST"
wrk.body = [==[{body}]==]
wrk.headers["Content-Type"] = "application/json"
{authorization}
done = function(summary, latency)
  local bad = summary.errors
  io.write(string.format('\\nRESULT {{"requests":%d,"duration_us":%d,"not_200":%d,"socket_errors":%d,' ..
    '"p50_us":%d,"p99_us":%d}}\\n', summary.requests, summary.duration, bad.status,
    bad.connect + bad.read + bad.write + bad.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


def chat(*, stream: bool, size: int = REQUEST_BYTES, **fields: Any) -> bytes:
    """A chat completion request of `size` bytes."""
    body: dict[str, Any] = {
        "model": "stub",
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": "What is the capital of Malaysia? Answer in one word, please."},
        ],
        "temperature": 0.7,
        "max_tokens": 100,
        "user": "u1",
        **({"stream": True} if stream else {}),
        **fields,
    }
    missing = size - len(json.dumps(body, separators=(",", ":")))
    body["messages"][0]["content"] = "You are terse. " * (max(0, missing) // 15) + "x" * (max(0, missing) % 15)
    return json.dumps(body, separators=(",", ":")).encode()


def wrk(
    server: Server,
    seconds: float,
    *,
    connections: int = CONNECTIONS,
    cores: Sequence[int] = (LOAD_CORE,),
    threads: int = 1,
) -> dict[str, Any]:
    """Closed loop, the same request again and again on each connection."""
    script = WORK / f"{server.name}.lua"
    authorization = f'wrk.headers["Authorization"] = "Bearer {server.key}"' if server.key else ""
    script.write_text(_SCRIPT.format(body=chat(stream=False).decode(), authorization=authorization))
    command = ["taskset", "-c", ",".join(map(str, cores)), "wrk", f"-t{threads}", f"-c{connections}"]
    command += [f"-d{seconds:g}s", "--timeout", "20s", "-s", str(script)]
    command += [f"http://127.0.0.1:{server.port}/v1/chat/completions"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(output.partition("\nRESULT ")[2].partition("\n")[0])
    found["per_second"] = round(found["requests"] / found["duration_us"] * 1e6, 1)
    return found


def request_file(name: str, body: bytes, key: str) -> Path:
    """One whole HTTP request in a file, for `streams`."""
    path = WORK / f"{name}.http"
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{authorization}"
    path.write_bytes(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return path


def streams(
    to: str | int,
    requests: Sequence[Path],
    *,
    core: int | None = LOAD_CORE,
    keys: Path | None = None,
    **options: int,
) -> dict[str, Any]:
    """Our load generator; its options and its answer are described in native/streams.c."""
    command = [] if core is None else ["taskset", "-c", str(core)]
    command += [str(program("streams")), f"to={to}", f"request={','.join(map(str, requests))}"]
    command += [f"keys={keys}"] if keys is not None else []
    command += [f"{name}={value}" for name, value in options.items()]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def to_the_last(
    server: Server, seconds: float, *, connections: int = CONNECTIONS, keys: Path | None = None, turn: bool = False
) -> dict[str, Any]:
    """What `wrk` does, with our own generator: time is counted until all that was asked is answered.

    `keys`: a file of API keys: one for each connection, or (`turn`) for each request the next.
    """
    request = request_file(f"json-{server.name}", chat(stream=False), server.key)
    whole = max(1, round(seconds))
    seen = streams(server.port, [request], keys=keys, turn=int(turn), connections=connections, seconds=whole)
    return {
        "requests": seen["completed"],
        "duration_us": seen["wall_us"],
        "not_200": seen["errors"],
        "socket_errors": seen["unfinished"],
        "p50_us": seen["whole_us"].get("p50", 0),
        "p99_us": seen["whole_us"].get("p99", 0),
        "per_second": round(seen["completed"] / seen["wall_us"] * 1e6, 1),
    }

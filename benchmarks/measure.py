"""The measurements against the stub. Each yields rows: what the load saw, and what every process used meanwhile."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import host, load, servers
from benchmarks.host import LOAD_CORE, PROXY_CORE
from benchmarks.servers import Server

Row = dict[str, Any]
NOISY: Final = 0.25  # cores used by others during a measurement beyond which it is made again
STEADY: Final = 0.9  # pace of the proxy's core (`host.Pace`) below which it is made again
ATTEMPTS: Final = 3
CONCURRENT: Final = (256, 64)  # closed loops of JSON requests
STREAMS: Final = 256
CHUNKS, PERIOD_MS = 100, 5
_SLOW: Final = {"litellm": 20.0}
"""Seconds that a closed loop of these takes at least, and then until everything is answered. LiteLLM answers all open
requests in one go, more than a second after they came: of 20 s an unfinished batch of 256 would be a seventh."""
_SETTLED: Final = 0.03  # cores
_PATIENCE: Final = 20.0  # seconds that are waited at most, for calm before a measurement, and for rest behind it
TENANTS: Final = 10_000
_PACE: Final = host.Pace(PROXY_CORE)


class _Budget:
    """Seconds that may be spent yet."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    @contextmanager
    def spending(self) -> Iterator[None]:
        """What is done inside is paid out of it; below 0, if need be."""
        began = time.monotonic()
        yield
        self.left -= time.monotonic() - began


CALM: Final = _Budget(600.0)
"""What a whole run spends on calm, and on measuring once more; then it takes what comes."""


@dataclass(frozen=True)
class Contestant:
    """A server and where its processes are put: `cores` by role, everything else on the proxy's core."""

    name: str
    server: Server
    cores: Mapping[str, Sequence[int]]
    keys: Path | None = None  # API keys that are used, where it is more than the server's own
    turn: bool = False  # each request has the next of them; else each connection one of its own
    json_only: bool = False

    def json(self, seconds: float, connections: int) -> Row:
        """A closed loop of JSON requests."""
        slow = _SLOW.get(self.name, 0.0)
        if self.keys is None and not slow:
            return load.wrk(self.server, seconds, connections=connections)
        seconds = max(seconds, slow)
        return load.to_the_last(self.server, seconds, connections=connections, keys=self.keys, turn=self.turn)

    def asked(self, port: int, body: bytes, **options: int) -> Row:
        """A port of its server asked by our load generator, as `options` say."""
        request = load.request_file(self.name, body, self.server.key)
        return load.streams(port, [request], keys=self.keys, turn=int(self.turn), **options)


PEERS: Final = ("nginx", "nginx-tcp", "vllm-router", "vllm-router-rr", "litellm")
_JSON_ONLY: Final = ("nginx-tcp", "litellm")
# "daulat": all of its processes share the proxy's one core. "daulat-split": only the worker is there, as a second core
# of a real machine would have it; sequencer, pages and control share the other core with the stub and the load.
_SPLIT: Final = {"sequencer": (LOAD_CORE,), "pages": (LOAD_CORE,), "control": (LOAD_CORE,), "helper": (LOAD_CORE,)}


def contestants(stack: ExitStack, peers: Sequence[str], tenants: int) -> list[Contestant]:
    """Start the stub, Daulat and `peers`; all run until the stack ends, idle while they are not measured.

    `tenants`: how many a second Daulat has, with everything that is asked of the hot path in force (`serve.py`).
    """
    engine = stack.enter_context(servers.stub(CHUNKS, PERIOD_MS))
    found = [Contestant("direct", engine, {"engine": (LOAD_CORE,)})]
    start: dict[str, Callable[[], Any]] = {
        "nginx": servers.nginx,
        "nginx-tcp": lambda: servers.nginx(18350, tcp=True),
        "vllm-router": servers.vllm_router,
        "vllm-router-rr": lambda: servers.vllm_router("round_robin", 18450),
        "litellm": servers.litellm,
    }
    for name in peers:
        print(f"Starting {name} ...", file=sys.stderr, flush=True)
        found.append(Contestant(name, stack.enter_context(start[name]()), {}, json_only=name in _JSON_ONLY))
    print("Starting daulat ...", file=sys.stderr, flush=True)
    ours = stack.enter_context(servers.daulat())
    found += [Contestant("daulat", ours, {}), Contestant("daulat-split", ours, _SPLIT)]
    over_tcp = stack.enter_context(servers.daulat(port=18800, tcp=True))
    found.append(Contestant("daulat-tcp-split", over_tcp, _SPLIT, json_only=True))
    if tenants:
        print(f"Starting daulat with {tenants} tenants ...", file=sys.stderr, flush=True)
        many = stack.enter_context(servers.daulat(port=18700, tenants=tenants))
        keys, name = servers.home_of(tenants=tenants) / "keys.txt", f"daulat-{tenants}"
        for kind, turn in (("", True), ("-kept", False)):
            found.append(Contestant(name + kind, many, {}, keys, turn, json_only=not turn))
            found.append(Contestant(f"{name}{kind}-split", many, _SPLIT, keys, turn, json_only=not turn))
        use_each(many, keys)
    return found


def use_each(server: Server, keys: Path) -> None:
    """Use all keys, each run from the first on. A key's decision and principal are made at its first use, and what it
    may use in a minute is lent at its first use in that."""
    every, seconds = len(keys.read_text().split()), 2.0
    while load.to_the_last(server, seconds, connections=64, keys=keys, turn=True)["requests"] < every:
        seconds *= 2


def settle(server: Server) -> None:
    """Wait until the server has done what it does after its answers; Daulat integrates its log for a moment."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        before = host.cpu_seconds(server.processes)
        time.sleep(0.6)
        if host.cpu_seconds(server.processes) - before < _SETTLED:
            return


@contextmanager
def _window(contestant: Contestant, engine: Server) -> Iterator[host.Window]:
    contestant.server.place(contestant.cores, (PROXY_CORE,))
    groups = dict(contestant.server.roles)
    groups.setdefault("engine", engine.processes)
    with host.Window(groups) as window:
        yield window
        settle(contestant.server)


def measured(
    suite: str, contestant: Contestant, engine: Server, round_: int, run: Callable[[], Row], *, attempts: int = ATTEMPTS
) -> Row:
    """One measurement, begun in calm and repeated while others disturb it; the least disturbed counts."""
    best: Row = {}
    for attempt in range(1, attempts + 1):
        with CALM.spending():
            _PACE.wait(STEADY, min(_PATIENCE, CALM.left))
        with ExitStack() as stack:
            if attempt > 1:
                stack.enter_context(CALM.spending())
            window, pace = stack.enter_context(_window(contestant, engine)), stack.enter_context(_PACE.watched())
            seen = run()
        row = {"suite": suite, "server": contestant.name, "round": round_, "attempt": attempt}
        row |= {"load": seen, "window": {**window.result, "pace": round(pace(), 3)}}
        if contestant.name != "litellm" and not (seen.get("requests") or seen.get("completed")):
            raise RuntimeError(f"{contestant.name} answered nothing: {seen}")
        if not best or _disturbed(row) < _disturbed(best):
            best = row
        if _disturbed(best) <= 1 or CALM.left <= 0:
            break
    _say(best)
    return best


def _disturbed(row: Row) -> float:
    """How much others were heard in it; above 1: too much."""
    window = row["window"]
    return float(max(window["other_cores"] / NOISY, (1 - window["pace"]) / (1 - STEADY)))


def _say(row: Row) -> None:
    seen, window = row["load"], row["window"]
    done = seen.get("requests") or seen.get("events") or seen.get("completed") or 1
    each = {name: round(value / done * 1e6, 1) for name, value in window["cpu_seconds"].items() if value}
    rate = seen.get("per_second") or round(done / seen["wall_us"] * 1e6)
    first = f"ttft p50 {seen['ttft_us'].get('p50')} p99 {seen['ttft_us'].get('p99')} us" if "ttft_us" in seen else ""
    calm = f"others {window['other_cores']} pace {window['pace']}"
    print(
        f"{row['suite']:<8} {row['server']:<15} {rate:>9}/s  us each {each} {first} {calm}",
        file=sys.stderr,
        flush=True,
    )


def _rounds(rounds: int, all_of_them: Sequence[Contestant]) -> Iterator[tuple[int, Contestant]]:
    """Alternate, beginning each round with another: slow drift of the machine then meets all alike."""
    for number in range(rounds):
        shift = number % len(all_of_them)
        for contestant in [*all_of_them[shift:], *all_of_them[:shift]]:
            yield number, contestant


def json_requests(all_of_them: Sequence[Contestant], rounds: int, seconds: float, connections: int) -> list[Row]:
    """Closed loop of 2.3 KB JSON requests with 1.1 KB answers: requests a second, CPU a request."""
    engine, rows = all_of_them[0].server, []
    for contestant in all_of_them:
        contestant.json(1, connections)
    for number, one in _rounds(rounds, all_of_them):
        if one.keys is not None:
            use_each(one.server, one.keys)

        def run(one: Contestant = one) -> Row:
            return one.json(seconds, connections)

        rows.append(measured(f"json-{connections}", one, engine, number, run))
    return rows


def paced_streams(all_of_them: Sequence[Contestant], rounds: int, seconds: float) -> list[Row]:
    """256 concurrent event streams, a chunk each 5 ms: time to first token, CPU a chunk."""
    engine, rows = all_of_them[0].server, []
    options = {
        "connections": STREAMS,
        "stagger_us": CHUNKS * PERIOD_MS * 1000 // STREAMS,
        "seconds": max(1, round(seconds)),
    }
    for number, one in _rounds(rounds, [each for each in all_of_them if not each.json_only]):

        def run(one: Contestant = one) -> Row:
            return one.asked(one.server.stream_port, load.chat(stream=True), **options)

        rows.append(measured("streams", one, engine, number, run))
    return rows


def open_loop(all_of_them: Sequence[Contestant], rounds: int, seconds: float, rate: int = 1000) -> list[Row]:
    """Random arrivals, 1,000 requests a second, against an instant engine: added latency."""
    engine, rows = all_of_them[0].server, []
    options = {"connections": 32, "rate": rate, "seconds": max(1, round(seconds))}
    for number, one in _rounds(rounds, [each for each in all_of_them if not each.json_only]):

        def run(one: Contestant = one) -> Row:
            return one.asked(one.server.port, load.chat(stream=False), **options)

        rows.append(measured("open", one, engine, number, run))
    return rows


def memory(ours: Contestant, requests: int = 200_000) -> list[Row]:
    """Resident memory of a worker while it answers that many requests, after some that load what is loaded once."""
    server = ours.server
    server.place(ours.cores, (PROXY_CORE,))
    load.wrk(server, 2)
    rows, done = [], 0
    worker = server.roles["worker"][0]
    while True:
        rss = {role: round(sum(map(host.rss_mib, pids)), 2) for role, pids in server.roles.items()}
        rows.append({"suite": "memory", "requests": done, "rss_mib": rss})
        print(f"memory   after {done:>7} requests  worker {host.rss_mib(worker):.1f} MiB", file=sys.stderr, flush=True)
        if done >= requests:
            return rows
        done += int(load.wrk(server, 2)["requests"])


def scaling(rounds: int, seconds: float) -> list[Row]:
    """One worker and two on both cores, nothing pinned; stub and load need their share of the same two cores."""
    both, rows = (LOAD_CORE, PROXY_CORE), []
    with ExitStack() as stack:
        engine = stack.enter_context(servers.stub(port=servers.STUB_PORT))
        every = []
        for workers in (1, 2):
            server = stack.enter_context(servers.daulat(workers, 18600 + workers))
            every.append(Contestant(f"daulat-{workers}", replace(server, name=f"daulat-{workers}"), {}))
        for each in (engine, *(one.server for one in every)):
            each.place({}, both)
        for number, one in _rounds(rounds, every):
            groups = {**one.server.roles, "engine": engine.processes}
            with host.Window(groups) as window, _PACE.watched() as pace:
                seen = load.wrk(one.server, seconds, cores=both, threads=2)
                settle(one.server)
            row = {"suite": "scaling", "server": one.name, "round": number, "load": seen}
            rows.append({**row, "window": {**window.result, "pace": round(pace(), 3)}})
            _say(rows[-1])
    return rows


def median(rows: Sequence[Row], value: Callable[[Row], float | None]) -> float | None:
    """The median of what `value` finds in the rows."""
    found = [each for each in map(value, rows) if each is not None]
    return statistics.median(found) if found else None

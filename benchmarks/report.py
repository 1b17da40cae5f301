"""The table a reader wants: medians, ratios and targets, from results/*.json."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.environments import HERE, environment
from benchmarks.measure import CONCURRENT, Row, median

_OURS: Final = "daulat"  # what the names of ours begin with
_MOST_FOR_TENANTS: Final = 1.1
_LIMITED: Final = ", whose people an OpenID provider has proven, with limits of key, tenant and model"
# The targets' 60 us a request and 16 us a chunk were set where nginx took 14 a request: that much of it is left of them
# on another machine.
_MOST_OF_NGINX: Final = 60 / 14
_MOST_A_CHUNK: Final = 16 / 14


def nginx_version() -> str:
    """As nginx says it."""
    words = subprocess.run(["nginx", "-v"], check=False, capture_output=True, text=True).stderr
    return words.partition("nginx/")[2].strip()


def _by_server(rows: Sequence[Row], suite: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["suite"] == suite:
            found.setdefault(row["server"], []).append(row)
    return found


def _cpu(unit: str, *roles: str) -> Callable[[Row], float | None]:
    """CPU microseconds of these roles (of all but the engine, without any named) for each `unit` done."""

    def value(row: Row) -> float | None:
        used = row["window"]["cpu_seconds"]
        chosen = [seconds for role, seconds in used.items() if (role in roles if roles else role != "engine")]
        return sum(chosen) / row["load"][unit] * 1e6 if chosen and row["load"][unit] else None

    return value


def _path(*names: str, scale: float = 1.0) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        found: Any = row["load"]
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return None if found is None else found * scale

    return value


def _show(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def _calm(found: Sequence[Row]) -> tuple[str, str]:
    """How much others were heard: the cores that they used, and the pace of ours."""
    return (
        _show(median(found, lambda row: row["window"]["other_cores"]), 2),
        _show(median(found, lambda row: row["window"].get("pace")), 2),
    )


def _json(rows: Sequence[Row], connections: int) -> tuple[str, list[tuple[str, str, bool]]]:
    servers = _by_server(rows, f"json-{connections}")
    if not servers:
        return "", []
    rate = {name: median(found, _path("per_second")) or 0.0 for name, found in servers.items()}
    lines = [
        [
            name,
            _show(rate[name], 0),
            *(
                _show(rate[name] / rate[peer], 2) if rate.get(peer) else ""
                for peer in ("nginx", "vllm-router", "litellm")
            ),
            _show(median(found, _cpu("requests"))),
            _show(median(found, _cpu("requests", "worker"))) if name.startswith(_OURS) else "",
            _show(median(found, _cpu("requests", "sequencer"))) if name.startswith(_OURS) else "",
            _show(median(found, _path("p50_us", scale=1e-3)), 2),
            _show(median(found, _path("p99_us", scale=1e-3)), 2),
            *_calm(found),
            str(sum(row["load"]["not_200"] + row["load"]["socket_errors"] for row in found)),
        ]
        for name, found in servers.items()
    ]
    head = ["", "requests/s", "of nginx", "of vllm-router", "of LiteLLM", "CPU us/request", "worker", "sequencer"]
    text = _table([*head, "p50 ms", "p99 ms", "others' cores", "pace", "errors"], lines)
    targets = []
    for name in filter(lambda name: name.startswith(_OURS), servers):
        bare = "nginx-tcp" if "-tcp" in name else "nginx"
        for peer, least in ((bare, 0.25), ("vllm-router", 1.6), ("litellm", 150.0)):
            if rate.get(peer):
                ratio = rate[name] / rate[peer]
                words = f"{name}, {connections} connections: requests/s, at least {least:g} of {peer}"
                targets.append((words, f"{ratio:.3f}", ratio >= least))
        used = median(servers[name], _cpu("requests", "worker")) or 0.0
        words = f"{name}, {connections} connections: worker's CPU a request, at most 60 us"
        targets.append((words, f"{used:.1f} us", used <= 60))
        if theirs := median(servers.get(bare, ()), _cpu("requests")):
            words = f"{name}, {connections} connections: worker's CPU, at most {_MOST_OF_NGINX:.1f} of {bare}'s"
            targets.append((words, f"{used / theirs:.2f}", used / theirs <= _MOST_OF_NGINX))
    return text, targets


def _latency(rows: Sequence[Row], suite: str) -> tuple[str, list[tuple[str, str, bool]]]:
    servers = _by_server(rows, suite)
    if "direct" not in servers:
        return "", []
    unit = "events" if suite == "streams" else "completed"
    base = {at: median(servers["direct"], _path("ttft_us", at)) or 0.0 for at in ("p50", "p99")}
    lines, targets = [], []
    for name, found in servers.items():
        seen = {at: median(found, _path("ttft_us", at)) or 0.0 for at in ("p50", "p99")}
        added = {at: (seen[at] - base[at]) / 1000 for at in seen}
        worker = median(found, _cpu(unit, "worker")) if name.startswith(_OURS) else None
        lines.append(
            [
                name,
                _show(median(found, lambda row: row["load"][unit] / row["load"]["wall_us"] * 1e6), 0),
                _show(seen["p50"] / 1000, 2),
                _show(seen["p99"] / 1000, 2),
                "" if name == "direct" else _show(added["p50"], 2),
                "" if name == "direct" else _show(added["p99"], 2),
                "" if name == "direct" else _show(median(found, _cpu(unit))),
                _show(worker),
                _show(median(found, _path("gap_us", "p99", scale=1e-3)), 2) if suite == "streams" else "",
                *_calm(found),
                str(sum(row["load"]["errors"] + row["load"]["unfinished"] + row["load"]["not_sent"] for row in found)),
            ]
        )
        if name.startswith(_OURS) and suite == "streams":
            targets.append(
                (f"{name}: worker's CPU a chunk, at most 16 us", f"{worker or 0:.1f} us", (worker or 0) <= 16)
            )
            if theirs := median(_by_server(rows, f"json-{CONCURRENT[-1]}").get("nginx", ()), _cpu("requests")):
                share = (worker or 0) / theirs
                words = f"{name}: worker's CPU a chunk, at most {_MOST_A_CHUNK:.2f} of nginx's a JSON request"
                targets.append((words, f"{share:.2f}", share <= _MOST_A_CHUNK))
            targets.append(
                (f"{name}: added to median TTFT, at most 2.5 ms", f"{added['p50']:.2f} ms", added["p50"] <= 2.5)
            )
        elif name.startswith(_OURS):
            targets.append((f"{name}: added median, at most 1 ms", f"{added['p50']:.2f} ms", added["p50"] <= 1))
            targets.append((f"{name}: added p99, at most 3 ms", f"{added['p99']:.2f} ms", added["p99"] <= 3))
    what = ("chunks/s", "TTFT") if suite == "streams" else ("requests/s", "latency")
    head = ["", what[0], f"{what[1]} p50 ms", "p99 ms", "added p50", "added p99", f"CPU us/{what[0][:-3]}", "worker"]
    return _table(
        [*head, "p99 gap ms" if suite == "streams" else "", "others' cores", "pace", "errors"], lines
    ), targets


def _memory(rows: Sequence[Row]) -> tuple[str, list[tuple[str, str, bool]]]:
    found = [row for row in rows if row["suite"] == "memory"]
    if not found:
        return "", []
    lines = [[f"{row['requests']:,}", *(f"{value:.1f}" for value in row["rss_mib"].values())] for row in found]
    end, warm = found[-1], found[min(1, len(found) - 1)]
    grown = end["rss_mib"]["worker"] - warm["rss_mib"]["worker"]
    worker = end["rss_mib"]["worker"]
    targets = [
        (f"worker's memory after {end['requests']:,} requests, at most 70 MiB", f"{worker:.1f} MiB", worker <= 70),
        ("... grown since the first of these rows (flat: under 1 MiB)", f"{grown:+.2f} MiB", grown < 1),
    ]
    return _table(["requests", *(f"{role} MiB" for role in found[0]["rss_mib"])], lines), targets


def _scaling(rows: Sequence[Row]) -> tuple[str, list[tuple[str, str, bool]]]:
    servers = _by_server(rows, "scaling")
    lines = [
        [
            name,
            _show(median(found, _path("per_second")), 0),
            _show(median(found, _cpu("requests"))),
            _show(median(found, _cpu("requests", "worker"))),
            *_calm(found),
        ]
        for name, found in servers.items()
    ]
    return (
        (_table(["", "requests/s", "CPU us/request", "workers", "others' cores", "pace"], lines), [])
        if lines
        else ("", [])
    )


def engine_results(path: Path) -> tuple[str, list[tuple[str, str, bool]]]:
    if not path.exists():
        return "", []
    result = json.loads(path.read_text())
    lines, targets = [], []
    for each in result["throughput"]:
        pairs = [through / raw for raw, through in zip(each["all"]["raw"], each["all"]["through"], strict=True)]
        share, spread = statistics.median(pairs), f"{min(pairs):.3f} to {max(pairs):.3f}"
        lines.append([str(each["streams"]), f"{each['raw']:.1f}", f"{each['through']:.1f}", f"{share:.3f}", spread])
        name = f"real engine, {each['streams']} stream(s): tokens/s, at least 0.97 of raw"
        targets.append((name, f"{share:.3f}", share >= 0.97))
    text = _table(["streams", "raw tokens/s", "through Daulat", "ratio", "of each round"], lines)
    what = {"prefix_cold": "that nothing has seen before", "prefix_warm": "that one request has had before"}
    for name, words in what.items():
        text += (
            f"\n\nEight requests at once with one system prompt of some 900 tokens {words}; time to first token:\n\n"
        )
        found = [[way, f"{each['p50_ms']:,.0f}", f"{each['max_ms']:,.0f}"] for way, each in result[name].items()]
        text += _table(["", "median ms", "slowest ms"], found)
    return text, targets


def audit_results(path: Path) -> tuple[str, list[tuple[str, str, bool]]]:
    if not path.exists():
        return "", []
    result = json.loads(path.read_text())
    names = {"base": "all but re-running decisions", "full": "decisions run again too"}
    rate, rows = result["entries_a_user_second"], result["rows"]
    memory = {name: statistics.median(row["peak_mib"] for row in rows[name]) for name in (*names, "small")}
    lines = [[words, f"{rate[name]:,.0f}", f"{memory[name]:.0f}"] for name, words in names.items()]
    entries, quarter = rows["base"][0]["entries"], rows["small"][0]["entries"]
    text = f"{entries:,} entries of {result['callers']:,} callers, over HTTP on loopback.\n\n"
    text += _table(["", "entries a second of user CPU", "peak MiB"], lines)
    text += f"\n\nWith {quarter:,} entries the peak is {memory['small']:.0f} MiB."
    target = f"audit: entries a second of one core, at least {result['target']:,}"
    return text, [(target, f"{rate['base']:,.0f}", result["met"])]


def tenants_results(path: Path) -> tuple[str, list[tuple[str, str, bool]]]:
    if not path.exists():
        return "", []
    result = json.loads(path.read_text())
    found, many = result["summary"], f"{result['tenants']:,} tenants{_LIMITED}"
    ways = (
        "1 tenant, no limit",
        f"{many}; each connection has one's key",
        f"{many}; each request has the next one's key",
    )
    lines, targets = [], []
    for (name, rate), words in zip(found["requests_per_second"].items(), ways, strict=True):
        line = [words, _show(rate, 0), *(_show(found[what][name]) for what in ("worker_cpu_us", "worker_mib"))]
        if ratios := found["worker_cpu_us_ratios"].get(name):
            ratio = statistics.median(ratios)
            line += [f"{ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"]
            line += [f"{statistics.median(found['requests_per_second_ratios'][name]):.3f}"]
            target = f"worker's CPU a request with {words}, at most {_MOST_FOR_TENANTS:g} of that with 1"
            targets.append((target, f"{ratio:.3f}", ratio <= _MOST_FOR_TENANTS))
        lines.append([*line, *("" for _ in range(6 - len(line)))])
    text = f"JSON requests, {result['connections']} connections, {result['rounds']} alternated rounds of "
    text += f"{result['seconds']:g} s in one run, {result['date']}. {result['note']}\n\n"
    head = [
        "",
        "requests/s",
        "worker's CPU us/request",
        "worker MiB",
        "CPU, of 1 tenant's",
        "requests/s, of 1 tenant's",
    ]
    text += _table(head, lines)
    first = found["first_worker_cpu_us"]
    text += "\n\nA key's first request costs more, as its principal and its decision are made then: "
    text += "the first answers after a start took " + " and ".join(map(_show, first.values()))
    return f"{text} us of the worker's CPU each.", targets


def write(folder: Path) -> str:
    """Write results.md and plot.svg beside the JSON files; the text of the table."""
    text = tables(folder)
    python = environment("plot") / "python"
    subprocess.run([python, HERE / "plot.py", folder / "stub.json", folder / "plot.svg"], check=True)
    return text


def tables(folder: Path) -> str:
    """Write results.md alone."""
    result = json.loads((folder / "stub.json").read_text())
    rows, parts, targets = result["rows"], [], []
    sections = {
        **{f"JSON requests, {number} connections": _json(rows, number) for number in CONCURRENT},
        "256 streams, a chunk each 5 ms": _latency(rows, "streams"),
        "1,000 random arrivals a second": _latency(rows, "open"),
        "Memory": _memory(rows),
        "Workers on two cores, nothing pinned": _scaling(rows),
        "The real engine, raw and through Daulat": engine_results(folder / "engine.json"),
        "Ten thousand tenants": tenants_results(folder / "tenants.json"),
        "Auditing a log": audit_results(folder / "audit.json"),
    }
    for title, (text, found) in sections.items():
        if text:
            parts.append(f"## {title}\n\n{text}")
            targets += found
    machine, versions = result["machine"], result["versions"]
    about = (
        f"{result['date']}; {machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, Linux "
        f"{machine['kernel']}, Python {machine['python']}, fdatasync {machine['fdatasync_us']} us; "
        + ", ".join(f"{name} {value}" for name, value in versions.items())
        + f". Medians of {result['rounds']} alternated rounds of {result['seconds']:g} s. Method: ../README.md"
    )
    lines = [[what, value, "yes" if met else "**no**"] for what, value, met in targets]
    text = "\n\n".join(["# Results", about, "## Targets\n\n" + _table(["target", "measured", "met"], lines), *parts])
    (folder / "results.md").write_text(text + "\n")
    return text

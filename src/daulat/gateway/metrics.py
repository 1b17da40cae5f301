"""Counters and histograms of one worker, and their Prometheus text over all workers.

A worker counts in plain memory and writes a snapshot of it to a file about once a second; the pages process reads the
files of all workers and adds them up. Names follow OpenTelemetry's `gen_ai.*` where it has one.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from daulat.pipeline.usage import Usage

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
HELP: Final[Mapping[str, tuple[str, str]]] = {
    "daulat_requests_total": ("counter", "Authenticated requests by action, status and outcome."),
    "daulat_refusals_total": (
        "counter",
        "Requests without an entry: nobody was known, or the wire refused what was no question.",
    ),
    "gen_ai_client_token_usage_total": ("counter", "Tokens by type, as the log counts them."),
    "gen_ai_server_time_to_first_token_seconds": ("histogram", "From the whole request to the answer's first byte."),
    "gen_ai_server_request_duration_seconds": ("histogram", "From the whole request to the answer's end."),
    "daulat_requests_in_flight": ("gauge", "Requests being answered."),
    "daulat_replica_requests_in_flight": ("gauge", "Requests that a replica is answering, or is to answer."),
    "daulat_connections": ("gauge", "Open client connections."),
    "daulat_journal_commits_total": ("counter", "Group commits of the journals."),
    "daulat_requests_waiting": ("gauge", "Requests that wait for their turn, because every place is taken."),
    "daulat_limit_refusals_total": ("counter", "Requests refused because of a limit, by whose and of what."),
    "daulat_quota_exchanges_total": ("counter", "Exchanges of workers with the control plane about quotas."),
    "daulat_snapshot_number": ("gauge", "The control plane's snapshot that the workers act on (the lowest)."),
    "daulat_break_glass_total": ("counter", "How often one operator broke the glass."),
    "daulat_break_glass_open": ("gauge", "How many of these wait for their review."),
    "daulat_break_glass_overdue": ("gauge", "How many of these have waited for longer than the charter allows."),
    "daulat_operators_valid": ("gauge", "How many operators may sign now."),
    "daulat_operators_valid_in_60_days": ("gauge", "How many of these still may in 60 days, if nobody is renewed."),
    "daulat_operators_needed": ("gauge", "How many operators it takes to agree: with fewer, nobody can be renewed."),
}
REPLICA_LOAD: Final = "daulat_replica_requests_in_flight"
_LOWEST: Final = frozenset({"daulat_snapshot_number"})


class _Histogram:
    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)  # the last: beyond them
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.total += seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1


class Metrics:
    """One worker's (`pipeline.service.Meter`)."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int, str], int] = {}
        self._refusals: Counter[str] = Counter()
        self._input = self._cached = self._output = 0
        self._whole = _Histogram()  # of answers in one piece, whose first byte comes with their last
        self._first, self._last = _Histogram(), _Histogram()  # of streams
        self.gauges: dict[str, float] = {}
        self.loads: dict[str, int] = {}  # requests in flight by replica
        self.limits: dict[tuple[str, str], int] = {}  # refusals by scope and resource

    def finished(self, action: str, status: int, outcome: str, usage: Usage, started: float, first: float) -> None:
        """See `Meter.finished`."""
        key = (action, status, outcome)
        self._requests[key] = self._requests.get(key, 0) + 1  # a Counter's += asks twice, in Python
        self._input += usage.prompt_tokens
        self._cached += usage.cached_tokens
        self._output += usage.completion_tokens
        seconds = time.monotonic() - started
        if first:
            self._first.add(first - started)
            self._last.add(seconds)
        else:
            self._whole.add(seconds)

    def refused(self, reason: str) -> None:
        self._refusals[reason] += 1

    def samples(self) -> dict[str, dict[str, float]]:
        """Samples by metric: label text -> value. Histograms are cumulative, as Prometheus has them."""
        found: dict[str, dict[str, float]] = {
            "daulat_requests_total": {
                f'action="{action}",status="{status}",outcome="{outcome}"': count
                for (action, status, outcome), count in self._requests.items()
            },
            "daulat_refusals_total": {f'reason="{reason}"': count for reason, count in self._refusals.items()},
            "gen_ai_client_token_usage_total": {
                'gen_ai_token_type="input"': self._input,
                'gen_ai_token_type="cached"': self._cached,
                'gen_ai_token_type="output"': self._output,
            },
            "gen_ai_server_time_to_first_token_seconds": _cumulative(self._whole, self._first),
            "gen_ai_server_request_duration_seconds": _cumulative(self._whole, self._last),
        }
        found[REPLICA_LOAD] = {f'replica="{replica}"': count for replica, count in self.loads.items()}
        found["daulat_limit_refusals_total"] = {
            f'scope="{scope}",resource="{resource}"': count for (scope, resource), count in self.limits.items()
        }
        for name, value in self.gauges.items():
            found[name] = {"": value}
        return found

    def write(self, path: Path) -> None:
        """Replace the worker's file."""
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(json.dumps(self.samples()))
        beside.replace(path)


def _cumulative(*histograms: _Histogram) -> dict[str, float]:
    """Of what these counted together."""
    found: dict[str, float] = {}
    total = 0
    counts = zip(*(histogram.buckets for histogram in histograms), strict=True)
    for bound, each in zip((*(f"{bound:g}" for bound in BUCKETS), "+Inf"), counts, strict=True):
        total += sum(each)
        found[f'_bucket le="{bound}"'] = total
    found["_sum"], found["_count"] = sum(histogram.total for histogram in histograms), total
    return found


def merged(files: Iterable[Path]) -> dict[str, dict[str, float]]:
    """The sum over workers' files; what cannot be read (a worker is just starting) is left out."""
    total: dict[str, dict[str, float]] = {}
    for path in files:
        try:
            samples: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        for name, values in samples.items():
            into = total.setdefault(name, {})
            for labels, value in values.items():
                if name in _LOWEST:
                    into[labels] = min(into.get(labels, value), value)
                else:
                    into[labels] = into.get(labels, 0) + value
    return total


def render(samples: Mapping[str, Mapping[str, float]], known: Mapping[str, tuple[str, str]] = HELP) -> str:
    """Prometheus' text format, version 0.0.4. `known`: what each metric is, and its words."""
    lines: list[str] = []
    for name, values in sorted(samples.items()):
        kind, text = known.get(name, ("untyped", name))
        lines += (f"# HELP {name} {text}", f"# TYPE {name} {kind}")
        for labels, value in values.items():
            suffix, _, rest = labels.partition(" ") if labels.startswith("_") else ("", "", labels)
            lines.append(f"{name}{suffix}{{{rest}}} {value:.17g}" if rest else f"{name}{suffix} {value:.17g}")
    return "\n".join(lines) + "\n"

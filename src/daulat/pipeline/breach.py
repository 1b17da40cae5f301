"""A personal data breach and its clocks, as the log tells of them: what must be said to whom, until when.

Malaysia's Personal Data Protection Act 2010, section 12B (inserted by the Amendment Act 2024, in force since 1 June
2025), and the Commissioner's Data Breach Notification Guideline of 25 February 2025: the Commissioner within 72 hours,
what is still missing within 30 days of that and, where significant harm is likely, the people concerned within seven
days of it.

A case is a few `operator.action/v1` entries about one id (`breach.open`, `breach.notified`, `breach.close`), so that
the clocks can be shown to have been kept. It says nothing about anybody: what happened, in words, is written by people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from daulat.core import entries

_HOUR_MS: Final = 3_600_000
COMMISSIONER_MS: Final = 72 * _HOUR_MS
FURTHER_MS: Final = 30 * 24 * _HOUR_MS
PEOPLE_MS: Final = 7 * 24 * _HOUR_MS
SIGNIFICANT_SCALE: Final = 1000  # more people than this is "of a significant scale", whatever the harm
TOLD: Final = ("commissioner", "people")
SCOPES: Final = ("tenant", "key", "replica")
OPEN, NOTIFIED, CLOSE = "breach.open", "breach.notified", "breach.close"
# What happens all day long is no part of a chronology.
_ROUTINE: Final = frozenset({entries.INFERENCE, "refusals/v1", "node.lease/v1", "replica.started/v1"})
_BLANK: Final = "to be filled in by the data controller"

Stands = tuple[str, int, Mapping[str, Any]]
"""An entry and where it stands: the log's origin, its index, and what it says."""


@dataclass(slots=True)
class Case:
    """One breach. Times are Unix milliseconds; `scope` narrows it to a tenant's, a key's or a replica's requests."""

    id: str
    opened: int
    learned: int  # when the data controller had reason to believe in it: the clocks start here
    begins: int  # the interval in which it happened
    ends: int
    scope: Mapping[str, str]  # "tenant" and "key" are pseudonyms
    told: dict[str, int] = field(default_factory=dict)  # of `TOLD`, when
    closed: int | None = None

    def deadlines(self) -> dict[str, int]:
        """Until when who must have been told; that of the people counts from the notice to the Commissioner."""
        first = self.told.get("commissioner", self.learned + COMMISSIONER_MS)
        return {
            "commissioner": self.learned + COMMISSIONER_MS,
            "further_information": first + FURTHER_MS,
            "people": first + PEOPLE_MS,
        }

    def overdue(self, now_ms: int) -> list[str]:
        """Who should have been told by now, and was not, or too late."""
        ends = self.deadlines()
        return [who for who in TOLD if self.told.get(who, now_ms if self.closed is None else 0) > ends[who]]


def cases(log: Iterable[Stands]) -> dict[str, Case]:
    """Every breach that the log tells of, by its id."""
    found: dict[str, Case] = {}
    for _, _, entry in log:
        if entry["type"] != "operator.action/v1":
            continue
        action, detail, id_ = entry["action"], entry["detail"], entry["subject"]
        if action == OPEN:
            scope = {name: detail[name] for name in SCOPES if detail.get(name)}
            found[id_] = Case(id_, entry["time"], detail["learned"], detail["from"], detail["to"], scope)
        elif action == NOTIFIED and id_ in found:
            found[id_].told.setdefault(detail["told"], detail["at"])
        elif action == CLOSE and id_ in found:
            found[id_].closed = entry["time"]
    return found


@dataclass(slots=True)
class Extent:
    """Whose requests were answered while it lasted, and what else the log has of that time."""

    requests: int = 0
    people: set[tuple[str, str]] = field(default_factory=set)  # (tenant, person), pseudonyms
    models: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    refused: int = 0  # before authentication, or beyond what one key may leave as entries
    chronology: list[dict[str, Any]] = field(default_factory=list)

    def by_tenant(self) -> dict[str, int]:
        """People a tenant, by the tenant's pseudonym."""
        return dict(sorted(Counter(tenant for tenant, _ in self.people).items()))


def extent(case: Case, log: Iterable[Stands]) -> Extent:
    """What the log has of a case: answers within its interval and scope, and every unusual entry since it began.

    `log` is read once, in order: a request's replica stands before it.
    """
    found, replicas = Extent(), dict[tuple[str, int], str]()
    for origin, index, entry in log:
        kind = entry["type"]
        if kind == "replica.started/v1":
            replicas[origin, index] = entry["replica"]
        if kind == entries.INFERENCE:
            _count(found, case, entry, origin, replicas)
        elif kind == "refusals/v1":
            if entry["to"] >= case.begins and entry["from"] <= case.ends:
                found.refused += sum(entry["counts"].values()) + sum(entry["principals"].values())
        elif entry["time"] >= case.begins and kind not in _ROUTINE and entry.get("outcome") != "contained":
            said = {
                name: entry[name] for name in ("action", "subject", "reason", "outcome", "replica") if entry.get(name)
            }
            found.chronology.append({"time": entry["time"], "log": origin, "entry": index, "type": kind, **said})
    return found


def _count(
    found: Extent, case: Case, entry: Mapping[str, Any], origin: str, replicas: Mapping[tuple[str, int], str]
) -> None:
    admission, completion = entry["admission"], entry["completion"]
    if admission["effect"] != "allow" or completion["time"] < case.begins or admission["time"] > case.ends:
        return
    answering = {replicas.get((origin, attempt["replica"]), "") for attempt in completion["attempts"]}
    for name, wanted in case.scope.items():
        if wanted not in (answering if name == "replica" else {admission[name]}):
            return
    found.requests += 1
    found.people.add((admission["tenant"], admission["principal"]))
    found.models[admission["requested_model"]] += 1
    found.outcomes[completion["outcome"]] += 1


def notice(case: Case, seen: Extent, heads: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The notice to the Commissioner, under the headings of the Guideline's form, as far as a log can fill it.

    `heads`: by origin, the size and root hash of the log that was read: with them anybody can check what is said here.
    """
    people = len(seen.people)
    return {
        "breach": case.id,
        "data_controller": dict.fromkeys(("organisation", "address", "contact_person", "telephone", "email"), _BLANK),
        "breach_details": {
            "occurred_from": case.begins,
            "occurred_to": case.ends,
            "learned": case.learned,
            "scope": dict(case.scope),
            "nature_and_cause": _BLANK,
            "personal_data_concerned": _BLANK,
            "requests_answered": seen.requests,
            "outcomes": dict(sorted(seen.outcomes.items())),
            "models": dict(sorted(seen.models.items())),
            "refused_attempts": seen.refused,
        },
        "data_subjects": {
            "people": people,
            "by_tenant": seen.by_tenant(),
            "significant_scale": people > SIGNIFICANT_SCALE,
            "likely_harm": _BLANK,
        },
        "chronology_and_measures": seen.chronology,
        "deadlines": case.deadlines(),
        "told": dict(case.told),
        "evidence": {origin: dict(head) for origin, head in heads.items()},
    }

"""The record of processing (Malaysia's PDPA 2010, section 44), as far as charter, rules, tenants and log can write it.

What is processed, for whom, where, by which models, how long it is kept, and who saw or changed it: counts and
pseudonyms out of the log, names of tenants out of the control database. What only people know stays blank.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from daulat.core import charter as charters
from daulat.core import entries
from daulat.pipeline.breach import Stands

_BLANK: Final = "to be filled in by the data controller"
# Acts after which somebody's data was seen, changed or gone, by type of entry.
_SEEN: Final = ("export/v1", "erasure/v1", "retention/v1", "break-glass/v1", "access.refused/v1")
CLASSES: Final[Mapping[str, str]] = {
    "people and what is vouched for them": "until they are erased",
    "API keys, sessions and sign-in identities (digests and keyed hashes)": "until they are erased",
    "ids that a tenant's directory has for people (keyed hashes)": "until they are erased",
    "files": "by the tenant's rule, or until their owner deletes them",
    "stored completions": "by the tenant's rule, or until their owner deletes them",
    "prompts and answers": "forwarded and forgotten, unless their owner asks to have them stored",
    "entries of the log (pseudonyms and salted commitments)": "as long as the log is kept",
}


@dataclass(slots=True)
class Seen:
    """What a log tells of processing, gathered in one pass."""

    charter: Mapping[str, Any] | None = None
    rules: Mapping[str, Any] | None = None
    models: dict[str, str] = field(default_factory=dict)  # name -> digest
    places: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # jurisdiction -> nodes, storage
    people: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # tenant -> people, pseudonyms
    requests: Counter[str] = field(default_factory=Counter)  # by tenant
    acts: Counter[str] = field(default_factory=Counter)
    first: int = 0
    last: int = 0


def seen(log: Iterable[Stands]) -> Seen:
    """Read a log once."""
    found = Seen()
    for _, _, entry in log:
        kind = entry["type"]
        time = entry["admission"]["time"] if kind == entries.INFERENCE else entry["time"]
        found.first, found.last = found.first or time, max(found.last, time)
        take = _TAKES.get(kind)
        if take is not None:
            take(found, entry)
        elif kind in _SEEN:
            found.acts[kind] += 1
    return found


def _asked(found: Seen, entry: Mapping[str, Any]) -> None:
    admission = entry["admission"]
    if admission["effect"] == "allow":
        found.people[admission["tenant"]].add(admission["principal"])
        found.requests[admission["tenant"]] += 1


def _promised(found: Seen, entry: Mapping[str, Any]) -> None:
    found.charter = entry


def _ruled(found: Seen, entry: Mapping[str, Any]) -> None:
    found.rules = entry


def _admitted(found: Seen, entry: Mapping[str, Any]) -> None:
    found.models[entry["model"]] = entry["digest"]


def _leased(found: Seen, entry: Mapping[str, Any]) -> None:
    what = f"node {entry['node']}" if "node" in entry else f"storage {entry['kind']} {entry['place'][:16]}"
    found.places[entry["jurisdiction"]].add(what)


def _done(found: Seen, entry: Mapping[str, Any]) -> None:
    found.acts[entry["action"]] += 1


_TAKES: Final[Mapping[str, Callable[[Seen, Mapping[str, Any]], None]]] = {
    entries.INFERENCE: _asked,
    "charter/v1": _promised,
    "policy/v1": _ruled,
    "model.admitted/v1": _admitted,
    "node.lease/v1": _leased,
    "storage.lease/v1": _leased,
    "operator.action/v1": _done,
}


def record(
    found: Seen,
    tenants: Sequence[Mapping[str, Any]],
    auditors: int,
    operators: Sequence[str],
    heads: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The record.

    Args:
        tenants: {"name", "pseudonym", "files", "completions"}: days, or None.
        auditors: how many tokens that read the whole log are good.
        operators: their names.
        heads: by origin, the size and root hash of the log that was read.
    """
    charter = None if found.charter is None else charters.parse(found.charter["text"])
    policy = found.rules or {"version": None, "files": []}
    return {
        "data_controller": dict.fromkeys(("organisation", "address", "contact_person", "purpose"), _BLANK),
        "period": {"from": found.first, "to": found.last},
        "data": dict(CLASSES),
        "for_whom": [
            {
                **{name: tenant[name] for name in ("name", "pseudonym")},
                "people_who_asked": len(found.people.get(tenant["pseudonym"], ())),
                "requests": found.requests[tenant["pseudonym"]],
                "kept_days": {name: tenant[name] for name in ("files", "completions")},
            }
            for tenant in tenants
        ],
        "erased_tenants_requests": sum(found.requests.values())
        - sum(found.requests[tenant["pseudonym"]] for tenant in tenants),
        "where": {country: sorted(places) for country, places in sorted(found.places.items())},
        "promised": None
        if charter is None
        else {
            "country": charter.country,
            "site": charter.site,
            "users": list(charter.users),
            "operators": list(charter.operators),
            "approvals": charter.approvals,
        },
        "rules": {"version": policy["version"], "files": [file["name"] for file in policy["files"]]},
        "models": dict(sorted(found.models.items())),
        "access": {"operators": list(operators), "auditors": auditors, "acts": dict(sorted(found.acts.items()))},
        "evidence": {origin: dict(head) for origin, head in heads.items()},
    }

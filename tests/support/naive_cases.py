"""Random charters, people, keys, models and leases: lawful ones first, then with some things changed.

Wholly random requests are nearly always refused, and would show nothing: most cases are one step away from the border.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from daulat.core import charter as charter_core
from daulat.core.charter import Charter

Row = dict[str, Any]
NOW: Final = 1_795_000_000_000
DAY: Final = 86_400_000
MODEL: Final = "small"
_COUNTRIES: Final = ("MY", "SG", "ID", "BN")
_ISSUERS: Final = ("operator", "https://id.example/realms/a", "https://id.example/realms/b")
_GRADES: Final = ("G1", "G2", "G3", "G4")
_LEVELS: Final = ("low", "substantial", "high")
_FORMATS: Final = ("gguf", "safetensors", "external")
_LICENCES: Final = ("apache-2.0", "mit", "gemma", "deepseek")
_ODD_GRADES: Final = (
    {"grade": "g2"},
    {"grade": "G9"},
    {"grade": ""},
    {"grade": 2},
    {"grade": None},
    {},
    None,
    "G4",
    [],
)


@dataclass
class Case:
    """Everything that a request, a lease or an admission depends on. `operator`: the citizenship of who admits."""

    charter: Row
    parsed: Charter
    person: Row
    key: Row
    model: Row
    lease: Row
    operator: str
    asked: str = MODEL


def charter(rng: random.Random) -> tuple[Row, Charter]:
    """One, as data and as Daulat reads it from text."""
    nodes: Row = {"sandbox": rng.choice(_GRADES[:3]), "canary": rng.choice(_GRADES[:3]), "lease_seconds": 300}
    if rng.random() < 0.8:
        nodes["external"] = rng.choice(["none", "G1", "G3"])
    models: Row = {"formats": _some(rng, _FORMATS), "licences": _some(rng, _LICENCES)}
    if rng.random() < 0.8:
        models["signed"] = rng.random() < 0.3
    home = rng.choice(_COUNTRIES)
    users = [home] if rng.random() < 0.5 else _some(rng, _COUNTRIES)  # citizens only, or more
    people = {"operators": _some(rng, _COUNTRIES), "users": users, "assurance": rng.choice(_LEVELS)}
    if rng.random() < 0.6:
        people["issuers"] = _some(rng, _ISSUERS)
    made: Row = {
        "profile": "evaluation",
        "approvals": 0,
        "strict": False,
        "jurisdiction": {"country": home, "site": "not stated"},
        "people": people,
        "models": models,
        "nodes": nodes,
        "log": {"name": "naive.example", "margin_seconds": 30},
    }
    return made, charter_core.parse(toml(made))


def toml(made: Row) -> str:
    """As `charter.toml` has it; JSON's texts, lists, numbers and booleans are TOML's too."""
    top = [f"{name} = {json.dumps(value)}" for name, value in made.items() if not isinstance(value, dict)]
    for table, values in made.items():
        if isinstance(values, dict):
            top += [f"[{table}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    return "\n".join(top)


def lawful(rng: random.Random, under: tuple[Row, Charter]) -> Case:
    """A request, a lease and an admission that the charter allows, as narrowly as often as not."""
    made, parsed = under
    people, nodes, least = made["people"], made["nodes"], made["nodes"].get("external", "none")
    evidence = {kind: {"grade": _at_least(rng, _GRADES, nodes[kind])} for kind in ("sandbox", "canary")}
    evidence |= {kind: {"grade": rng.choice(_GRADES)} for kind in ("inventory", "site") if rng.random() < 0.5}
    if least != "none" and rng.random() < 0.4:
        evidence = {"external": {"grade": _at_least(rng, _GRADES, least)}}
    person = {
        "id": "person_1",
        "tenant": "tenant_1",
        "name": "aminah",
        "citizenship": rng.choice(people["users"]),
        "assurance": _at_least(rng, _LEVELS, people["assurance"]),
        "roles": rng.choice([["user"], ["tenant-admin", "user"]]),
        "expires": NOW + rng.choice([1, DAY]),
        "version": 1,
        "issuer": rng.choice(people.get("issuers", _ISSUERS)),
        "until": rng.choice([0, NOW + 1, NOW + DAY]),
        "lapsed": 0,
        "proven": 0,
    }
    key = {
        "id": "key_1",
        "digest": "",
        "person": "person_1",
        "label": "laptop",
        "models": rng.choice([[], [MODEL], ["another", MODEL]]),
        "requests_per_minute": 0,
        "created": NOW - DAY,
        "expires": NOW + rng.choice([1, DAY]),
        "networks": None,
        "revoked": None,
        "own": 0,
    }
    model = {
        "type": "model.admitted/v1",
        "model": MODEL,
        "digest": "0" * 64,
        "format": rng.choice(made["models"]["formats"]),
        "licence": rng.choice(made["models"]["licences"]),
        "origin": "",
        "signed_by": "key sha256:00" if made["models"].get("signed") or rng.random() < 0.3 else None,
    }
    lease = {
        "jurisdiction": made["jurisdiction"]["country"],
        "evidence": evidence,
        "expires": NOW + rng.choice([1, DAY]),
    }
    return Case(made, parsed, person, key, model, lease, rng.choice(people["operators"]))


def spoiled(rng: random.Random, case: Case) -> Case:
    """With one thing changed: to something worse, better or odd; sometimes to what it was."""
    lease = {**case.lease, "evidence": dict(case.lease["evidence"])}
    changed = replace(case, person=dict(case.person), key=dict(case.key), model=dict(case.model), lease=lease)
    rng.choice(_CHANGES)(rng, changed)
    return changed


def _permanent_resident(rng: random.Random, case: Case) -> None:
    """Holds an identity card, lives here, is known well: and no citizenship is vouched, or another country's."""
    case.person |= {"citizenship": rng.choice(["", *_COUNTRIES]), "assurance": "high"}


def _odd_citizenship(rng: random.Random, case: Case) -> None:
    home = case.charter["jurisdiction"]["country"]
    case.person["citizenship"] = rng.choice([home.lower(), f" {home}", f"{home}S", f"{home}\0", "*", "XX"])


def _assurance(rng: random.Random, case: Case) -> None:
    case.person["assurance"] = rng.choice([*_LEVELS, "", "HIGH", "certain", "2"])


def _roles(rng: random.Random, case: Case) -> None:
    case.person["roles"] = rng.choice([[], ["tenant-admin"], ["operator"], ["auditor"], ["User"], ["users"], ["user"]])


def _issuer(rng: random.Random, case: Case) -> None:
    case.person["issuer"] = rng.choice([*_ISSUERS, "", "OPERATOR", "https://id.example/realms/a/"])


def _citizenship_ends(rng: random.Random, case: Case) -> None:
    case.person["until"] = NOW + rng.choice([-DAY, -1, 0, 1])


def _person_expires(rng: random.Random, case: Case) -> None:
    case.person["expires"] = NOW + rng.choice([-DAY, -1, 0, 1])


def _key_expires(rng: random.Random, case: Case) -> None:
    case.key["expires"] = NOW + rng.choice([-DAY, -1, 0, 1])


def _key_revoked(rng: random.Random, case: Case) -> None:
    case.key["revoked"] = rng.choice([0, NOW - 1, NOW, None])


def _key_models(rng: random.Random, case: Case) -> None:
    case.key["models"] = rng.choice([["another"], [MODEL.upper()], [f"{MODEL} "], [MODEL]])


def _asked(rng: random.Random, case: Case) -> None:
    case.asked = rng.choice(["another", "", MODEL.upper(), MODEL])


def _format(rng: random.Random, case: Case) -> None:
    case.model["format"] = rng.choice([*_FORMATS, "pickle", "", "GGUF"])


def _licence(rng: random.Random, case: Case) -> None:
    case.model["licence"] = rng.choice([*_LICENCES, "proprietary", "", "Apache-2.0"])


def _signature(rng: random.Random, case: Case) -> None:
    case.model["signed_by"] = rng.choice([None, "", "key sha256:00"])


def _jurisdiction(rng: random.Random, case: Case) -> None:
    case.lease["jurisdiction"] = rng.choice([*_COUNTRIES, "", "my"])


def _lease_expires(rng: random.Random, case: Case) -> None:
    case.lease["expires"] = NOW + rng.choice([-DAY, -1, 0, 1])


def _evidence(rng: random.Random, case: Case) -> None:
    kind = rng.choice(["sandbox", "canary", "external", "inventory", "site"])
    case.lease["evidence"][kind] = rng.choice([{"grade": rng.choice(_GRADES)}, rng.choice(_ODD_GRADES)])


def _no_evidence(rng: random.Random, case: Case) -> None:
    case.lease["evidence"].pop(rng.choice(["sandbox", "canary", "external"]), None)


def _operator(rng: random.Random, case: Case) -> None:
    case.operator = rng.choice([*_COUNTRIES, "", "my"])


_CHANGES: Final[tuple[Callable[[random.Random, Case], None], ...]] = (
    *(_permanent_resident, _permanent_resident, _odd_citizenship, _assurance, _roles),
    *(
        _issuer,
        _citizenship_ends,
        _person_expires,
        _key_expires,
        _key_revoked,
        _key_models,
        _asked,
        _format,
        _licence,
        _signature,
    ),
    *(_jurisdiction, _lease_expires, _evidence, _evidence, _no_evidence, _operator),
)


def _some(rng: random.Random, of: tuple[str, ...]) -> list[str]:
    return rng.sample(of, rng.randint(1, len(of)))


def _at_least(rng: random.Random, order: tuple[str, ...], least: str) -> str:
    return rng.choice([least, *order[order.index(least) :]])

"""Who may do what, decided a second time: plain ifs, written from `docs/operator.md`, `docs/policy.md` and the comments
of the starter charter, and from nothing else. It shares no code with what it is compared with, and is slow to read on
purpose: one sentence of the docs, one `if`.

Everything is plain data: a charter as `charter.toml` has it, people and keys as the control database has them, a model
and a lease as their entries in the log have them.
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def may_ask(  # noqa: PLR0911  one sentence, one `if`
    charter: Row, person: Row, key: Row, model: Row, lease: Row, *, asked: str, now: int
) -> bool:
    """May this key have an answer from the model that it names, on the node of this lease, now?"""
    if key["revoked"] is not None:
        return False
    if key["expires"] <= now:
        return False
    if person["expires"] <= now:
        return False
    if person["until"] and person["until"] <= now:
        return False
    if key["person"] != person["id"]:
        return False
    if asked != model["model"]:
        return False
    if key["models"] and asked not in key["models"]:
        return False
    if lease["expires"] <= now:
        return False
    return may_use(charter, person, model, lease["jurisdiction"], lease["evidence"])


def may_use(charter: Row, person: Row, model: Row, where: str, evidence: Row) -> bool:
    """May this person use this model, on a node that stands there, with that evidence of it?"""
    if not may_keep(charter, person):
        return False
    if not _admissible(charter, model):
        return False
    return may_serve(charter, where, evidence)


def may_keep(charter: Row, person: Row) -> bool:
    """May this person have something kept? The same takes it away that takes asking away."""
    if "user" not in person["roles"]:
        return False
    if person["citizenship"] not in charter["people"]["users"]:
        return False
    if "issuers" in charter["people"] and person["issuer"] not in charter["people"]["issuers"]:
        return False
    return _vouched(person["assurance"], charter["people"]["assurance"])


def may_admit(charter: Row, citizenship: str, model: Row) -> bool:
    """May an operator of this citizenship admit this model?"""
    if citizenship not in charter["people"]["operators"]:
        return False
    return _admissible(charter, model)


def may_serve(charter: Row, where: str, evidence: Row) -> bool:
    """May a node serve that stands there, with that evidence?"""
    nodes = charter["nodes"]
    if where != charter["jurisdiction"]["country"]:
        return False
    if "external" in evidence:
        return _external(nodes.get("external", "none"), _grade(evidence, "external"))
    if _grade(evidence, "sandbox") < _number(nodes["sandbox"]):
        return False
    return _grade(evidence, "canary") >= _number(nodes["canary"])


def _external(least: str, found: int) -> bool:
    """none may serve, or those of grade G1 (the operator's word), or G3 (another organisation vouches)"""
    if least == "none":
        return False
    if least == "G1":
        return found >= 1
    if least == "G3":
        return found >= 3
    raise AssertionError(f"the docs know no external = {least!r}")


def _vouched(at: str, least: str) -> bool:
    """low, substantial or high"""
    if least == "low":
        return at in {"low", "substantial", "high"}
    if least == "substantial":
        return at in {"substantial", "high"}
    if least == "high":
        return at == "high"
    raise AssertionError(f"the docs know no assurance = {least!r}")


def _admissible(charter: Row, model: Row) -> bool:
    models = charter["models"]
    if model["format"] not in models["formats"]:
        return False
    if model["licence"] not in models["licences"]:
        return False
    return not (models.get("signed", False) and not model["signed_by"])


def _grade(evidence: Row, kind: str) -> int:
    """What is not there, or is none of the four grades, is worth nothing."""
    found = evidence.get(kind)
    if not isinstance(found, dict):
        return 0
    return _number(found.get("grade"))


def _number(name: object) -> int:
    if name == "G1":
        return 1
    if name == "G2":
        return 2
    if name == "G3":
        return 3
    if name == "G4":
        return 4
    return 0

"""A question to policy, and its answer.

Every value of a question stands in the log, in the entry that was decided on or in one it references. The builders
here are the only way to ask, for the gateway when it decides and for the audit when it re-runs the decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from daulat.core.charter import ASSURANCE, GRADES, Charter
from daulat.core.principal import VOUCHED

INFERENCE_ACTIONS: Final = (
    "chat.completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "responses.tokens",
    "messages.tokens",
    "tokenize",
)
MODEL_ADMIT: Final = "model.admit"
NODE_LEASE: Final = "node.lease"
KEEP: Final = "keep"


@dataclass(frozen=True, slots=True)
class Entity:
    """One Cedar entity: `type` without namespace, attributes JSON-like (str, int, bool, list of str)."""

    type: str
    id: str
    attributes: Mapping[str, Any]
    parent: tuple[str, str] | None = None  # (type, id)


@dataclass(frozen=True, slots=True)
class Question:
    """May this principal do this action to this resource, in this context?"""

    action: str
    principal: Entity
    resource: Entity
    context: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Decision:
    """`policies` are the @id of the rules that decided; `reason` says it in words, for people."""

    effect: Literal["allow", "deny"]
    policies: tuple[str, ...]
    reason: str = ""

    @property
    def allowed(self) -> bool:
        return self.effect == "allow"

    def as_dict(self) -> dict[str, object]:
        return {"effect": self.effect, "policies": list(self.policies)}


class Decider(Protocol):
    """Port: whoever can answer a question. Implemented by `policy.cedar`, and re-used by the audit."""

    def decide(self, question: Question) -> Decision: ...


def inference_question(
    charter: Charter,
    action: str,
    *,
    tenant: str,
    person: str,
    attributes: Mapping[str, Any],
    model: Mapping[str, Any],
    lease: Mapping[str, Any],
) -> Question:
    """May this person use this model under this lease?

    Args:
        tenant, person: pseudonyms, as the entry has them.
        attributes: the entry's `attributes`.
        model: the decoded `model.admitted/v1`.
        lease: the decoded `node.lease/v1`.
    """
    context = {"charter": charter.context(), "lease": _lease_context(lease["jurisdiction"], lease["evidence"])}
    return Question(action, _person(charter, tenant, person, attributes), _model(model), context)


def keep_question(charter: Charter, *, tenant: str, person: str, attributes: Mapping[str, Any]) -> Question:
    """May this person have something kept in the vault?"""
    resource = Entity("Vault", charter.name, {})
    return Question(KEEP, _person(charter, tenant, person, attributes), resource, {"charter": charter.context()})


def admission_question(charter: Charter, operator: str, citizenship: str, model: Mapping[str, Any]) -> Question:
    """May this model be admitted? `model` has the fields of `model.admitted/v1` that describe it."""
    return Question(MODEL_ADMIT, _operator(operator, citizenship), _model(model), {"charter": charter.context()})


def lease_question(charter: Charter, node: str, jurisdiction: str, evidence: Mapping[str, Any]) -> Question:
    """May this node serve, on this evidence? The installation itself asks."""
    resource = Entity("Node", node, {})
    context = {"charter": charter.context(), "lease": _lease_context(jurisdiction, evidence)}
    return Question(NODE_LEASE, Entity("Installation", charter.name, {}), resource, context)


def grade(evidence: Mapping[str, Any], kind: str) -> int:
    """The grade of one kind of evidence as a number: 1 to 4, or 0 when it is absent or malformed."""
    value = evidence.get(kind)
    name = value.get("grade") if isinstance(value, Mapping) else None
    return GRADES.index(name) + 1 if name in GRADES else 0


def seen_of_lease(lease: Mapping[str, Any]) -> tuple[tuple[str, object], ...]:
    """All that rules see of a decoded `node.lease/v1`: renewed on the same evidence, it makes no new question."""
    return tuple(sorted(_lease_context(lease["jurisdiction"], lease["evidence"]).items()))


def _lease_context(jurisdiction: str, evidence: Mapping[str, Any]) -> dict[str, Any]:
    """`external` is there only for an engine that runs outside Daulat: rules from before that do not know it."""
    elsewhere = {"external": grade(evidence, "external")} if "external" in evidence else {}
    return {
        **elsewhere,
        "jurisdiction": jurisdiction,
        "sandbox": grade(evidence, "sandbox"),
        "canary": grade(evidence, "canary"),
        "inventory": grade(evidence, "inventory"),
        "site": grade(evidence, "site"),
    }


def _issuer(charter: Charter, attributes: Mapping[str, Any]) -> dict[str, str]:
    """Who vouches for the citizenship, where the charter asks: rules from before that do not know it."""
    return {} if charter.issuers is None else {"issuer": attributes.get("issuer", VOUCHED)}


def _person(charter: Charter, tenant: str, person: str, attributes: Mapping[str, Any]) -> Entity:
    said = {
        **_issuer(charter, attributes),
        "citizenship": attributes["citizenship"],
        "assurance": _assurance(attributes["assurance"]),
        "roles": list(attributes["roles"]),
    }
    return Entity("Person", person, said, ("Tenant", tenant))


def _assurance(name: str) -> int:
    return ASSURANCE.index(name) if name in ASSURANCE else -1


def _operator(id_: str, citizenship: str) -> Entity:
    return Entity("Operator", id_, {"citizenship": citizenship})


def _model(model: Mapping[str, Any]) -> Entity:
    return Entity(
        "Model",
        model["model"],
        {
            "digest": model["digest"],
            "format": model["format"],
            "licence": model["licence"],
            "origin": model["origin"],
            "signed": bool(model["signed_by"]),
        },
    )


def sorted_roles(roles: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(set(roles)))

"""Decisions by Cedar. Whatever goes wrong is a refusal.

A schema is always passed. Policies, schema and rules' words are parsed once; the entities of one question are three at
most, so they are made for the question.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import cedarpy

from daulat.core.decision import Decision, Entity, Question
from daulat.errors import ConfigError

NAMESPACE: Final = "Daulat"
ERROR: Final = "daulat.error"
NO_PERMIT: Final = "daulat.no_permit"


class CedarDecider:
    """One version of rules and schema (`core.decision.Decider`)."""

    def __init__(self, rules: str, schema: str) -> None:
        """Parse and validate.

        Raises:
            ConfigError: rules or schema do not parse, do not validate, or a rule lacks @id or repeats one.
        """
        try:
            self._schema = cedarpy.Schema.from_str(schema)
            self._policies = cedarpy.PolicySet.from_str(rules)
            found = cedarpy.validate_policies(rules, self._schema)
            annotated = _annotations(rules)
        except ValueError as error:
            raise ConfigError(f"the rules do not parse: {error}", location="policy") from None
        if not found.validation_passed:
            raise ConfigError("; ".join(str(error.error) for error in found.errors), location="policy")
        ids = [annotations.get("id") for annotations in annotated]
        if None in ids or len(set(ids)) != len(ids):
            raise ConfigError(f"every rule needs an @id of its own; found {sorted(map(str, ids))}", location="policy")
        self.reasons = {annotations["id"]: annotations.get("reason", "") for annotations in annotated}

    def decide(self, question: Question) -> Decision:
        """Ask Cedar. Never raises: an error, or no decision, is a denial by `daulat.error`."""
        try:
            entities = cedarpy.Entities.from_json_str(json.dumps(_entities(question)), self._schema)
            request = {
                "principal": _reference(question.principal.type, question.principal.id),
                "action": _reference("Action", question.action),
                "resource": _reference(question.resource.type, question.resource.id),
                "context": json.loads(json.dumps(question.context)),
            }
            result = cedarpy.is_authorized(request, self._policies, entities, schema=self._schema)
            errors = list(result.diagnostics.errors)
            ids = self._ids(result)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            return Decision("deny", (ERROR,), f"the question could not be decided ({type(error).__name__})")
        if errors or result.decision not in {cedarpy.Decision.Allow, cedarpy.Decision.Deny}:
            return Decision("deny", (ERROR,), "a rule could not be evaluated")
        if result.decision is cedarpy.Decision.Allow:
            return Decision("allow", ids, self._words(ids))
        if not ids:
            return Decision("deny", (NO_PERMIT,), "no rule permits this")
        return Decision("deny", ids, self._words(ids))

    def _ids(self, result: Any) -> tuple[str, ...]:
        named: Mapping[str, str] = result.diagnostics.id_annotations_by_reason
        return tuple(sorted(named[reason] for reason in result.diagnostics.reasons))

    def _words(self, ids: tuple[str, ...]) -> str:
        return "; ".join(self.reasons[id_] or id_ for id_ in ids)


def _annotations(rules: str) -> list[dict[str, str]]:
    parsed = json.loads(cedarpy.policies_to_json_str(rules))
    return [dict(policy.get("annotations") or {}) for policy in parsed["staticPolicies"].values()]


def _entities(question: Question) -> list[dict[str, Any]]:
    found = [_entity(question.principal), _entity(question.resource)]
    if question.principal.parent is not None:
        found.append({"uid": _reference(*question.principal.parent), "attrs": {}, "parents": []})
    return found


def _entity(entity: Entity) -> dict[str, Any]:
    parents = [] if entity.parent is None else [_reference(*entity.parent)]
    return {"uid": _reference(entity.type, entity.id), "attrs": dict(entity.attributes), "parents": parents}


def _reference(type_: str, id_: str) -> dict[str, str]:
    return {"type": f"{NAMESPACE}::{type_}", "id": id_}

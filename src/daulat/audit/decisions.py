"""Running decisions again, from nothing but log entries.

A policy's text stands in its entry, or is a blob that the entry names by SHA-256. Whoever can run it (Cedar, where
that is installed) is handed in as a factory; without one, decisions are not re-run, and the report says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from daulat.audit.chain import GATEWAY, Chain
from daulat.audit.facts import InferenceFacts, LeaseFacts, ModelFacts, PolicyFacts
from daulat.core.decision import Decider, Decision, Question, admission_question, inference_question, lease_question
from daulat.errors import VerificationFailed

DeciderFactory = Callable[[str, str], Decider]  # (rules, schema)
Blob = Callable[[str], bytes]


class Decisions:
    """Answers of past policies, each question asked once."""

    def __init__(self, chain: Chain, factory: DeciderFactory, blob: Blob) -> None:
        self._chain, self._factory, self._blob = chain, factory, blob
        self._deciders: dict[int, Decider] = {}
        self._answers: dict[tuple[object, ...], Decision] = {}
        self.asked = 0

    def check_inference(self, request: InferenceFacts) -> str | None:
        """Why the entry's decision is not the policy's, or None.

        Raises:
            DaulatError: the policy's text cannot be had or cannot be run.
        """
        if any(name.startswith(GATEWAY) for name in request.policies):
            return None  # a refusal: the chain has seen to that
        if request.lease is None or request.model is None:
            return "decided without a lease or without a model"
        lease, model = self._chain.leases[request.lease], self._chain.models[request.model]
        policy = self._chain.policies[request.policy]
        roles = tuple(request.attributes["roles"])
        issuer = request.attributes.get("issuer")
        values = (request.attributes["citizenship"], request.attributes["assurance"], roles, issuer)
        where = (policy.index, model.index, lease.jurisdiction, *(g["grade"] for g in lease.evidence.values()))
        key = (request.action, request.tenant, request.principal, *values, *where, *lease.evidence)

        def question() -> Question:
            return inference_question(
                self._chain.charters[policy.charter].charter,
                request.action,
                tenant=request.tenant,
                person=request.principal,
                attributes=request.attributes,
                model=model.described,
                lease={"jurisdiction": lease.jurisdiction, "evidence": lease.evidence},
            )

        return _differs(self._answer(policy, key, question), request.effect, request.policies)

    def check_lease(self, lease: LeaseFacts) -> str | None:
        """The same for a lease."""
        charter = self._chain.charters[lease.charter].charter
        question = lease_question(charter, lease.node, lease.jurisdiction, lease.evidence)
        answer = self._answer(self._chain.policies[lease.policy], ("lease", lease.index), lambda: question)
        return _differs(answer, lease.effect, lease.policies)

    def check_model(self, model: ModelFacts) -> str | None:
        """The same for a model's admission."""
        charter = self._chain.charters[model.charter].charter
        question = admission_question(charter, model.operator, model.citizenship, model.described)
        answer = self._answer(self._chain.policies[model.policy], ("model", model.index), lambda: question)
        return _differs(answer, model.effect, model.policies)

    def _answer(self, policy: PolicyFacts, key: tuple[object, ...], question: Callable[[], Question]) -> Decision:
        self.asked += 1
        answer = self._answers.get(key)
        if answer is None:
            if len(self._answers) > 1_000_000:  # noqa: PLR2004  bounds memory; forgetting costs time only
                self._answers.clear()
            answer = self._answers[key] = self._decider(policy).decide(question())
        return answer

    def _decider(self, policy: PolicyFacts) -> Decider:
        if policy.index not in self._deciders:
            texts = [(name, self._text(digest, text)) for name, digest, text in policy.files]
            rules = "\n".join(text for name, text in texts if name.endswith(".cedar"))
            schema = "\n".join(text for name, text in texts if name.endswith(".cedarschema"))
            self._deciders[policy.index] = self._factory(rules, schema)
        return self._deciders[policy.index]

    def _text(self, digest: str, text: str | None) -> str:
        if text is not None:
            return text
        data = self._blob(digest)
        if hashlib.sha256(data).hexdigest() != digest:
            raise VerificationFailed(f"blob {digest} has another SHA-256")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise VerificationFailed(f"blob {digest} is not UTF-8") from None


def _differs(answer: Decision, effect: str, policies: tuple[str, ...]) -> str | None:
    if answer.effect != effect or set(answer.policies) != set(policies):
        return (
            f"the entry says {effect} by {', '.join(policies) or 'no rule'}, the policy says {answer.effect} by "
            f"{', '.join(answer.policies) or 'no rule'}"
        )
    return None

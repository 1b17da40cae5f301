"""Logs that lie, each in one way, and what an audit has to say about it.

A lie's name says what the operator did. `kind` and `at` are the finding that must be there: its kind, and the name of
the entry it is about (None: about the log as a whole). Other findings may follow from the same lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.support import consents, logs
from tests.support.logs import (
    SIGNER,
    STRANGER,
    T0,
    UNDER_RENEWED,
    WORKER,
    Published,
    Ref,
    Step,
    after,
    charter,
    counters,
    encode,
    happened,
    inference,
    key,
    lease,
    model,
    policy,
    probe,
    started,
    story,
    without,
    write,
)

from daulat.core import entries
from daulat.core.promise import Promise, signed_text
from daulat.core.rotation import statement
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.merkle import leaf_hash

OK = [{"replica": Ref("started"), "lease": Ref("lease"), "outcome": "ok"}]

DELETED = {
    "time": T0 + 41,
    "charter": Ref("charter"),
    "tenant": "d" * 22,
    "batch": "batch_1",
    "rule": {"files": 30, "completions": None},
    "deleted": {"files": 3, "completions": 0},
}


@dataclass(frozen=True)
class Case:
    """One lie; `lie` False: not a lie, yet to be said."""

    name: str
    kind: str
    at: str | None
    make: Callable[[], Published]
    lie: bool = True


def change(name: str, kind: str, at: str | None, /, **changes: Any) -> Case:
    """A lie told by changing named entries: `entry={"field.below": value}`; dashes in names are underscores here."""
    named = {entry.replace("_", "-"): given for entry, given in changes.items()}
    return Case(name, kind, at, lambda: write(named))


def steps(name: str, kind: str, at: str | None, make: Callable[[], Sequence[Step]], *, lie: bool = True) -> Case:
    """A lie told by other steps."""
    return Case(name, kind, at, lambda: write(steps=make()), lie)


def asked(name: str, number: int, at: int, **changes: Any) -> Step:
    return Step(name, entries.INFERENCE, inference(number, at, **changes))


def late_answer(**changes: Any) -> Step:
    """One more answer, after everything else."""
    return asked("late-answer", 7, 100_000, **UNDER_RENEWED, **changes)


def add(name: str, *new: Step) -> list[Step]:
    return after(story(), name, *new)


def attempts(replica: str, under: str, outcome: str = "ok") -> list[dict[str, Any]]:
    return [{"replica": Ref(replica), "lease": Ref(under), "outcome": outcome}]


def elsewhere(replica: str = "started", under: str = "lease-2") -> dict[str, Any]:
    return {
        "admission.replica": Ref(replica),
        "admission.lease": Ref(under),
        "completion.attempts": attempts(replica, under),
    }


def second_node() -> Sequence[Step]:
    """Another node with a canary and a lease of its own."""
    return (
        Step("probe-2", "canary/v1", probe(900, node="node-2", replica="replica-2")),
        Step("lease-2", "node.lease/v1", lease(910, node="node-2", canary=Ref("probe-2"))),
    )


def rekeyed() -> list[Step]:
    """The log's key is replaced, as both keys have signed."""
    new = STRANGER.renamed(SIGNER.name)
    signatures = [signer.sign(statement(SIGNER.vkey, new.vkey)) for signer in (SIGNER, new)]
    return add(
        "log-key", Step("key-2", "key/v1", key(15, "log", new.vkey, replaces=Ref("log-key"), signatures=signatures))
    )


def revoked(at: int) -> Step:
    fields = {"time": T0 + at, "node": "node-1", "lease": Ref("lease"), "reason": "canary: escaped"}
    return Step("revoked", "node.revoked/v1", fields)


def raw(name: str, old: bytes, new: bytes) -> Callable[[], Published]:
    """The story with some bytes of one entry replaced."""

    def make() -> Published:
        found = story()
        names = {step.name: index for index, step in enumerate(found)}
        entry = encode(found[names[name]], names)
        assert old in entry
        return write({name: entry.replace(old, new, 1)})

    return make


def signed_other(root: bytes | None = None, size: int | None = None) -> Published:
    log = write()
    head = Checkpoint(SIGNER.name, size or len(log.entries), root or bytes(32))
    log.signed = checkpoints.sign(head, [SIGNER])
    return log


def tampered(path: str, replace_with: Callable[[bytes], bytes], log: Published | None = None) -> Published:
    log = log or write()
    log.files[path] = replace_with(log.files[path])
    return log


def long_log(entry_count: int = 600) -> Published:
    """The story, and plain answers until there are this many entries."""
    found = without(story(), "canary", "renewed", "answer-2", "canary-2", "failed", "stopped")
    found += [asked(f"more-{n}", n, 8000 + 10 * n, took=5) for n in range(5, 5 + entry_count - len(found))]
    return write(steps=found)


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def dropped_bundle() -> Published:
    log = long_log()
    del log.files["tile/entries/001"]
    return log


def short_bundle() -> Published:
    log = write()
    return tampered("tile/entries/000.p/20", lambda data: data[:-1], log)


def two_policies(at: int = 20_000) -> list[Step]:
    new = Step("policy-2", "policy/v1", policy(at, previous=Ref("policy"), version="2"))
    return add("stopped", new)


def amended(**given: Any) -> list[Step]:
    """The story, and a charter after it."""
    said = {"time": T0 + 20_000, "origin": logs.ORIGIN, "previous": Ref("charter"), **charter(**given)}
    return add("stopped", Step("charter-2", "charter/v1", {**said, "restates": None}))


APPROVED = charter(approvals=1, profile="production")
CITIZEN = {"citizenship": "MY", "assurance": "substantial", "roles": ["user"], "issuer": "operator", "until": 0}
SERVED = {"completion.status": 200, "completion.outcome": "ok", "completion.attempts": OK}

CHAIN: list[Case] = [
    change("an answer under no lease", "lease", "answer", answer={"admission.lease": None}),
    change("an answer after its lease had expired", "lease", "answer", lease={"expires": T0 + 900}),
    change("an answer before its lease began", "lease", "answer", lease={"not_before": T0 + 1001}),
    steps("an answer under the lease of another node", "replica", "answer",
          lambda: [*after(story(), "started", *second_node())[:11], asked("answer", 1, 1000, **elsewhere())]),
    steps("an answer after the lease was revoked", "lease", "again",
          lambda: add("answer", revoked(1500), asked("again", 7, 8000))),
    steps("a second attempt under a lease that had expired", "lease", "answer-2", lambda: [
        *story()[:15],
        Step("renewed", "node.lease/v1", lease(399_000, canary=Ref("canary"))),
        asked("answer-2", 5, 400_000, **{
            "admission.lease": Ref("renewed"),
            "completion.attempts": [*attempts("started", "lease", "failed"), *attempts("started", "renewed")],
        }),
    ]),
    change("a lease that was not granted", "lease", "lease", lease={"decision.effect": "deny"}),
    change("an answer under a lease that was not granted", "lease", "answer", lease={"decision.effect": "deny"}),
    change("a lease longer than the charter allows", "lease", "lease", lease={"expires": T0 + 70 + 300_001}),
    change("a lease on weaker evidence than the charter's", "lease", "lease", lease={"evidence.sandbox.grade": "G1"}),
    change("a lease for an engine outside that the charter does not let serve", "lease", "lease",
           lease={"evidence": {"external": {"grade": "G3"}, "sandbox": {"grade": "G2"}, "canary": {"grade": "G2"}}}),
    change("a lease in a foreign jurisdiction", "jurisdiction", "lease", lease={"jurisdiction": "SG"}),
    change("an answer computed abroad", "jurisdiction", "answer", lease={"jurisdiction": "SG"}),
    change("a lease that names no canary", "canary", "lease", lease={"canary": None}),
    change("a lease on a canary that had escaped", "canary", "lease", probe={"outcome": "escaped"}),
    change("a lease on another node's canary", "canary", "lease", probe={"node": "node-2"}),
    change("a canary with an unheard-of outcome", "canary", "canary", canary={"outcome": "fine"}),
    change("a canary that points at another replica", "canary", "canary", canary={"replica": "replica-9"}),
    change("a model that was not admitted", "model", "model", model={"decision.effect": "deny"}),
    change("an answer by a model that was not admitted", "model", "answer", model={"decision.effect": "deny"}),
    change("an answer without a model", "lease", "answer", answer={"admission.model": None}),
    change("a model in a format that the charter does not name", "model", "model", model={"format": "pickle"}),
    change("a model under a licence that the charter does not name", "model", "model", model={"licence": "secret"}),
    change("a replica on another node than its lease", "replica", "started", started={"node": "node-2"}),
    change("a replica started outside its lease", "replica", "started", started={"time": T0 + 69}),
    steps("an answer by a replica of another model", "replica", "answer", lambda: [
        *after(story(), "model", Step("model-2", "model.admitted/v1", model(55, model="other")))[:10],
        asked("answer", 1, 1000, **{"admission.model": Ref("model-2")}),
    ]),
    change("an answer by a replica that started later", "replica", "answer", started={"time": T0 + 2000}),
    steps("a second attempt at a replica of another model", "replica", "late-answer", lambda: [
        *after(story(), "model", Step("model-2", "model.admitted/v1", model(55, model="other"))),
        Step("started-2", "replica.started/v1", started(13_500, model=Ref("model-2"), lease=Ref("renewed"))),
        asked("late-answer", 7, 14_000, **UNDER_RENEWED | {"completion.attempts": [
            *attempts("started", "renewed", "failed"), *attempts("started-2", "renewed")]}),
    ]),
    steps("an answer after its replica had stopped", "replica", "late-answer", lambda: add("stopped", late_answer())),
    steps("an answer under a policy that had been replaced", "policy", "late-answer",
          lambda: [*two_policies(), late_answer()]),
    change("a worker's key that is certified for something else", "worker", "answer", worker={"purpose": "log"}),
    change("a worker's key that had expired", "worker", "answer", worker={"not_after": T0 + 999}),
    change("a foreigner served against the charter", "citizenship", "answer",
           answer={"admission.attributes.citizenship": "XX"}),
    change("a citizenship vouched too weakly", "citizenship", "answer",
           answer={"admission.attributes.assurance": "low"}),
    change("a citizenship that had expired", "citizenship", "answer",
           answer={"admission.attributes": {**CITIZEN, "until": T0 + 1000}}),
    change("a citizenship on the word of an issuer whom the charter does not name", "citizenship", "answer",
           charter=charter(issuers='["operator"]'), answer={"admission.attributes": {**CITIZEN, "issuer": "https://elsewhere.example"}}),
    change("a charter for another log", "charter", "charter", charter={"origin": "ai.example/2025"}),
    steps("an event about somebody that nobody knows", "identity", "identity",
          lambda: add("stopped", Step("identity", "identity/v1", happened(90_000, event="promoted")))),
    steps("somebody who operates and audits", "identity", "identity",
          lambda: add("stopped", Step("identity", "identity/v1",
                                     happened(90_000, detail={"roles": ["auditor", "operator"]})))),
    Case("a log that does not begin with a charter", "charter", "log-key",
         lambda: write(steps=[story()[1], *story()[:1], *story()[2:]])),
    change("an operator who acted without approvals", "approvals", "action", charter=APPROVED,
           action={"action": "operator.add"}),
    change("an operator whose approvals nobody has signed", "approvals", "action", charter=APPROVED,
           action={"action": "operator.add", "approvals": ["p" * 22, "q" * 22]}),
    Case("an approval that its operator has not signed", "consent", "model-consent-two",
         lambda: write({"charter": APPROVED, "model-consent-two": {"key": Ref("key-one")}}, consents.story())),
    Case("a key ceremony that one of its operators has not signed", "ceremony", "ceremony",
         lambda: write({"ceremony": {"roster": "4" * 64}}, consents.story())),
    Case("an operator who was renewed for longer than was agreed to", "approvals", "key-again",
         lambda: write({"key-again": {"not_after": None}}, [*consents.story(), *consents.renewed()])),
    Case("an operator who vouched for themself", "approvals", "renewal-done",
         lambda: write({"renewal-done": {"subject": consents.TWO.name}}, [*consents.story(), *consents.renewed()])),
    Case("somebody who was renewed and is no operator", "consent", "renewal-done",
         lambda: write({"renewal-done": {"detail.key": STRANGER.vkey}}, [*consents.story(), *consents.renewed()])),
    Case("an approval of somebody who had expired by then", "approvals", "model-consent-done",
         lambda: write({"key-two": {"not_after": T0 + 42}}, consents.story())),
    Case("something that was deleted by a rule that nobody has set", "retention", "deleted",
         lambda: write(steps=after(story(), "action", Step("deleted", "retention/v1", DELETED)))),
    Case("glass that was broken without a cause", "glass", "glass",
         lambda: write({"glass": {"cause": ""}}, consents.broken())),
    change("a model that one operator admitted alone", "approvals", "model", charter=APPROVED),
    change("a lease that begins before it was granted", "lease", "lease",
           lease={"not_before": T0 - 5000, "expires": T0 + 200_000}),
    Case("a charter that went back to evaluation", "charter", "charter-2",
         lambda: write({"charter": APPROVED}, amended(approvals=1))),
    Case("a charter that one operator changed alone", "approvals", "charter-2",
         lambda: write({"charter": APPROVED}, amended(approvals=2, profile="production"))),
]  # fmt: skip

CONTRADICTIONS: list[Case] = [
    change("a refused request that was answered", "denied", "denied", denied=SERVED),
    change("a refused request that used the engine", "denied", "denied",
           denied={"completion.usage.prompt_tokens": 5}),
    change("an outcome that says denied, and a status that says served", "denied", "answer",
           answer={"completion.outcome": "denied"}),
    change("an answer with an error's status", "outcome", "answer", answer={"completion.status": 500}),
    change("an answer without a commitment to it", "outcome", "answer", answer={"completion.response": None}),
    change("an answer by no replica", "outcome", "answer", answer={"completion.attempts": []}),
    change("an answer whose only attempt failed", "outcome", "answer",
           answer={"completion.attempts": attempts("started", "lease", "failed")}),
    change("an answer finished before it was admitted", "time", "answer", answer={"completion.time": T0 + 999}),
    change("more cached tokens than there were", "usage", "answer", answer={"completion.usage.cached_tokens": 11}),
    change("an action nobody knows", "shape", "answer", answer={"admission.action": "train"}),
    change("an effect nobody knows", "shape", "answer", answer={"admission.effect": "maybe"}),
    change("an outcome nobody knows", "shape", "answer", answer={"completion.outcome": "fine"}),
    change("a request id of the client's", "shape", "answer", answer={"admission.request_id": "mine"}),
    change("a commitment that is none", "shape", "answer", answer={"admission.request": "AAAA"}),
    change("a reference that points forward", "reference", "answer", answer={"admission.lease": Ref("renewed")}),
    change("a reference to another type", "reference", "answer", answer={"admission.lease": Ref("policy")}),
    change("an entry that is no JSON", "entry", "answer", answer=b"{"),
    change("a type nobody knows", "entry", "answer", answer=b'{"type":"inference/v9"}'),
    Case("a field out of order", "entry", "stopped", raw("stopped", b'"exact":true', b'"exactly":true')),
    Case("white space", "entry", "answer", raw("answer", b'"admission":', b'"admission": ')),
    Case("half a surrogate", "entry", "charter", raw("charter", b"a test", b"a \\ud800 test")),
    Case("a duplicate key", "entry", "answer", raw("answer", b'"snapshot":3', b'"snapshot":3,"snapshot":4')),
    Case("an index that is none", "entry", "stopped", raw("stopped", b'"started":8', b'"started":true')),
    change("a charter whose text has another hash", "entry", "charter", charter={"sha256": "0" * 64}),
    change("a charter whose entry says something else", "entry", "charter", charter={"jurisdiction": "SG"}),
    change("rules whose text has another hash", "entry", "policy",
           policy={"files": [{"name": "a.cedar", "sha256": "0" * 64, "text": "// no rules"}]}),
    change("a model of another digest than its files", "entry", "model",
           model={"files": [{"path": "config.json", "sha256": "a" * 64, "size": 2},
                            {"path": "model.safetensors", "sha256": "b" * 64, "size": 9}]}),
    change("a model of another digest than its one file", "entry", "model",
           model={"files": [{"path": "model.gguf", "sha256": "a" * 64, "size": 9}]}),
    change("a model of another digest than its manifest", "entry", "model",
           model={"files": [{"path": ".daulat/manifest", "sha256": "a" * 64, "size": 9}]}),
    change("a model with a file that is none", "entry", "model", model={"files": [{"path": "a", "sha256": "b" * 64}]}),
    change("a worker's key that is none", "entry", "worker", worker={"vkey": "ai.example/worker+é+é"}),
    change("a negative count", "entry", "answer", answer={"completion.usage.prompt_tokens": -1}),
    change("decisions of the wrong type", "entry", "lease", lease={"decision.policies": "place.permit"}),
]  # fmt: skip

DECISIONS: list[Case] = [
    change("a permission that the rules do not give", "decision", "answer",
           answer={"admission.attributes.roles": []}),
    change("a denial that the rules do not ask for", "decision", "denied",
           denied={"admission.attributes.citizenship": "MY"}),
    change("a permission by another rule", "decision", "answer", answer={"admission.policies": ["models.permit"]}),
    change("a permission by no rule", "decision", "answer", answer={"admission.policies": []}),
    change("a permission by the gateway", "decision", "answer", answer={"admission.policies": ["gateway.rate"]}),
    change("a lease by another rule", "decision", "lease", lease={"decision.policies": ["use.permit"]}),
    change("a model that the rules do not admit", "decision", "model",
           model={"decision.attributes.citizenship": "XX"}),
    change("a model by another rule", "decision", "model", model={"decision.policies": ["use.permit"]}),
    change("rules that do not parse", "decision", "model",
           policy={"files": [logs.policy_file("a.cedar", "permit everything"),
                             logs.policy_file("a.cedarschema", "")]}),
    change("rules that cannot be had", "decision", "model",
           policy={"files": [{"name": "a.cedar", "sha256": "0" * 64, "text": None}]}),
]  # fmt: skip

SEQUENCES: list[Case] = [
    Case("an admitted request that is missing", "sequence", None, lambda: write(steps=without(story(), "stream"))),
    change("a sequence number that stands twice", "sequence", "stream", stream={"admission.sequence": 1}),
    change(
        "a sequence number that stands twice, in another kind of entry",
        "sequence",
        "denied",
        denied={"admission.sequence": 1},
    ),
    change("a sequence number zero", "sequence", "stream", stream={"admission.sequence": 0}),
    change("a sequence number far ahead", "sequence", "stream", stream={"admission.sequence": 70_000}),
]

COUNTERS: list[Case] = [
    change("prompt tokens behind the gateway's back", "counters", "canary", canary={"counters": counters(17, 10)}),
    change("completion tokens behind the gateway's back", "counters", "canary", canary={"counters": counters(16, 11)}),
    change("use after the log's last answer", "counters", "stopped", stopped={"counters": counters(1025, 14)}),
    change("counters that went backwards", "counters", "canary-2", canary_2={"counters": counters(15, 10)}),
    change("an answer left out, and counted by the engine", "counters", "canary",
           answer=b'{"type":"refusals/v1","time":1750000001000,"worker":3,"from":1,"to":2,"counts":{},"principals":{}}'),
]  # fmt: skip

ROTATION: list[Case] = [
    steps("a key replaced without a signature", "rotation", "key-2",
          lambda: add("worker", Step("key-2", "key/v1", key(35, "worker", WORKER.vkey, replaces=Ref("worker"))))),
    steps("another key of the log, out of nowhere", "rotation", "key-2",
          lambda: add("worker", Step("key-2", "key/v1", key(35, "log", STRANGER.vkey)))),
    Case("a key of the log that one operator replaced alone", "approvals", "key-2",
         lambda: write({"charter": APPROVED}, rekeyed())),
]  # fmt: skip

TREE: list[Case] = [
    Case("a level 0 tile of other entries", "tile", "charter", lambda: tampered("tile/0/000.p/20", flip)),
    Case("an upper tile of another tree", "tile", None, lambda: tampered("tile/1/000.p/2", flip, long_log())),
    Case("an upper tile that is missing", "log", None,
         lambda: (log := long_log(), log.files.pop("tile/1/000.p/2"))[0]),
    Case("a checkpoint over another tree", "root", None, signed_other),
    Case("a checkpoint over more entries than there are", "log", None, lambda: signed_other(size=21)),
    Case("an entry rewritten after signing", "root", None,
         lambda: tampered("tile/entries/000.p/20", lambda data: data.replace(b'"snapshot":3', b'"snapshot":4', 1))),
    Case("an entry bundle that is missing", "log", None, dropped_bundle),
    Case("an entry bundle cut short", "log", None, short_bundle),
]  # fmt: skip

WEAK: list[Case] = [
    steps("a charter that changed", "charter", "charter-2", lambda: amended(country="SG"), lie=False),
    Case("a canary that got out", "escape", "canary-2",
         lambda: write(steps=[*story()[:17], Step("canary-2", "canary/v1", probe(
             11_000, started=Ref("started"), outcome="escaped", counters=counters(24, 14)))]), lie=False),
    steps("an entry long after its time", "late", "late-answer",
          lambda: [*story()[:15], Step("renewed", "node.lease/v1", lease(71_000, canary=Ref("canary"))),
                   asked("late-answer", 5, 9500)], lie=False),
    steps("an engine without readings", "counters", "started",
          lambda: [step for step in story()[:14] if step.name != "canary"], lie=False),
]  # fmt: skip

ALL: list[Case] = [*CHAIN, *CONTRADICTIONS, *DECISIONS, *SEQUENCES, *COUNTERS, *ROTATION, *TREE, *WEAK]


def promises(log: Published) -> Mapping[str, tuple[str | None, Promise]]:
    """Promises about `write()`, each with the finding it must lead to (None: it is kept)."""
    good = log.promise("denied", "stream", of="answer")
    absent = log.promise(of="answer", request_id=logs.request_id(99))
    return {
        "a promise that was kept": (None, good),
        "a promise without its entry": ("promise.broken", _alone(absent)),
        "a promise of other bytes": ("promise.broken", _alone(log.promise(of="answer", admission=bytes(32)))),
        "a promise by another key": ("promise.signature", log.promise(of="answer", signer=STRANGER)),
        "a promise with a forged batch": ("promise.signature", log.promise("denied", of="answer", index=0)),
        "a promise under an entry that is no worker's key": ("promise.signature", log.promise(of="answer", worker=1)),
        "a promise under an entry that is no key": ("promise.signature", log.promise(of="answer", worker=0)),
    }


def _alone(promise: Promise) -> Promise:
    """The promise signed again as a batch of one, so that only its content is wrong."""
    made = replace(promise, size=1, index=0, path=(), root=leaf_hash(promise.leaf()))
    text = signed_text(made.origin, made.worker, made.batch, made.size, made.root, made.deadline)
    return replace(made, signature=WORKER.sign_bytes(text))

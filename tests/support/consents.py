"""Operators in a test's log: their keys, what they propose, and what others sign."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from typing import Any

from tests.support import logs
from tests.support.logs import ORIGIN, T0, Ref, Step

from daulat.core.ceremony import Ceremony, Seat
from daulat.core.consent import Kind, Proposed, naming
from daulat.core.glass import Broken
from daulat.pipeline.ceremony import entry_fields
from daulat.tlog.note import Signer

ONE, TWO, THREE = (Signer(name * 22, bytes([number] * 32)) for number, name in enumerate("abc", 200))
WHO = {"one": ONE, "two": TWO, "three": THREE}
DAY_MS = 86_400_000


SEATS = tuple(Seat(signer.vkey, "MY", "high", T0 + 365 * DAY_MS) for signer in (ONE, TWO, THREE))


def held(said: dict[str, Any], **changes: Any) -> Ceremony:
    """The ceremony of the three for the charter that `said` are the fields of."""
    made = {"origin": ORIGIN, "begun": T0, "charter": said["sha256"], "rules": "1" * 64, "models": ()}
    return Ceremony(**{**made, "roster": "0" * 64, "seats": SEATS, **changes})


def ceremony(said: dict[str, Any], at: int = 30, what: Ceremony | None = None, **changes: Any) -> dict[str, Any]:
    what = held(said) if what is None else what
    signatures = [base64.b64encode(signer.sign_bytes(what.statement())).decode() for signer in WHO.values()]
    fields = {"time": T0 + at, "charter": Ref("charter"), **entry_fields(what, signatures)}
    return logs.changed(fields, changes)


def keys(at: int = 31, **changes: Any) -> list[Step]:
    """The keys of three operators, named "key-one" and so on."""
    return [
        Step(f"key-{who}", "key/v1", {**logs.key(at, "operator", signer.vkey), **changes})
        for who, signer in WHO.items()
    ]


def proposed(number: int, action: str, payload: str, **changes: Any) -> Proposed:
    made = {"origin": ORIGIN, "proposal": f"proposal_{number:032x}", "action": action, "prior": "0" * 64}
    return Proposed(**{**made, "payload": payload, "expires": T0 + DAY_MS, **changes})


def signed(kind: Kind, what: Proposed, signer: Signer) -> str:
    return base64.b64encode(signer.sign_bytes(what.statement(kind))).decode()


def proposal(at: int, what: Proposed, who: str = "one", **changes: Any) -> dict[str, Any]:
    fields = {
        "time": T0 + at,
        "charter": Ref("charter"),
        **{name: getattr(what, name) for name in ("proposal", "action", "prior", "payload", "expires")},
        "key": Ref(f"key-{who}"),
        "signature": signed("proposal", what, WHO[who]),
    }
    return logs.changed(fields, changes)


def approval(at: int, what: Proposed, who: str, of: str, **changes: Any) -> dict[str, Any]:
    fields = {
        "time": T0 + at,
        "proposal": Ref(of),
        "key": Ref(f"key-{who}"),
        "signature": signed("approval", what, WHO[who]),
    }
    return logs.changed(fields, changes)


def done(at: int, of: str, *approvals: str, **changes: Any) -> dict[str, Any]:
    fields = {"time": T0 + at, "proposal": Ref(of), "approvals": [Ref(name) for name in approvals]}
    return logs.changed({**fields, "subject": "d" * 22, "detail": {}}, changes)


def steps(what: Proposed, name: str = "it", at: int = 41) -> list[Step]:
    """Proposed by one, approved by two and three, done: "it-proposal", "it-two", "it-three", "it-done"."""
    return [
        Step(f"{name}-proposal", "proposal/v1", proposal(at, what)),
        *(
            Step(f"{name}-{who}", "approval/v1", approval(at + 1, what, who, f"{name}-proposal"))
            for who in ("two", "three")
        ),
        Step(f"{name}-done", "operator.action/v2", done(at + 2, f"{name}-proposal", f"{name}-two", f"{name}-three")),
    ]


RENEWAL = proposed(5, "operator.renew", "5" * 64)
UNTIL = T0 + 730 * DAY_MS


def renewed(at: int = 20_000, **detail: Any) -> list[Step]:
    """One is renewed, as they proposed and the others approved: the steps "renewal-..." and the key "key-again"."""
    made = steps(RENEWAL, "renewal", at)
    said = {"key": ONE.vkey, "citizenship": "MY", "assurance": "high", "issuer": "operator", "expires": UNTIL, **detail}
    made[-1] = replace(made[-1], fields=done(at + 2, "renewal-proposal", "renewal-two", "renewal-three",
                                             subject=ONE.name, detail=said))  # fmt: skip
    return [*made, Step("key-again", "key/v1", logs.key(at + 3, "operator", ONE.vkey, not_after=UNTIL))]


def named(digest: str) -> str:
    """The payload's digest of a proposal to bring into force what has this one."""
    return hashlib.sha256(naming(digest)).hexdigest()


MODEL = proposed(1, "model.admit", named("d" * 64))
PRODUCTION = logs.charter(approvals=2, profile="production")


def story() -> list[Step]:
    """The story of `logs`, begun by a key ceremony under the charter PRODUCTION, its model admitted by consent."""
    begun = Step("ceremony", "ceremony/v1", ceremony(PRODUCTION))
    made = logs.after(logs.after(logs.story(), "action", *steps(MODEL, "model-consent")), "worker", begun, *keys())
    return [replace(made[0], fields={**made[0].fields, **PRODUCTION}), *made[1:]]


GLASS = Broken(proposed(2, "policy.change", named("e" * 64), expires=T0 + 3_600_000), "outage", "9" * 64)


def broken() -> list[Step]:
    """The same story, in which one operator broke the glass for an hour: "glass"."""
    what = GLASS
    names = ("origin", "proposal", "action", "prior", "payload", "expires")
    fields = {
        "time": T0 + 45,
        "charter": Ref("charter"),
        **{name: getattr(what.made, name) for name in names},
        "cause": what.cause,
        "reason": what.reason,
        "vkey": ONE.vkey,
        "signature": base64.b64encode(ONE.sign_bytes(what.statement())).decode(),
        "restates": None,
    }
    return logs.after(story(), "key-three", Step("glass", "break-glass/v1", fields))


def reviewed() -> list[Step]:
    """What it was broken for was done: "acted"; two others reviewed it: "review-two" and so on, "closed"."""
    refused = {
        "charter": Ref("charter"),
        "attempt": "review",
        "proposal": None,
        "operator": ONE.name,
        "reason": "twice",
    }
    reviews = [
        {
            "glass": Ref("glass"),
            "verdict": "justified",
            "key": Ref(f"key-{who}"),
            "signature": base64.b64encode(WHO[who].sign_bytes(GLASS.review("justified"))).decode(),
        }
        for who in ("two", "three")
    ]
    return logs.after(
        broken(),
        "glass",
        Step("acted", "operator.action/v3", {"time": T0 + 46, "glass": Ref("glass"), "subject": "s", "detail": {}}),
        Step("review-two", "review/v1", {"time": T0 + 47, **reviews[0]}),
        Step("refused", "consent.refused/v1", {"time": T0 + 48, **refused}),
        Step("review-three", "review/v1", {"time": T0 + 48, **reviews[1]}),
        Step(
            "closed",
            "review.closed/v1",
            {"time": T0 + 49, "glass": Ref("glass"), "reviews": [Ref("review-two"), Ref("review-three")]},
        ),
    )

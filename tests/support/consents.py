"""Operators in a test's log: their keys, what they propose, and what others sign."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from tests.support import logs
from tests.support.logs import ORIGIN, T0, Ref, Step

from daulat.core.consent import Kind, Proposed, naming
from daulat.tlog.note import Signer

ONE, TWO, THREE = (Signer(name * 22, bytes([number] * 32)) for number, name in enumerate("abc", 200))
WHO = {"one": ONE, "two": TWO, "three": THREE}
DAY_MS = 86_400_000


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


def named(digest: str) -> str:
    """The payload's digest of a proposal to bring into force what has this one."""
    return hashlib.sha256(naming(digest)).hexdigest()


MODEL = proposed(1, "model.admit", named("d" * 64))


def story() -> list[Step]:
    """The story of `logs`, in which the model is admitted by consent."""
    return logs.after(logs.after(logs.story(), "action", *steps(MODEL, "model-consent")), "worker", *keys())

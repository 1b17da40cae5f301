"""What several operators have to agree to: proposed, approved and done once, each signed by an operator's own key.

`core.consent` says what is signed, `audit.consent` checks all of it again from the log. What is to be done, the
payload, stays in the control database, where it may name people; the log has its digest. Whatever is refused here
changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from daulat.core.charter import Charter
from daulat.core.clock import Clock
from daulat.core.consent import LONGEST_MS, Proposed, key_of
from daulat.errors import Conflict, InvalidRequest, PermissionDenied, VerificationFailed
from daulat.pipeline.eligible import no_operator, signing
from daulat.pipeline.operate import Log, Rows
from daulat.tlog.note import Verifier

_DAY_MS: Final = 86_400_000
_MOST_PAYLOAD: Final = 1_048_576  # characters


@dataclass(frozen=True, slots=True)
class Prepared:
    """An act that can be done now: what the log may say of it, and the doing, whose value may be shown."""

    subject: str  # a pseudonym or digest
    detail: Mapping[str, Any]
    carry_out: Callable[[], Awaitable[Any]]


class Act(Protocol):
    """Port: one kind of act that needs consent."""

    def payload(self, arguments: Mapping[str, Any]) -> str:
        """The exact bytes of what would be done."""

    def read(self, payload: str) -> Mapping[str, Any]:
        """Its arguments again.

        Raises:
            InvalidRequest: it is no payload of such an act.
        """

    def prior(self, arguments: Mapping[str, Any]) -> str:
        """The state it would change, as text that differs when that state does, beyond charter and operators.

        Raises:
            InvalidRequest, NotFound, Conflict: it cannot be done so.
        """

    def prepare(self, arguments: Mapping[str, Any]) -> Prepared:
        """Ready to be done. Its entry is in the log before it is."""

    def vouches_for(self, arguments: Mapping[str, Any]) -> str:
        """The id of the person for whom those who approve vouch, and who so does not approve; "" for nobody."""


class Told:
    """An act whose payload may name people: with a nonce, so that nobody finds it by trying out digests."""

    def vouches_for(self, _arguments: Mapping[str, Any]) -> str:
        return ""

    def payload(self, arguments: Mapping[str, Any]) -> str:
        value = {"arguments": dict(arguments), "nonce": os.urandom(16).hex()}
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    def read(self, payload: str) -> Mapping[str, Any]:
        """Raises InvalidRequest: it is something else."""
        try:
            value = json.loads(payload)
        except (ValueError, RecursionError):
            raise InvalidRequest("a proposal's payload is JSON") from None
        if not isinstance(value, dict) or set(value) != {"arguments", "nonce"}:
            raise InvalidRequest("a proposal's payload is an object of arguments and a nonce")
        if not isinstance(value["arguments"], dict):
            raise InvalidRequest("a proposal's arguments are an object")
        return value["arguments"]


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signs: the public key, under whatever name, and 64 bytes in base64."""

    vkey: str
    signature: str


class Consent:
    """Proposals of one log. `acts`: what can be proposed, by name."""

    def __init__(
        self, rows: Rows, log: Log, clock: Clock, charter: tuple[int, Charter], origin: str, acts: Mapping[str, Act]
    ) -> None:
        self._rows, self._log, self._clock, self._origin, self._acts = rows, log, clock, origin, acts
        self._charter_index, self._charter = charter

    def draft(self, action: str, arguments: Mapping[str, Any], *, days: int = 7) -> dict[str, Any]:
        """What a proposal of this act would be, for its proposer to look at and to sign.

        Raises:
            InvalidRequest, NotFound, Conflict: there is no such act, or it cannot be done so.
        """
        if not 0 < days * _DAY_MS <= LONGEST_MS:
            raise InvalidRequest("a proposal is open for 1 to 31 days")
        prior = self._state(action, arguments)
        payload = self._acts[action].payload(arguments)
        made = Proposed(
            self._origin,
            f"proposal_{os.urandom(16).hex()}",
            action,
            prior,
            _sha256(payload),
            self._clock.now_ms() + days * _DAY_MS,
        )
        return _shown(made, payload)

    async def propose(self, drafted: Mapping[str, Any], by: Signature) -> dict[str, Any]:
        """Take a draft that its proposer has signed; done at once where nobody else has to agree.

        Raises:
            InvalidRequest: it is none; PermissionDenied: the key is no eligible operator's, or has not signed this.
            Conflict: the state has moved on since it was drafted.
        """
        made, payload = self.checked(drafted)
        arguments = self.act(made.action).read(payload)
        key = self.signer(by, made.statement("proposal"), "proposal")
        self.unmoved(made, arguments)
        fields = {name: getattr(made, name) for name in ("proposal", "action", "prior", "payload", "expires")}
        entry = {"charter": self._charter_index, **fields, "key": key["position"], "signature": by.signature}
        position = await self._log("proposal/v1", entry)
        kept = {
            "origin": self._origin,
            "action": made.action,
            "payload": payload,
            "prior": made.prior,
            "expires": made.expires,
        }
        place = {"key": key["id"], "position": position, "done": None}
        self._rows.add("proposals", {"id": made.proposal, "name": made.proposal, **kept, **place})
        return await self._done_if_agreed(made.proposal)

    def checked(self, drafted: Mapping[str, Any]) -> tuple[Proposed, str]:
        """What a draft says, and its payload; nothing of it has been tried yet.

        Raises:
            InvalidRequest: it is none; Conflict: it was proposed before.
        """
        payload = drafted.get("payload")
        if not isinstance(payload, str) or len(payload) > _MOST_PAYLOAD:
            raise InvalidRequest(f"a proposal's payload is a text of at most {_MOST_PAYLOAD} characters")
        made = Proposed(self._origin, *_texts(drafted), _sha256(payload), _number(drafted, "expires"))
        if words := made.wrong():
            raise InvalidRequest(words)
        if not 0 < made.expires - self._clock.now_ms() <= LONGEST_MS:
            raise InvalidRequest("a proposal is open for at most 31 days, and not until yesterday")
        self.act(made.action)
        if any(row["id"] == made.proposal for row in self._rows.rows("proposals")):
            raise Conflict(f"proposal {made.proposal} exists already")
        return made, payload

    async def approve(self, proposal: str, by: Signature) -> dict[str, Any]:
        """Take another operator's approval; with the last one that is needed, the act is done.

        Raises:
            NotFound: there is no such proposal; Conflict: it is over, the state has moved on, or it was approved so.
            PermissionDenied: the key is the proposer's own, or theirs for whom the others are to vouch, is no eligible
                operator's, or has not signed this.
        """
        row, made = self._open(proposal)
        key = self.signer(by, made.statement("approval"), "approval")
        act = self.act(made.action)
        arguments = act.read(row["payload"])
        self.unmoved(made, arguments)
        if self.holder(key["id"]) == self.holder(row["key"]):
            raise PermissionDenied("whoever proposes does not approve: others have to agree", code="own_proposal")
        if self.holder(key["id"]) == act.vouches_for(arguments):
            said = "nobody vouches for themselves: others approve of this. Whoever it is about may propose it"
            raise PermissionDenied(said, code="own_renewal")
        if self.holder(key["id"]) in {self.holder(each["key"]) for each in self._approvals(proposal)}:
            raise Conflict("this operator has approved it already", code="twice")
        entry = {"proposal": row["position"], "key": key["position"], "signature": by.signature}
        position = await self._log("approval/v1", entry)
        id_ = f"approval_{os.urandom(12).hex()}"
        self._rows.add("approvals", {"id": id_, "proposal": proposal, "key": key["id"], "position": position})
        return await self._done_if_agreed(proposal)

    def show(self, proposal: str) -> dict[str, Any]:
        """A proposal as it is: fields, payload, who agreed, how many more have to, and whether it can still be done.

        Raises:
            NotFound: there is no such proposal.
        """
        row = self._rows.find("proposals", proposal)
        shown = _shown(self._proposed(row), row["payload"])
        approvals = [self.holder_name(each["key"]) for each in self._approvals(row["id"])]
        void, over = not row["payload"], self._clock.now_ms() > row["expires"]
        state = "done" if row["done"] is not None else "void" if void else "over" if over else "open"
        by = {"proposed_by": self.holder_name(row["key"]), "approved_by": approvals}
        needed = self._charter.approvals
        left = max(0, needed - len(self._standing(row["id"]))) if state == "open" else 0
        return {**shown, "state": state, **by, "needed": needed, "left": left}

    def all(self) -> list[dict[str, Any]]:
        """All proposals, oldest first, without their payloads."""
        every = (self.show(row["id"]) for row in self._rows.rows("proposals"))
        return [{name: value for name, value in each.items() if name != "payload"} for each in every]

    async def _done_if_agreed(self, proposal: str) -> dict[str, Any]:
        row, approvals = self._rows.find("proposals", proposal), self._standing(proposal)
        if len(approvals) < self._charter.approvals:
            return self.show(proposal)
        act = self.act(row["action"])
        prepared = act.prepare(act.read(row["payload"]))
        entry = {"proposal": row["position"], "approvals": [each["position"] for each in approvals]}
        # Done once: a crash between the entry and the act leaves a proposal that is over, and has to be made again.
        self._rows.change("proposals", proposal, done=self._clock.now_ms())
        said = {"subject": prepared.subject, "detail": dict(prepared.detail)}
        await self._log("operator.action/v2", {**entry, **said})
        return {**self.show(proposal), "result": await prepared.carry_out()}

    def _open(self, proposal: str) -> tuple[dict[str, Any], Proposed]:
        row = self._rows.find("proposals", proposal)
        if row["done"] is not None:
            raise Conflict(f"proposal {row['id']} was carried out already", code="done")
        if not row["payload"]:  # `pipeline.erase` took it
            raise Conflict(f"proposal {row['id']} is void: whom it was about has been erased", code="void")
        if row["origin"] != self._origin:
            raise Conflict(f"proposal {row['id']} stands in an older shard of the log: propose it again", code="over")
        if self._clock.now_ms() > row["expires"]:
            raise Conflict(f"proposal {row['id']} is over: propose it again", code="over")
        return row, self._proposed(row)

    def _proposed(self, row: Mapping[str, Any]) -> Proposed:
        fields = (row["id"], row["action"], row["prior"], _sha256(row["payload"]), row["expires"])
        return Proposed(row["origin"], *fields)

    def act(self, action: str) -> Act:
        """Raises InvalidRequest: there is no such act."""
        if action not in self._acts:
            raise InvalidRequest(f"{action[:40]!r} cannot be proposed; {', '.join(sorted(self._acts))} can")
        return self._acts[action]

    def _state(self, action: str, arguments: Mapping[str, Any]) -> str:
        managing = sorted((row["vkey"], row["revoked"] is None) for row in self._rows.rows("operator_keys"))
        state = json.dumps([self._charter_index, managing, self.act(action).prior(arguments)])
        return _sha256(state)

    def unmoved(self, made: Proposed, arguments: Mapping[str, Any]) -> None:
        """Raises Conflict: the state is another than the one it was made for; and whatever `Act.prior` raises."""
        if self._state(made.action, arguments) != made.prior:
            raise Conflict("the state that this was proposed for has changed since: propose it again", code="moved")

    def _approvals(self, proposal: str) -> list[dict[str, Any]]:
        return [row for row in self._rows.rows("approvals") if row["proposal"] == proposal]

    def _standing(self, proposal: str) -> list[dict[str, Any]]:
        """The approvals that count now: of whoever has been revoked or has expired since, theirs does not."""
        now = signing(self._rows, self._charter, self._clock.now_ms())
        return [row for row in self._approvals(proposal) if row["key"] in now]

    def signer(self, by: Signature, data: bytes, what: str) -> dict[str, Any]:
        """The row of an eligible operator's key that has signed these bytes.

        Raises:
            PermissionDenied: there is none.
        """
        try:
            name = public(by.vkey)
            row = next((row for row in self._rows.rows("operator_keys") if row["name"] == name), None)
            if row is None or row["revoked"] is not None:
                raise PermissionDenied("this key is not that of an operator of this installation", code="revoked")
            signature = base64.b64decode(by.signature, validate=True)
            Verifier(row["vkey"]).verify_bytes(data, signature)
        except (VerificationFailed, ValueError):
            raise PermissionDenied(
                f"the {what} is not signed by this operator's key over these bytes", code="not_signed"
            ) from None
        self._eligible(row["person"])
        return row

    def _eligible(self, id_: str) -> None:
        person = self._rows.find("people", id_)
        if why := no_operator(self._rows, person, self._charter, self._clock.now_ms()):
            raise PermissionDenied(f"{person['name']}: {why}", code="not_eligible")

    def holder(self, key: str) -> str:
        """The person whose key has this id."""
        return str(self._rows.find("operator_keys", key)["person"])

    def holder_name(self, key: str) -> str:
        """Their name."""
        return str(self._rows.find("people", self.holder(key))["name"])


def public(vkey: str) -> str:
    """A public key in base64, whatever name its vkey gives it.

    Raises:
        VerificationFailed: it is no vkey.
    """
    return key_of(Verifier(vkey).vkey)


def _shown(made: Proposed, payload: str) -> dict[str, Any]:
    fields = {name: getattr(made, name) for name in ("origin", "proposal", "action", "prior", "expires")}
    return {**fields, "payload": payload}


def _texts(drafted: Mapping[str, Any]) -> tuple[str, str, str]:
    values = [drafted.get(name) for name in ("proposal", "action", "prior")]
    if not all(isinstance(value, str) for value in values):
        raise InvalidRequest("a proposal has an id, an action and a prior state's digest")
    first, second, third = (str(value) for value in values)
    return first, second, third


def _number(drafted: Mapping[str, Any], name: str) -> int:
    value = drafted.get(name)
    if type(value) is not int:
        raise InvalidRequest(f"a proposal's {name} is a whole number of milliseconds")
    return value


def _sha256(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()

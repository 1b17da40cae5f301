"""Breaking glass: one operator does what cannot wait, everybody is told at once, and two others review it.

`core.glass` says what is signed, `audit.glass` checks all of it again from the log. The act is the one that would have
been proposed, with the same payload, through the same port (`pipeline.consent.Act`).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daulat.core.charter import Charter
from daulat.core.clock import Clock
from daulat.core.consent import Proposed
from daulat.core.glass import BREAKABLE, LONGEST_MS, REVIEWERS, VERDICTS, Broken, reason
from daulat.errors import Conflict, InvalidRequest, PermissionDenied
from daulat.pipeline.book import Book
from daulat.pipeline.consent import Consent, Signature
from daulat.pipeline.operate import Rows

_HOUR_MS: Final = 3_600_000
_LONGEST_WORDS: Final = 2_000
Tell = Callable[[Mapping[str, Any]], Awaitable[list[str]]]
"""Port: tell everybody who is to know; the names of those ways that failed, to be tried again (`adapters.notices`)."""


@dataclass(frozen=True, slots=True)
class Glass:
    """Use cases over one log. `index` is the charter's."""

    rows: Rows
    book: Book
    clock: Clock
    index: int
    charter: Charter
    consent: Consent
    tell: Tell

    def draft(self, action: str, arguments: Mapping[str, Any], cause: str, words: str, hours: int) -> dict[str, Any]:
        """What would be done, for whoever breaks the glass to look at and to sign.

        Raises:
            InvalidRequest, NotFound, Conflict: it cannot be done, or not so.
        """
        if action not in BREAKABLE:
            raise InvalidRequest(f"{action[:40]!r} is never done by breaking glass: it is proposed, and others agree")
        if not 0 < hours * _HOUR_MS <= LONGEST_MS:
            raise InvalidRequest("glass is broken for 1 to 24 hours")
        nonce = os.urandom(16).hex()
        shown = self.consent.draft(action, arguments)
        shown |= {"expires": self.clock.now_ms() + hours * _HOUR_MS, "cause": cause, "words": words, "nonce": nonce}
        self._checked(shown)
        return shown

    async def break_(self, drafted: Mapping[str, Any], by: Signature) -> dict[str, Any]:
        """Do it: written down, told to everybody, done.

        Raises:
            InvalidRequest: it is no such draft; PermissionDenied: the key is no eligible operator's, or has not signed
            this; Conflict: the state has moved on, nobody else would have to agree, or a review is overdue.
        """
        broken, payload = self._checked(drafted)
        made = broken.made
        if not self.charter.approvals:
            raise Conflict("nobody else has to agree here: propose it, and it is done")
        if late := [row["id"] for row in self.rows.rows("glasses") if self._overdue(row)]:
            raise Conflict(
                f"the review of {late[0]} is overdue: before anything else two others review it", code="overdue"
            )
        key = self.consent.signer(by, broken.statement(), "breaking of glass")
        act = self.consent.act(made.action)
        arguments = act.read(payload)
        self.consent.unmoved(made, arguments)
        row = {
            **{name: getattr(made, name) for name in ("origin", "action", "prior", "expires")},
            **{name: drafted[name] for name in ("cause", "words", "nonce")},
            "id": made.proposal,
            "name": made.proposal,
            "payload": payload,
            "key": key["id"],
            "signature": by.signature,
        }
        position = await self._write(row, None)
        place = {"shard": self.book.origin, "position": position, "done": None, "closed": None, "untold": []}
        self.rows.add("glasses", {**row, **place})
        await self.tell_of(made.proposal)
        prepared = act.prepare(arguments)
        self.rows.change("glasses", made.proposal, done=self.clock.now_ms())  # once, as in `Consent`
        said = {"glass": position, "subject": prepared.subject, "detail": dict(prepared.detail)}
        await self.book.write("operator.action/v3", said)
        result = await prepared.carry_out()
        return {**self.show(made.proposal), "result": result}

    async def review(self, proposal: str, verdict: str, by: Signature) -> dict[str, Any]:
        """Take another operator's word on it; with the second one the review is closed.

        Raises:
            NotFound: no such glass was broken; Conflict: its review is closed, or this operator has given theirs.
            PermissionDenied: the key is that of whoever broke it, is no eligible operator's, or has not signed this.
        """
        row = self.rows.find("glasses", proposal)
        if verdict not in VERDICTS:
            raise InvalidRequest(f"a verdict is one of {', '.join(VERDICTS)}")
        if row["closed"] is not None:
            raise Conflict(f"the review of {row['id']} is closed", code="done")
        key = self.consent.signer(by, _broken(row).review(verdict), "review")
        if self.consent.holder(key["id"]) == self.consent.holder(row["key"]):
            raise PermissionDenied("whoever broke the glass does not review it: two others do", code="own_proposal")
        if self.consent.holder(key["id"]) in {self.consent.holder(each["key"]) for each in self._reviews(row["id"])}:
            raise Conflict("this operator has reviewed it already", code="twice")
        entry = {"glass": row["position"], "verdict": verdict, "key": key["position"], "signature": by.signature}
        position = await self.book.write("review/v1", entry)
        mine = {"id": f"review_{os.urandom(12).hex()}", "glass": row["id"], "key": key["id"], "verdict": verdict}
        self.rows.add("reviews", {**mine, "shard": self.book.origin, "position": position})
        reviews = self._reviews(row["id"])
        if len(reviews) >= REVIEWERS:
            closing = {"glass": row["position"], "reviews": [each["position"] for each in reviews]}
            await self.book.write("review.closed/v1", closing)
            self.rows.change("glasses", row["id"], closed=self.clock.now_ms())
        return self.show(row["id"])

    def show(self, proposal: str) -> dict[str, Any]:
        """What was done, by whom and why, and who has reviewed it.

        Raises:
            NotFound: no such glass was broken.
        """
        row = self.rows.find("glasses", proposal)
        state = "closed" if row["closed"] is not None else "overdue" if self._overdue(row) else "open"
        fields = ("origin", "action", "prior", "payload", "expires", "cause", "words", "nonce", "untold")
        reviews = [
            {"by": self.consent.holder_name(each["key"]), "verdict": each["verdict"]}
            for each in self._reviews(row["id"])
        ]
        return {
            "proposal": row["id"],
            **{name: row[name] for name in fields},
            "by": self.consent.holder_name(row["key"]),
            "done": row["done"] is not None,
            "state": state,
            "due": row["expires"] + self.charter.review_ms,
            "reviews": reviews,
        }

    def all(self) -> list[dict[str, Any]]:
        """All broken glass, oldest first, without payloads."""
        return [
            {name: value for name, value in self.show(row["id"]).items() if name not in {"payload", "nonce"}}
            for row in self.rows.rows("glasses")
        ]

    async def begin(self) -> None:
        """In a new shard, state again what is still open; what was said of it in the older one is said anew."""
        for row in self.rows.rows("glasses"):
            if row["closed"] is None and row["shard"] != self.book.origin:
                position = await self._write(row, {"origin": row["shard"], "index": row["position"]})
                self.rows.change("glasses", row["id"], shard=self.book.origin, position=position)

    async def tell_of(self, proposal: str) -> None:
        """Tell everybody, or those who have not been told yet."""
        shown = self.show(proposal)
        notice = {
            name: shown[name] for name in ("origin", "proposal", "action", "cause", "words", "by", "expires", "due")
        }
        self.rows.change("glasses", proposal, untold=await self.tell({"notice": "break-glass", **notice}))

    async def tell_again(self) -> None:
        """Try again what failed."""
        for row in self.rows.rows("glasses"):
            if row["untold"]:
                await self.tell_of(row["id"])

    async def _write(self, row: Mapping[str, Any], restates: Mapping[str, Any] | None) -> int:
        broken, key = _broken(row), self.rows.find("operator_keys", row["key"])
        made = {
            name: getattr(broken.made, name) for name in ("origin", "proposal", "action", "prior", "payload", "expires")
        }
        why = {"cause": broken.cause, "reason": broken.reason}
        signed = {"vkey": key["vkey"], "signature": row["signature"], "restates": restates}
        return await self.book.write("break-glass/v1", {"charter": self.index, **made, **why, **signed})

    def _checked(self, drafted: Mapping[str, Any]) -> tuple[Broken, str]:
        made, payload = self.consent.checked(drafted)
        cause, words, nonce = (drafted.get(name) for name in ("cause", "words", "nonce"))
        if not isinstance(words, str) or not 0 < len(words.strip()) <= _LONGEST_WORDS:
            raise InvalidRequest(f"say why, in at most {_LONGEST_WORDS} characters: the others will read it")
        if not isinstance(cause, str) or not isinstance(nonce, str) or len(nonce) < 32:  # noqa: PLR2004  128 bits
            raise InvalidRequest("a cause is a word, and a nonce 32 hex digits")
        if made.expires - self.clock.now_ms() > LONGEST_MS:
            raise InvalidRequest("glass is broken for at most 24 hours")
        broken = Broken(made, cause, reason(words, nonce))
        if wrong := list(broken.wrong()):
            raise InvalidRequest("; ".join(wrong))
        if any(row["id"] == made.proposal for row in self.rows.rows("glasses")):
            raise Conflict(f"{made.proposal} was done already")
        return broken, payload

    def _reviews(self, glass: str) -> list[dict[str, Any]]:
        """Those that stand in this log: a closing entry can point at no others."""
        return [row for row in self.rows.rows("reviews") if (row["glass"], row["shard"]) == (glass, self.book.origin)]

    def _overdue(self, row: Mapping[str, Any]) -> bool:
        return row["closed"] is None and self.clock.now_ms() > row["expires"] + self.charter.review_ms


def _broken(row: Mapping[str, Any]) -> Broken:
    made = Proposed.of(row["origin"], row["id"], row["action"], row["prior"], row["payload"], row["expires"])
    return Broken(made, row["cause"], reason(row["words"], row["nonce"]))

"""What the control process offers to operators: proposals, approvals, the key of the first; and what is in force."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from daulat.adapters import rpc
from daulat.adapters.control_db import ControlDatabase
from daulat.adapters.log_files import Blobs
from daulat.adapters.models import ModelStore
from daulat.core import charter as charters
from daulat.core.charter import Charter
from daulat.core.clock import Clock, SystemClock
from daulat.core.consent import CHARTER, LOG_KEY, MODEL, OPERATOR, POLICY
from daulat.core.files import text_of
from daulat.errors import ConfigError, InvalidRequest, NotFound, PermissionDenied, Unavailable
from daulat.pipeline import establish
from daulat.pipeline.agreed import Agreed, Naming, sha256
from daulat.pipeline.book import Book
from daulat.pipeline.ceremony import ENTRY as CEREMONY
from daulat.pipeline.ceremony import Drawn, Holding, restate
from daulat.pipeline.consent import Act, Consent, Signature
from daulat.pipeline.eligible import SOON_MS, ending, signing
from daulat.pipeline.glass import Glass, Tell
from daulat.pipeline.operate import Desk
from daulat.pipeline.operators import Adding, First, Renewing, Revoking, certified
from daulat.pipeline.refused import Refusals
from daulat.pipeline.rekey import Rekeying
from daulat.policy.bundle import Bundle, from_files, load
from daulat.processes import ceremonies, checking
from daulat.registry.model import ModelFacts
from daulat.settings import Home

_log = logging.getLogger(__name__)
_AGAIN_SECONDS: Final = 60.0
_CHARTER_WAITS: Final = (
    "charter.toml is another than the charter in force, which stays: nobody has agreed to it. "
    "`daulat operate change-charter`"
)
_RULES_WAIT: Final = (
    "the rules in policies/ and those that ship are others than the rules in force, which stay: nobody has agreed to "
    "them. `daulat operate change-rules`"
)


@dataclass(frozen=True, slots=True)
class InForce:
    """Charter and rules of this start. `waiting`: what stands in the home and was not agreed to, in words."""

    text: str
    bundle: Bundle
    waiting: tuple[str, ...]
    ceremony: Drawn | None = None  # finished, and not in the log yet: it brings this charter


def in_force(rows: ControlDatabase, home: Home) -> InForce:
    """What the files of the home say, where it is new only if it was agreed to; else what the log has in force.

    Raises:
        ConfigError: the rules do not validate, or a new charter asks for more approvals than operators can give, or
            enters production without a key ceremony, or leaves it; or a finished ceremony is for something else.
    """
    agreed, waiting = Agreed(rows, SystemClock().now_ms()), list[str]()
    text, bundle = text_of(home.charter), load(home.policies)
    if (drawn := ceremonies.pending(rows, home)) is not None:
        ceremonies.agrees(rows, home, drawn, bundle)
        return InForce(text, bundle, (), drawn)
    charter, rules = rows.live("charter/v1"), rows.live("policy/v1")
    if charter is not None and not agreed.charter(sha256(text)):
        text = charter["value"]["text"]
        waiting.append(_CHARTER_WAITS)
    elif charter is None or charter["value"]["sha256"] != sha256(text):
        ceremonies.entered(rows, charters.parse(text, location=str(home.charter)), str(home.charter))
        _enough(rows, text, str(home.charter))
    if rules is not None and not agreed.policy(bundle.version):
        files, blobs = rules["value"]["files"], Blobs(home.log / "blob")
        bundle = from_files({file["name"]: file["text"] or blobs.get(file["sha256"]).decode() for file in files})
        waiting.append(_RULES_WAIT)
    return InForce(text, bundle, tuple(waiting))


def _enough(rows: ControlDatabase, text: str, location: str) -> None:
    """Nobody locks themselves out: there would be no way back."""
    if words := _too_few(rows, charters.parse(text, location=location), SystemClock().now_ms()):
        raise ConfigError(f"{words}, under the charter from before (docs/operators.md)", location=location)


def _too_few(rows: ControlDatabase, new: Charter, now: int) -> str:
    """Why nothing could be agreed to under this charter, in words, or ""."""
    needed, there = new.approvals, len(signing(rows, new, now))
    if not needed or there > needed:
        return ""
    return (
        f"approvals = {needed} needs {needed + 1} operators with keys, and there are {there} whose signature this "
        "charter counts: add or renew them first"
    )


class Consenting:
    """Consent over the control database and the log of this installation."""

    def __init__(
        self,
        rows: ControlDatabase,
        book: Book,
        clock: Clock,
        charter: tuple[int, Charter],
        desk: Desk,
        home: Home,
        tell: Tell,
    ) -> None:
        index, read = charter
        self._rows, self._home, self._charter, self._clock = rows, home, read, clock

        async def certify(vkey: str, until: int) -> int:
            return await establish.key(book, index, OPERATOR, vkey, not_after=until)

        self._acts: dict[str, Act] = {
            "operator.add": Adding(rows, certify, clock, read, book.origin),
            "operator.renew": Renewing(rows, certify, clock, read, book.origin),
            "operator.revoke": Revoking(rows, book.write, clock, read),
            CHARTER: Naming(self._is_charter),
            POLICY: Naming(self._is_policy),
            MODEL: Naming(self._is_model),
            LOG_KEY: Rekeying(self._log_key, partial(checking.free, home)),
        }
        self._certify, self._book, self._index = certify, book, index
        self._ending = ""  # as `_measure` found it: the people of many tenants are not read for every question
        self._consent = Consent(rows, book.write, clock, charter, book.origin, self._acts)
        self._refusals = Refusals(rows, book.write, clock, index)
        self._glass = Glass(rows, book, clock, index, read, self._consent, tell)
        self._first = First(rows, certify, desk, read, book.origin)
        self._holding = Holding(book, rows, desk, certify, clock)

    def offer(self, action: str, act: Act) -> None:
        """Let one more kind of act be proposed (docs/developer.md, *An act that needs consent*)."""
        self._acts[action] = act

    def handlers(self, changes: Callable[[Callable[..., Any]], rpc.Handler]) -> dict[str, rpc.Handler]:
        """By method; `changes` makes one of an administrative act."""
        return {
            "consent.draft": self._draft,
            "consent.show": self._show,
            "consent.all": self._all,
            "consent.propose": changes(self._propose),
            "consent.approve": changes(self._approve),
            "glass.draft": self._glass_draft,
            "glass.show": self._glass_show,
            "glass.all": self._glass_all,
            "glass.break": changes(self._break),
            "glass.review": changes(self._review),
            "operator.first": changes(self._first.register),
            "operators": self._operators,
        }

    async def begin(self, drawn: Drawn | None) -> None:
        """The key ceremony and operators' keys stand in this log. `drawn`: a ceremony that does not yet."""
        await restate(self._book, self._index)
        if drawn is not None or self._book.held(CEREMONY) is not None:
            await self._holding.hold(drawn, self._index, self._charter)
        await certified(self._rows, self._certify, self._book.origin)
        await self._glass.begin()
        self._measure()
        for words in self.warnings():
            _log.warning("%s", words)

    async def watch(self) -> None:
        """For as long as the service runs: whoever could not be told is told again, and metrics stay true."""
        while True:
            await asyncio.sleep(_AGAIN_SECONDS)
            try:
                await self._glass.tell_again()
                self._measure()
            except Unavailable as error:  # the control database is away: with the next round it may be back
                _log.warning("notices and reviews were not looked at: %s", error.message)

    def reviews(self) -> list[dict[str, Any]]:
        """What was done by breaking glass, and waits for its review."""
        return [row for row in self._glass.all() if row["state"] != "closed"]

    def warnings(self) -> list[str]:
        """What is still well, and will not be unless somebody does something, in words."""
        return [self._ending] if self._ending else []

    def ceremony(self) -> int | None:
        """The log index of the key ceremony, where there was one."""
        return self._book.index(CEREMONY)

    def established(self) -> dict[str, Any]:
        """What the key ceremony established, as its entry says. Raises NotFound: there was none."""
        held = self._book.held(CEREMONY)
        if held is None:
            raise NotFound("there was no key ceremony: this installation is an evaluation")
        return {"entry": held["position"], **held["value"]}

    def must_be_agreed(self, facts: ModelFacts) -> None:
        """Raises PermissionDenied: this model was never admitted, and nobody has agreed to it."""
        agreed = Agreed(self._rows, self._clock.now_ms())
        if not agreed.model(facts.digest):
            raise PermissionDenied(
                f"model {facts.name} ({facts.digest[:16]}) is new, and the charter asks for the approval of "
                f"{agreed.needed} others: daulat operate admit-model {facts.name} --key FILE"
            )

    def _is_charter(self, digest: str) -> None:
        text = text_of(self._home.charter)
        if (here := sha256(text)) != digest:
            raise InvalidRequest(f"charter.toml has the digest {here}: only what stands there can come into force")
        new = charters.parse(text, location=str(self._home.charter))
        if new.name != self._charter.name:
            raise InvalidRequest(f"the log's name is {self._charter.name!r} and stays so: it is in every receipt")
        if words := charters.irreversible(self._charter, new):
            raise InvalidRequest(f"this charter {words}: no consent changes that")
        if (self._charter.profile, new.profile) == ("evaluation", "production"):
            raise InvalidRequest("profile 'production' is entered by a key ceremony: daulat init draft")
        if words := _too_few(self._rows, new, self._clock.now_ms()):
            raise InvalidRequest(words)

    def _is_policy(self, version: str) -> None:
        if (here := load(self._home.policies).version) != version:
            raise InvalidRequest(f"the rules here have the digest {here}: only they can come into force")

    def _is_model(self, digest: str) -> None:
        if ModelStore(self._home.models).find(digest).digest != digest:
            raise InvalidRequest("a model is named by its whole digest")

    def _log_key(self) -> str:
        held = self._book.held("key/v1", "log")
        if held is None:
            raise AssertionError("the service offers this before its log has a key")
        return str(held["value"]["vkey"])

    async def _draft(self, action: str, arguments: Mapping[str, Any], days: int) -> dict[str, Any]:
        return self._consent.draft(action, arguments, days=days)

    async def _show(self, proposal: str) -> dict[str, Any]:
        return self._consent.show(proposal)

    async def _all(self) -> list[dict[str, Any]]:
        return self._consent.all()

    async def _propose(self, drafted: Mapping[str, Any], vkey: str, signature: str) -> dict[str, Any]:
        async with self._refusals.noted("proposal", drafted.get("proposal"), vkey):
            return self._measured(await self._consent.propose(drafted, Signature(vkey, signature)))

    async def _approve(self, proposal: str, vkey: str, signature: str) -> dict[str, Any]:
        async with self._refusals.noted("approval", proposal, vkey):
            return self._measured(await self._consent.approve(proposal, Signature(vkey, signature)))

    async def _operators(self) -> list[dict[str, Any]]:
        return self._first.all()

    async def _glass_draft(
        self, action: str, arguments: Mapping[str, Any], cause: str, words: str, hours: int
    ) -> dict[str, Any]:
        return self._glass.draft(action, arguments, cause, words, hours)

    async def _glass_show(self, proposal: str) -> dict[str, Any]:
        return self._glass.show(proposal)

    async def _glass_all(self) -> list[dict[str, Any]]:
        return self._glass.all()

    async def _break(self, drafted: Mapping[str, Any], vkey: str, signature: str) -> dict[str, Any]:
        try:
            async with self._refusals.noted("break-glass", drafted.get("proposal"), vkey):
                return await self._glass.break_(drafted, Signature(vkey, signature))
        finally:
            self._measure()

    async def _review(self, proposal: str, verdict: str, vkey: str, signature: str) -> dict[str, Any]:
        try:
            async with self._refusals.noted("review", proposal, vkey):
                return await self._glass.review(proposal, verdict, Signature(vkey, signature))
        finally:
            self._measure()

    def _measured(self, found: dict[str, Any]) -> dict[str, Any]:
        """What was done may be that an operator came, stays or went."""
        if found["state"] == "done":
            self._measure()
        return found

    def _measure(self) -> None:
        """Leave the counts where the pages look for metrics, and look whether operators' time ends."""
        states = [row["state"] for row in self._glass.all()]
        now = self._clock.now_ms()
        ends = signing(self._rows, self._charter, now).values()
        self._ending = ending(self._rows, self._charter, now)
        found = {
            "daulat_break_glass_total": {"": len(states)},
            "daulat_break_glass_open": {"": sum(state != "closed" for state in states)},
            "daulat_break_glass_overdue": {"": states.count("overdue")},
            "daulat_operators_valid": {"": len(ends)},
            "daulat_operators_valid_in_60_days": {"": sum(end > now + SOON_MS for end in ends)},
            "daulat_operators_needed": {"": self._charter.approvals + 1},
        }
        path = self._home.run / "metrics-control"
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(json.dumps(found))
        beside.replace(path)

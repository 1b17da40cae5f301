"""Further operations of the admin API: breaches, the vault, who has signed in, what the ceremony established."""

from __future__ import annotations

from typing import Any

import msgspec

from daulat.errors import PermissionDenied
from daulat.pipeline.administer import TENANT_ADMIN, own
from daulat.pipeline.correct import Correcting
from daulat.pipeline.operate import OPERATORS, Desk
from daulat.processes.breaches import Breaches
from daulat.processes.office import Ask, Does, Office, Served, given


class Oversight:
    """Operations by id, beside those of the office; each in the name of whoever asks."""

    def __init__(self, rows: Any, desk: Desk, clock: Any, served: Served, office: Office) -> None:
        self._rows, self._desk, self._clock, self._served, self._office = rows, desk, clock, served, office
        does, services = served.does, served.services
        self.does: dict[str, Does] = {
            "people.correct": self._correct,
            "people.invite": self._invite,
            "people.sign_out": self._sign_out,
            "identities.list": self._identities,
            "sessions.list": self._sessions,
            "sessions.revoke": self._revoke_session,
            "usage.rebuild": lambda _ask: does["usage.rebuild"](),
            "prices": lambda _ask: does["prices"](),
            "vault.status": lambda _ask: does["vault.status"](),
            "vault.rotate": self._rotate,
            "retention.list": self._retention,
            "breaches.list": lambda _ask: services.breaches.all(),
            "breaches.open": lambda ask: self._breaches(ask).open(**msgspec.structs.asdict(ask.body)),
            "breaches.get": self._breach,
            "breaches.notice": lambda ask: services.breaches.notice(ask.path["breach"]),
            "breaches.notified": lambda ask: self._breaches(ask).notified(
                ask.path["breach"], ask.body.told, ask.body.at
            ),
            "breaches.close": lambda ask: self._breaches(ask).close(ask.path["breach"]),
            "ceremony": self._ceremony,
        }

    def _of(self, ask: Ask) -> Desk:
        return self._desk.of(ask.actor.pseudonym)

    def _breaches(self, ask: Ask) -> Breaches:
        return self._served.services.breaches.of(self._of(ask))

    async def _breach(self, ask: Ask) -> dict[str, Any]:
        return own(await self._served.services.breaches.all(), ask.path["breach"], "breach")

    async def _ceremony(self, _ask: Ask) -> dict[str, Any]:
        return self._served.services.consenting.established()

    # The vault.

    async def _rotate(self, ask: Ask) -> dict[str, Any]:
        tenant = ask.named["tenant"]["id"] if ask.body.tenant else ""
        return await self._served.services.storing.rotate(self._of(ask), tenant)

    async def _retention(self, _ask: Ask) -> list[dict[str, Any]]:
        rules: list[dict[str, Any]] = await self._served.does["retention.rules"]()
        return [{"id": rule["tenant"], **rule} for rule in rules]

    # People: whoever signs in, and what is held about them.

    async def _correct(self, ask: Ask) -> Any:
        changes = given(ask.body)
        return await Correcting(self._rows, self._of(ask), self._clock).correct(ask.named["person"]["id"], changes)

    async def _invite(self, ask: Ask) -> dict[str, Any]:
        person = ask.named["person"]
        if self._rows.find("tenants", person["tenant"])["name"] == OPERATORS:
            raise PermissionDenied("operators come by consent, and show who they are by their keys")
        made = await self._served.services.identifying.of(self._of(ask)).invite(person["id"], days=ask.body.days)
        url = (await self._served.status())["url"]
        address = f"{url}/signin?invite={made['invitation']}"
        return {"person": person["id"], "address": address, "expires": made["expires"]}

    async def _identities(self, ask: Ask) -> list[dict[str, Any]]:
        return self._asked_for(ask, self._office.visible(ask.actor, "identities"))

    async def _sessions(self, ask: Ask) -> list[dict[str, Any]]:
        now = self._clock.now_ms()
        rows = self._asked_for(ask, self._office.visible(ask.actor, "sessions"))
        return [row for row in rows if row["revoked"] is None and row["expires"] > now]

    @staticmethod
    def _asked_for(ask: Ask, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        person = ask.named.get("person")
        return [row for row in rows if person is None or row["person"] == person["id"]]

    async def _sign_out(self, ask: Ask) -> Any:
        return await self._end(ask, ask.named["person"]["id"], ask.named["person"])

    async def _revoke_session(self, ask: Ask) -> Any:
        holder = self._rows.find("people", ask.named["session"]["person"])
        return await self._end(ask, ask.named["session"]["id"], holder)

    async def _end(self, ask: Ask, wanted: str, holder: dict[str, Any]) -> Any:
        if not ask.operates and TENANT_ADMIN in holder["roles"] and holder["id"] != ask.actor.person:
            raise PermissionDenied("another administrator's sessions end by an operator's hand")
        return await self._served.services.identifying.of(self._of(ask)).revoke_session(wanted)

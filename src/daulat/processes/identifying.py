"""What the control process offers for people who prove who they are: its half of signing in, sessions, their own keys.

The sign-in process holds the providers' secrets and reads their tokens; here is decided who that is, and what they may.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from daulat.adapters import rpc
from daulat.core.charter import Charter
from daulat.core.clock import Clock
from daulat.core.files import text_of
from daulat.core.snapshot import Roll
from daulat.errors import Conflict
from daulat.identity import providers
from daulat.identity.claims import Seen
from daulat.identity.providers import Provider, SignIn
from daulat.pipeline.identities import Identities, Rows
from daulat.pipeline.operate import Desk, Log
from daulat.settings import Home

_LOOK_SECONDS: Final = 0.5
_NEVER: Final = 1 << 62


def configured(home: Home) -> SignIn | None:
    """`signin.toml`, or None where nobody signs in.

    Raises:
        ConfigError: it is there and wrong; says what is.
    """
    if not home.signin.exists():
        return None
    return providers.parse(text_of(home.signin), location=str(home.signin))


class Identifying:
    """Identities over the control database and the log of this installation."""

    def __init__(
        self, rows: Rows, log: Log, clock: Clock, charter: tuple[int, Charter], desk: Desk, where: SignIn | None
    ) -> None:
        self._of: Callable[[Desk], Identities] = partial(Identities, rows, log, clock, charter)
        self._identities = self._of(desk)
        self._clock, self._where = clock, where

    def handlers(self, changes: Callable[[Callable[..., Any]], rpc.Handler]) -> dict[str, rpc.Handler]:
        """By method; `changes` makes one of an administrative act."""
        identities = self._identities
        return {
            "signin.complete": partial(self._complete, changes(self._begin)),
            "signin.refused": self._refused,
            "session.end": identities.sign_out,
            "session.list": self._sessions,
            "session.revoke": changes(identities.revoke_session),
            "me": identities.me,
            "me.key.create": changes(identities.create_key),
            "me.key.revoke": changes(identities.revoke_key),
            "person.invite": changes(identities.invite),
        }

    def of(self, desk: Desk) -> Identities:
        """What is done to people's sessions, in the name of whoever acts at that desk."""
        return self._of(desk)

    async def watch(self, roll: Callable[[], Roll | None]) -> None:
        """Until it is cancelled: have the log tell of every citizenship that ends, soon after. `roll`: as published."""
        seen: Roll | None = None
        due = 0  # also what ended while nobody looked
        while True:
            now, current = self._clock.now_ms(), roll()
            if now >= due:
                await self._identities.lapse()
            if current is not None and (now >= due or current is not seen):
                ends = (person.attributes.until for person in current.people)
                seen, due = current, min((until for until in ends if until > now), default=_NEVER)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _complete(
        self, changing: rpc.Handler, provider: str, seen: Mapping[str, Any], binding: str, invitation: str
    ) -> dict[str, Any]:
        """Whoever a verified token is about begins a session; only what changes anything is published."""
        named, shown = self._provider(provider), _seen(seen)
        act = changing if self._identities.changes(named, shown, invitation) else self._begin
        begun: dict[str, Any] = await act(provider=named, seen=shown, binding=binding, invitation=invitation)
        return begun

    async def _begin(self, provider: Provider, seen: Seen, binding: str, invitation: str) -> dict[str, Any]:
        minutes = self._where.session_minutes if self._where is not None else 0
        return await self._identities.sign_in(provider, seen, binding=binding, invitation=invitation, minutes=minutes)

    async def _refused(self, provider: str, code: str) -> None:
        await self._identities.refuse(self._provider(provider).issuer, code)

    async def _sessions(self) -> list[dict[str, Any]]:
        return self._identities.sessions()

    def _provider(self, name: str) -> Provider:
        found = self._where.provider.get(name) if self._where is not None else None
        if found is None:
            raise Conflict(f"signin.toml has no provider {name!r}: start again after changing it")
        return found


def _seen(said: Mapping[str, Any]) -> Seen:
    """As it came over the socket."""
    roles = said["roles"]
    return Seen(**{**said, "hashes": tuple(said["hashes"]), "roles": None if roles is None else tuple(roles)})

"""What `daulat up` begins with: a charter, the control database, and its deployment beside those of operators."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any, Final, Protocol

from daulat.adapters.control_db import ControlDatabase
from daulat.catalog import charters
from daulat.core.deployment import Spec
from daulat.errors import ConfigError
from daulat.pipeline.deploy import Deployment, Deployments
from daulat.registry.model import ModelFacts
from daulat.settings import Home, Settings

_UP: Final = "up"  # the meta value that remembers what `daulat up` asked for last


class Meta(Protocol):
    """Port: named values that last."""

    def meta(self, name: str) -> str: ...

    def set_meta(self, name: str, value: str) -> None: ...


def write_starter_charter(home: Home) -> bool:
    """Write `charter.toml` on the first start; whether it was."""
    if home.charter.exists():
        return False
    home.charter.write_text(charters.starter())
    return True


def control_database(home: Home, settings: Settings) -> ControlDatabase:
    """The one that the settings name, open. Only for whoever holds the home's lock.

    Raises:
        ConfigError: it is not the one that this home's state is in; or its own.
        Unavailable: it cannot be reached.
    """
    file, elsewhere = home.control_db, home.control_elsewhere
    if not settings.database:
        if elsewhere.exists():
            raise ConfigError(
                "this home's control database is in PostgreSQL, and the setting `database` names none",
                location=str(file),
            )
        return ControlDatabase(file)
    if file.exists() and not elsewhere.exists():
        raise ConfigError(
            "this home's control database is this file: move it with `daulat database move URL` before the setting "
            "`database` names another",
            location=str(file),
        )
    database = ControlDatabase(settings.database)
    elsewhere.touch(mode=0o600)
    return database


def wished(home: Home, settings: Settings) -> tuple[str, str] | None:
    """Name and model digest of the deployment to wait for, where there is one already: `daulat up`'s, else the first.

    Only for whoever holds the home's lock, before the control plane opens its database.
    """
    if not settings.database and not home.control_db.exists():
        return None
    database = control_database(home, settings)
    with contextlib.closing(database):
        found = [Deployment.of(row) for row in database.rows("deployments")]
        mine = _asked(database).get("name")
    own = next((one for one in found if one.name == mine), found[0] if found else None)
    return None if own is None else (own.name, own.target.model)


async def ensure(deployments: Deployments, meta: Meta, name: str, facts: ModelFacts, settings: Settings) -> Deployment:
    """Have the deployment `name` serve this model, with the settings' slots and context, each where it is new.

    One that an earlier `daulat up` made of another model is given up for it.
    """
    before = _asked(meta)
    asked: dict[str, Any] = {"name": name, "slots": settings.slots, "context": settings.context}
    held = {one.name: one for one in deployments.all()}
    if settings.model and before.get("name") in held and before["name"] != name:
        await deployments.remove(before["name"])
    if name not in held:
        spec = Spec(facts.digest, slots=settings.slots, context=settings.context)
    elif held[name].target.model != facts.digest:
        spec = replace(held[name].spec, model=facts.digest, slots=settings.slots, context=settings.context)
    else:
        mine = before.get("name") == name
        new = {field: asked[field] for field in ("slots", "context") if mine and before[field] != asked[field]}
        spec = replace(held[name].spec, **new)
    wish = await deployments.apply(name, spec)
    if before.get("name", name) == name or settings.model or name not in held:
        meta.set_meta(_UP, json.dumps(asked))
    if wish.good != wish.revision and wish.target == wish.spec:
        deployments.restart(name)  # nothing of an older revision runs: there is nothing to fall back to
    return deployments.find(name)


def _asked(meta: Meta) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(meta.meta(_UP) or "{}")
    return found

"""Deployments: what operators wish for, kept in the control database, and each wish an `operator.action/v1` entry."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from daulat.core.clock import Clock
from daulat.core.deployment import MOST_REPLICAS, STRATEGIES, Spec
from daulat.core.ids import new_id
from daulat.errors import InvalidRequest
from daulat.fleet.reconcile import Wanted

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?\Z")
_DEVICE: Final = re.compile(r"(npu|gpu):\d{1,5}\Z")
_BOUNDS: Final = {"replicas": (0, MOST_REPLICAS), "slots": (1, 256), "context": (0, 2**24), "drain_seconds": (0, 3600)}


class Rows(Protocol):
    """Port: the control database."""

    def add(self, table: str, row: dict[str, Any]) -> None: ...

    def rows(self, table: str) -> list[dict[str, Any]]: ...

    def find(self, table: str, wanted: str) -> dict[str, Any]: ...

    def change(self, table: str, id_: str, **values: Any) -> None: ...

    def remove(self, table: str, id_: str) -> None: ...


Act = Callable[[str, str, Mapping[str, Any]], Awaitable[None]]
"""Port: write down an administrative act (`pipeline.operate.Desk.act`)."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One of them. `revision`: the generation that last changed the template; `failed`: why that was given up."""

    id: str
    name: str
    spec: Spec
    generation: int
    revision: int
    good: int | None
    good_spec: Spec | None
    failed: str
    created: int

    def wanted(self, blocked: str = "", *, prepared: bool = True) -> Wanted:
        """As the reconciler sees it."""
        return Wanted(
            *(self.name, self.spec.replicas, self.revision, self.good),
            failed=bool(self.failed),
            blocked=blocked,
            recreate=self.spec.strategy == "recreate",
            prepared=prepared,
        )

    @property
    def target(self) -> Spec:
        """The spec whose template replicas are started with now."""
        return self.good_spec if self.failed and self.good_spec is not None else self.spec

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Deployment:
        """From a row of the database."""
        good = row["good_spec"]
        read = {"spec": Spec.of(row["spec"]), "good_spec": None if good is None else Spec.of(good)}
        return cls(**{**row, **read})


class Deployments:
    """Use cases on wishes. What gives something is in the log before it takes effect, what takes away is after."""

    def __init__(self, rows: Rows, act: Act, clock: Clock) -> None:
        self._rows, self._act, self._clock = rows, act, clock

    def all(self) -> list[Deployment]:
        """In the order in which they were made."""
        return [Deployment.of(row) for row in self._rows.rows("deployments")]

    def find(self, name: str) -> Deployment:
        """Raises NotFound."""
        return Deployment.of(self._rows.find("deployments", name))

    async def apply(self, name: str, spec: Spec) -> Deployment:
        """Wish for this from now on. The same wish again changes nothing, but tries anew what was given up.

        Raises:
            InvalidRequest: a name or a number is out of bounds; says what would be right.
        """
        _check(name, spec)
        held = next((one for one in self.all() if one.name == name), None)
        if held is not None and held.spec == spec and not held.failed:
            return held
        await self._act("deployment.apply", spec.model, {"deployment": name, **told(spec)})
        if held is None:
            fresh = {"id": new_id("deployment"), "name": name, "spec": spec.as_dict(), "generation": 1, "revision": 1}
            blank = {"good": None, "good_spec": None, "failed": "", "created": self._clock.now_ms()}
            self._rows.add("deployments", {**fresh, **blank})
        else:
            generation = held.generation + 1
            rolls = bool(held.failed) or spec.template != held.spec.template
            if held.failed and held.good_spec is not None and spec.template == held.good_spec.template:
                revision = held.good or generation  # back to what runs: nothing to roll out
            else:
                revision = generation if rolls else held.revision
            values = {"spec": spec.as_dict(), "generation": generation, "revision": revision, "failed": ""}
            self._rows.change("deployments", held.id, **values)
        return self.find(name)

    async def remove(self, name: str) -> Deployment:
        """Wish for it no longer.

        Raises:
            NotFound: there is no such deployment.
        """
        held = self.find(name)
        self._rows.remove("deployments", held.id)
        await self._act("deployment.stop", held.spec.model, {"deployment": held.name})
        return held

    async def drain(self, replica: str, deployment: str) -> None:
        """Write down that an operator wants this replica replaced."""
        await self._act("replica.drain", replica, {"deployment": deployment})

    def promote(self, name: str, revision: int) -> None:
        """It is up as wished: what to fall back to from now on."""
        held = self.find(name)
        if held.revision == revision:
            self._rows.change("deployments", held.id, good=revision, good_spec=held.spec.as_dict(), failed="")

    def roll_back(self, name: str, reason: str) -> None:
        """The newest revision is given up."""
        self._rows.change("deployments", self.find(name).id, failed=reason)

    def restart(self, name: str) -> None:
        """Nothing of it runs, and what its newest revision replaces is not wanted back."""
        self._rows.change("deployments", self.find(name).id, good=None, good_spec=None, failed="")


def told(spec: Spec) -> dict[str, Any]:
    """The spec as the log has it: of an engine's environment the names alone, as values may be secret; and of an API
    key's file only that there is one."""
    options = dict(spec.options)
    if options.get("api_key_file"):
        options["api_key_file"] = "given"
    if isinstance(variables := options.get("environment"), Mapping):
        options["environment"] = sorted(variables)
    return {**spec.as_dict(), "options": options}


def _check(name: str, spec: Spec) -> None:
    if not _NAME.match(name):
        raise InvalidRequest(f"{name!r} is no deployment's name: use a-z, 0-9, dot, hyphen and underscore, at most 64")
    for field, (low, high) in _BOUNDS.items():
        value = getattr(spec, field)
        if not low <= value <= high:
            raise InvalidRequest(f"{field} is {value}, expected a whole number from {low} to {high}")
    if spec.strategy not in STRATEGIES:
        raise InvalidRequest(f"strategy is {spec.strategy[:40]!r}, expected one of {', '.join(STRATEGIES)}")
    wrong = next((device for device in spec.devices if not _DEVICE.match(device)), None)
    if wrong is not None:
        raise InvalidRequest(f"{wrong[:40]!r} is no device: say npu:0 or gpu:0, several with commas between them")
    if len(set(spec.devices)) != len(spec.devices):
        raise InvalidRequest("a device is given twice")

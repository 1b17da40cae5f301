"""What operators may ask of the control process about deployments and replicas, over its socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from daulat.adapters import key_file
from daulat.adapters.accelerators.discovery import discover
from daulat.core.deployment import Spec
from daulat.engines import known, options
from daulat.engines.external import EXTERNAL
from daulat.engines.options import Options
from daulat.errors import InvalidRequest, NotFound
from daulat.fleet.lease import Place
from daulat.pipeline.deploy import Deployment, Deployments
from daulat.placement import devices
from daulat.processes import elsewhere
from daulat.processes.replicas import Replicas, Store

_ON_CPU: Final = "llama.cpp"  # uses none of this machine's accelerators


class Deploying:
    """Use cases joined for one call each. Acts change what is wished for; the reconciler makes it so afterwards."""

    def __init__(
        self, deployments: Deployments, replicas: Replicas, store: Store, admits: Callable[[Place], None]
    ) -> None:
        """`admits(place)`: raises PermissionDenied where an engine outside Daulat may not serve from there."""
        self._deployments, self._replicas, self._store, self._admits = deployments, replicas, store, admits

    async def resolve(self, model: str, name: str, changes: Mapping[str, Any]) -> tuple[str, Spec]:
        """The name and spec that are meant, which may take vendors' tools a while: nothing is changed, or held up.

        Args:
            model: of an imported model its name, or the beginning of its digest; or a deployment's name.
            name: what clients will call it; empty: as the model.
            changes: fields of the spec; None keeps what is.

        Raises:
            NotFound: neither a model nor a deployment has that name; InvalidRequest: a field or device is unknown.
        """
        held = {one.name: one for one in self._deployments.all()}
        digest, named = await self._model(model, held)
        wanted = name or named
        given = {field: value for field, value in changes.items() if value is not None}
        before = held[wanted].spec if wanted in held else Spec(digest)
        try:
            spec = replace(before, model=digest, **{**given, "devices": tuple(given.get("devices", before.devices))})
        except TypeError:
            names = ", ".join(before.as_dict())
            raise InvalidRequest(f"a deployment's spec has the fields {names}, not {', '.join(given)}") from None
        return wanted, await self._on(spec, wanted, chosen="devices" in given or wanted in held)

    async def wish(self, name: str, spec: Spec) -> dict[str, Any]:
        """Wish for a deployment, new or changed: spec and status.

        Raises:
            InvalidRequest: a value is out of bounds.
        """
        held = next((one for one in self._deployments.all() if one.name == name), None)
        if held is not None and held.good is None and self._replicas.roster.ready(name):
            self._deployments.promote(name, held.revision)  # not as wished yet, but what answers can go on
        await self._deployments.apply(name, spec)
        self._replicas.again(name)
        return self._row(name)

    async def _on(self, spec: Spec, name: str, *, chosen: bool) -> Spec:
        """The spec with its devices: free accelerators for a new deployment whose model's engine can use them.

        Raises:
            ConfigError: there is no such engine, or its options are wrong; InvalidRequest: a device is not here.
            PermissionDenied: the rules let no engine outside Daulat serve from there.
        """
        if spec.engine:
            known.named(spec.engine)
        said = options.parse(json.dumps(dict(spec.options)))
        facts = await asyncio.to_thread(self._store.find, spec.model)
        if EXTERNAL.name in {spec.engine, facts.format}:
            return self._outside(spec, facts.format, said, name)
        engine = spec.engine or devices.engine_for(facts.format, spec.devices)
        if not spec.devices and (chosen or engine == _ON_CPU):
            return spec
        found = await asyncio.to_thread(discover, deep=False)
        present = devices.named(found.accelerators)
        if spec.devices:
            devices.checked(spec.devices, present, found.accelerators, found.problems)
            return spec
        taken = {device for one in self._deployments.all() if one.name != name for device in one.spec.devices}
        return replace(spec, devices=devices.choose(present, taken, facts.size, spec.replicas))

    def _outside(self, spec: Spec, format_: str, said: Options, name: str) -> Spec:
        """The spec of an external engine, of which nothing starts here, so that all that can be checked is checked now.

        Raises:
            ConfigError, InvalidRequest: something is missing, or cannot be; PermissionDenied: the rules refuse it.
        """
        if spec.engine not in {"", EXTERNAL.name} or format_ != EXTERNAL.name or spec.devices:
            raise InvalidRequest(
                "an external engine has its own model and devices, and none of this machine's: "
                "daulat deploy NAME --address URL --licence SPDX --origin TEXT --country MY --site TEXT"
            )
        elsewhere.engine(said)
        self._admits(elsewhere.place(said))
        if said.api_key_file:
            key_file.read(said.api_key_file)
        for other in self._deployments.all():
            theirs = other.spec.options
            same = other.name != name and theirs.get("address") == said.address
            if same and theirs.get("api_key_file", "") != said.api_key_file:
                raise InvalidRequest(
                    f"deployment {other.name!r} asks {said.address} with another API key: use the same"
                )
        if not said.metrics:
            return replace(spec, engine=EXTERNAL.name)
        if spec.replicas > 1:
            raise InvalidRequest("a server whose counters stand in the log is asked by one replica: they are its own")
        return replace(spec, engine=EXTERNAL.name, strategy="recreate")  # nor by two during a rollout

    async def _model(self, model: str, held: Mapping[str, Deployment]) -> tuple[str, str]:
        """Digest, and the name that clients will use unless told otherwise."""
        try:
            facts = await asyncio.to_thread(self._store.find, model)
        except NotFound:
            if model in held:
                return held[model].spec.model, model
            raise
        return facts.digest, facts.name

    async def stop(self, deployment: str) -> dict[str, Any]:
        """Wish for it no longer: its replicas are drained and end."""
        held = await self._deployments.remove(deployment)
        self._replicas.leave(held)
        return {"name": held.name, "stopped": True}

    async def drain(self, replica: str) -> dict[str, Any]:
        """Have a replica replaced: it is drained once its successor answers."""
        id_, deployment = self._replicas.cordon(replica)
        await self._deployments.drain(id_, deployment)
        return {"id": id_, "deployment": deployment, "draining": True}

    async def logs(self, replica: str, lines: int) -> list[str]:
        """The last lines of a replica's log."""
        return self._replicas.log(replica, lines)

    def _row(self, name: str) -> dict[str, Any]:
        return next(row for row in self._replicas.roster.deployment_rows() if row["name"] == name)

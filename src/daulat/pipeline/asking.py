"""Steps 3 and 5 of a request's life: of which model it asks, and which replica takes it."""

from __future__ import annotations

from collections.abc import Sequence

from daulat.core.principal import Principal
from daulat.core.snapshot import ModelRow
from daulat.errors import EngineDead, InvalidRequest, NotFound, Overloaded, PermissionDenied, Unavailable
from daulat.pipeline import body as bodies
from daulat.pipeline.service import Service
from daulat.pipeline.world import Grant, Route
from daulat.routing.choose import choose

Attempts = Sequence[tuple[Route, str]]
"""The routes that were tried, each with how that ended."""


def unknown(name: str) -> NotFound:
    """What is said where there is no model of that name."""
    return NotFound(f"The model '{name[:128]}' does not exist here.", code="model_not_found")


def check(service: Service, principal: Principal, asked: ModelRow, action: str) -> None:
    """Whether this key may ask that model for it, and this worker can take anything of the kind now.

    Raises:
        NotFound: the model is not for this key; InvalidRequest: it does not do that.
        Unavailable, Overloaded: this worker cannot.
    """
    if principal.models and asked.name not in principal.models:
        raise NotFound(f"This key may not use the model '{asked.name}'.", code="model_not_found")
    if action == "embeddings" and not asked.embeds:
        raise InvalidRequest(f"The model '{asked.name}' does not embed.", param="model")
    if service.ledger.shortage:
        raise Unavailable(f"No durable storage: {service.ledger.shortage}.", code="storage_full")
    if len(service.active) >= service.limits.streams:
        raise Overloaded("Too many requests are being answered at once.", retry_after=1.0)


def route(
    service: Service, asked: ModelRow, peek: bodies.Peek | None, attempts: Attempts, now_ms: int | None = None
) -> Route:
    """Where it is answered now; `now_ms`: see `World.routes`.

    Raises:
        Unavailable: nowhere; EngineDead: every replica was tried.
    """
    routes = service.world.routes(asked.name, now_ms)
    if len(routes) == 1 and not attempts:
        return routes[0]
    if attempts:  # what was decided was about this model
        routes = tuple(route for route in routes if route.model.index == asked.index)
    tried = [route.replica.id for route, _ in attempts]
    key = bodies.prefix(peek) if peek is not None else 0
    replica = choose([route.replica for route in routes], service.load, tried, avoid=service.avoided(), prefix=key)
    if replica is None:
        raise EngineDead(f"No other replica of '{asked.name}' could take over.")
    return next(route for route in routes if route.replica is replica)


def refused(grant: Grant) -> PermissionDenied:
    """What a decision against the request says."""
    decision = grant.decision
    rules = ", ".join(decision.policies)
    return PermissionDenied(f"Refused by {rules}: {decision.reason}.", policies=decision.policies)

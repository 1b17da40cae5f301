"""The routes of a worker: `/v1` inference here, everything slow forwarded to the pages or the vault."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from hmac import compare_digest
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from daulat.core.principal import Principal
from daulat.errors import DaulatError, InvalidRequest, NotFound, PermissionDenied, Unauthenticated, Unavailable
from daulat.gateway import errors as wire_errors
from daulat.gateway import framing, peers
from daulat.gateway.admin.table import MOST_BYTES
from daulat.gateway.exchange import Exchange
from daulat.gateway.forward import Forwarder
from daulat.gateway.metrics import Metrics
from daulat.identity.directory import expired
from daulat.ledger.journal import Journal
from daulat.pipeline.actions import MESSAGES, PATHS
from daulat.pipeline.inference import Inference
from daulat.pipeline.ports import Rendered
from daulat.pipeline.service import Service

_INFERENCE: Final = {path.encode(): action for action, path in PATHS.items()}
_FORWARDED: Final = (b"/log/", b"/v1/receipts/", b"/metrics")
_OWN: Final = frozenset({b"/signin", b"/me"})  # with a browser's session, not a key
_OWN_BELOW: Final = (b"/signin/", b"/me/")
_ADMIN: Final = b"/admin/v1/"  # forwarded as well, with its own methods and credentials
_SCIM: Final = b"/scim/v2/"  # the same
_KEPT: Final = (b"/v1/files/", b"/v1/chat/completions/")  # and the lists of both
_FILES: Final = b"/v1/files"
_KEPT_LISTS: Final = frozenset({_FILES, b"/v1/chat/completions"})
_KEPT_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"DELETE"})
_BEHIND: Final = _OWN | _KEPT_LISTS
_BELOW: Final = (*_OWN_BELOW, *_KEPT)
_JSON: Final = b"application/json"
_log = logging.getLogger(__name__)
_READS: Final = frozenset({b"GET", b"HEAD"})


def render(error: DaulatError, action: str = "") -> Rendered:
    """An error as the wire says it (`pipeline.ports.Render`)."""
    envelope = wire_errors.anthropic_envelope if action in MESSAGES else wire_errors.envelope
    return Rendered(wire_errors.status_of(error), wire_errors.headers_for(error), envelope(error))


def credential(headers: Mapping[bytes, bytes]) -> bytes:
    """The API key that a request comes with, as OpenAI's clients give it or as Anthropic's do.

    Raises:
        Unauthenticated: none, or two that differ.
    """
    said, key = headers.get(b"authorization", b""), headers.get(b"x-api-key")
    if said.startswith(b"Bearer ") or said[:7].lower() == b"bearer ":
        secret = said[7:].lstrip()
        if key is not None and not compare_digest(key, secret):
            raise Unauthenticated("Authorization and x-api-key give different keys.", code="conflicting_api_keys")
        return secret
    if key is not None and not said:
        return key
    raise Unauthenticated(
        "Give an API key: 'Authorization: Bearer sk-...', or 'x-api-key: sk-...'.", code="missing_api_key"
    )


class App:
    """Takes every whole request of one worker (`gateway.server.Server.handle`)."""

    def __init__(
        self,
        service: Service,
        journal: Journal,
        forwarder: Forwarder,
        metrics: Metrics,
        kept: Forwarder,
        *,
        signin: Forwarder | None = None,
        proxies: Sequence[peers.Network] = (),
    ) -> None:
        """`kept`: to the vault; `signin`: to where people sign in and make their own keys, where they do; `proxies`:
        the operator's own, whose word on where a request comes from is taken."""
        self._service, self._journal, self._forwarder, self._metrics = service, journal, forwarder, metrics
        self._kept, self._signin, self._proxies = kept, signin, proxies

    def handle(self, exchange: Exchange) -> None:
        path = exchange.target
        if b"?" in path:
            path = path.partition(b"?")[0]
        action = _INFERENCE.get(path)
        try:
            if action is not None and exchange.method == b"POST":
                self._infer(exchange, action)
            else:
                self._other(exchange, path)
        except DaulatError as error:
            if action is not None or isinstance(error, Unauthenticated):
                self.refused(error.code)  # no entry of the log will tell of it
            exchange.fail(error, [(b"allow", _allowed(path))] if error.code == "method_not_allowed" else ())
        except Exception:  # noqa: BLE001  the edge of one request: a defect must not leave its client waiting
            _log.exception("a request could not be handled")
            exchange.fail(DaulatError("internal error"))

    def refuse(self, exchange: Exchange, error: DaulatError) -> None:
        """Answer what never became a whole request (`gateway.server.Server.refuse`). Where it was a question, and its
        key is good, the log has an entry of it."""
        action = _INFERENCE.get(exchange.target.partition(b"?")[0]) if exchange.method == b"POST" else None
        try:
            if action is not None:
                self._infer(exchange, action, error)
                return
        except DaulatError:
            pass  # nobody who may ask: they are told what was wrong first. Raised once more, it would hold this frame
        except Exception:  # noqa: BLE001  as in `handle`
            _log.exception("a request could not be refused")
            exchange.fail(DaulatError("internal error"))
            return
        self.refused(error.code)
        exchange.fail(error)

    def refused(self, reason: str) -> None:
        """Count what leaves no entry of its own."""
        self._journal.refuse(reason)
        self._metrics.refused(reason)

    def _infer(self, exchange: Exchange, action: str, refusal: DaulatError | None = None) -> None:
        """From here on the log has an entry, whatever comes of it. `refusal`: the wire's own."""
        service, headers, wire = self._service, exchange.headers, exchange.wire
        now, roll = service.clock.now_ms(), service.world.directory.mark
        asker = None if wire is None else wire.asker
        # The same head again, and so the very same headers: what was right about them still is, for as long as the key.
        if asker is not None and asker[0] is headers and asker[1] is roll and asker[2].expires > now:
            principal = asker[2]
        else:
            principal = self.authenticate(headers, now)
            refusal = self._elsewhere(principal, exchange) or refusal or _unfit(headers)
            if wire is not None and refusal is None:
                wire.asker = headers, roll, principal
        inference = Inference(service, exchange, principal, action, now)
        exchange.listener = inference
        body, exchange.body = exchange.body, b""  # it is in memory for as long as `inference` needs it
        if refusal is None:
            inference.run(body)
        else:
            inference.refuse(body, refusal)

    def _elsewhere(self, principal: Principal, exchange: Exchange) -> PermissionDenied | None:
        """Why a key of certain networks may not be used here."""
        if not principal.networks:
            return None
        try:
            peers.check(principal, self._address(exchange))
        except PermissionDenied as error:
            return error
        return None

    def _address(self, exchange: Exchange) -> peers.Address | None:
        return peers.client(exchange.address, exchange.headers, self._proxies)

    def _other(self, exchange: Exchange, path: bytes) -> None:
        if exchange.method == b"OPTIONS":
            self._options(exchange, path)
        elif path.startswith(_FORWARDED):
            self._must_read(exchange)
            if b"x-api-key" in exchange.headers:
                _name_bearer(exchange)
            self._forwarder.forward(exchange, str(self._address(exchange) or ""))
        elif path.startswith(_ADMIN):
            self._administer(exchange)
        elif path.startswith(_SCIM):
            self._provision(exchange)
        elif path in _BEHIND or path.startswith(_BELOW):
            self._hand_on(exchange, own=path in _OWN or path.startswith(_OWN_BELOW))
        elif path in _INFERENCE:
            raise InvalidRequest("This endpoint takes POST.", code="method_not_allowed")
        else:
            self._own(exchange, path)

    def _own(self, exchange: Exchange, path: bytes) -> None:
        """What is read here, out of the snapshot."""
        if path == b"/healthz":
            self._must_read(exchange)
            exchange.send(200, (), b'{"status":"ok"}')
        elif path == b"/readyz":
            self._must_read(exchange)
            self._ready(exchange)
        elif path == b"/v1/models":
            self._must_read(exchange)
            self._models(exchange, self._present(exchange), None)
        elif path.startswith(b"/v1/models/"):
            self._must_read(exchange)
            name = unquote_to_bytes(path.removeprefix(b"/v1/models/")).decode(errors="replace")
            self._models(exchange, self._present(exchange), name)
        else:
            raise NotFound("There is no such route; the API is under /v1.", code="unknown_url")

    def _hand_on(self, exchange: Exchange, *, own: bool) -> None:
        """To the vault; or, for what is somebody's `own`, to where people sign in."""
        if not own:
            self._vault(exchange)
        elif self._signin is None:
            raise NotFound("Nobody signs in here: the operator has not set it up.", code="unknown_url")
        else:
            self._signin.forward(exchange, str(self._address(exchange) or ""))

    def _administer(self, exchange: Exchange) -> None:
        """The control process says who that is; here only what it need not be bothered with is refused."""
        headers = exchange.headers
        if b"x-api-key" in headers:
            raise Unauthenticated("Here a credential goes into 'Authorization: Bearer ...' alone.")
        if (unfit := _unfit(headers, body=bool(exchange.body))) is not None:
            raise unfit
        if len(exchange.body) > MOST_BYTES:
            raise framing.too_large(MOST_BYTES)
        self._forwarder.forward(exchange)

    def _provision(self, exchange: Exchange) -> None:
        """What is wrong with it is said there, in SCIM's own form."""
        if len(exchange.body) > MOST_BYTES:
            raise framing.too_large(MOST_BYTES)
        self._forwarder.forward(exchange)

    def allow(self, target: bytes, headers: Mapping[bytes, bytes]) -> bool:
        """Let a large body, or one of unknown size, in for whoever sent these headers; whether it is taken as it comes.

        Raises:
            InvalidRequest, Unauthenticated: not here, or not for them.
        """
        if target.startswith((_ADMIN, _SCIM)):
            raise framing.too_large(MOST_BYTES)
        self.authenticate(headers, self._service.clock.now_ms())
        return target.partition(b"?")[0] == _FILES

    def _vault(self, exchange: Exchange) -> None:
        """Files and stored completions: whoever is nobody is told here, and the vault asks once more."""
        if exchange.method not in _KEPT_METHODS:
            raise InvalidRequest("This endpoint takes GET, POST and DELETE.", code="method_not_allowed")
        self._present(exchange)
        _name_bearer(exchange)
        self._kept.forward(exchange, str(self._address(exchange) or ""))

    def authenticate(self, headers: Mapping[bytes, bytes], now_ms: int) -> Principal:
        """Who asks.

        Raises:
            Unauthenticated: nobody who may.
        """
        principal = self._service.world.directory.authenticate(credential(headers))
        if principal.expires <= now_ms:
            raise expired(principal)
        return principal

    def _present(self, exchange: Exchange) -> Principal:
        principal = self.authenticate(exchange.headers, self._service.clock.now_ms())
        if principal.networks:
            peers.check(principal, self._address(exchange))
        return principal

    def _models(self, exchange: Exchange, principal: Principal, name: str | None) -> None:
        rows = [
            {"id": row.name, "object": "model", "created": row.created, "owned_by": "daulat"}
            for row in self._service.world.models.values()
            if not principal.models or row.name in principal.models
        ]
        if name is None:
            exchange.send(200, (), msgspec.json.encode({"object": "list", "data": rows}))
            return
        for row in rows:
            if row["id"] == name:
                exchange.send(200, (), msgspec.json.encode(row))
                return
        raise NotFound(f"The model '{name[:128]}' does not exist here.", code="model_not_found")

    def _ready(self, exchange: Exchange) -> None:
        reasons = self._service.world.not_ready()
        if self._journal.shortage:
            reasons.append(self._journal.shortage)
        if reasons:
            raise Unavailable("; ".join(reasons), code="not_ready")
        exchange.send(200, (), b'{"status":"ready"}')

    @staticmethod
    def _options(exchange: Exchange, path: bytes) -> None:
        """RFC 9110 section 9.3.7. No CORS headers: browsers of other origins are kept out."""
        exchange.send(200, [(b"allow", _allowed(path))], b"")

    @staticmethod
    def _must_read(exchange: Exchange) -> None:
        if exchange.method not in _READS:
            raise InvalidRequest("This endpoint takes GET.", code="method_not_allowed")


def _unfit(headers: Mapping[bytes, bytes], *, body: bool = True) -> InvalidRequest | None:
    """Why what comes with these headers is not understood here. Without a `body` nothing need be said of its kind."""
    if body and not headers.get(b"content-type", b"").lower().startswith(_JSON):
        return InvalidRequest("Content-Type must be application/json.", code="unsupported_media_type")
    if b"content-encoding" in headers:
        return InvalidRequest("A Content-Encoding is not understood here.", code="unsupported_media_type")
    return None


def _name_bearer(exchange: Exchange) -> None:
    """Whoever takes it from here knows one way to give a key."""
    exchange.headers = {**exchange.headers, b"authorization": b"Bearer " + credential(exchange.headers)}


def _allowed(path: bytes) -> bytes:
    if path == b"*":
        return b"GET, HEAD, POST, OPTIONS"
    if path in _OWN or path.startswith(_OWN_BELOW):
        return b"GET, HEAD, POST, DELETE, OPTIONS"
    if path.startswith((_ADMIN, _SCIM)):
        return b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
    if path in _KEPT_LISTS:
        return b"GET, HEAD, POST, OPTIONS"
    if path.startswith(_KEPT):
        return b"GET, HEAD, POST, DELETE, OPTIONS"
    return b"POST, OPTIONS" if path in _INFERENCE else b"GET, HEAD, OPTIONS"

"""SCIM 2.0 as tenants' directories speak it (RFC 7643, RFC 7644): users with a name, an id of the directory's own, and
whether they are there. The protocol itself is `scim2-server`'s; who asks and whom they may see is the store's.

Attributes beyond these three are taken and forgotten, because directories send what they have. What would say more of
somebody than that they are there is refused in words, so that nobody believes it was taken.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Protocol, TypeVar, cast

from pydantic import BaseModel
from scim2_models import (
    URN,
    AuthenticationScheme,
    Bulk,
    CaseExact,
    ChangePassword,
    Context,
    ETag,
    Filter,
    ForbiddenException,
    InvalidFilterException,
    InvalidSyntaxException,
    InvalidValueException,
    Meta,
    Mutability,
    MutabilityException,
    NotFoundException,
    Patch,
    PreconditionFailedException,
    Required,
    Resource,
    ResourceType,
    ResponseParameters,
    Returned,
    SCIMException,
    ScimPolicy,
    ScimProvider,
    SearchRequest,
    ServiceProviderConfig,
    Sort,
    UnauthorizedException,
    Uniqueness,
    UniquenessException,
)
from scim2_models.path import CompareOperator, Comparison
from scim2_server.handler import AsyncScimHandler
from scim2_server.requests import ScimRequest
from scim2_server.responses import ScimResponse
from scim2_server.service import ScimService
from scim2_server.storage import AsyncScimStorage, SearchPage

from daulat.errors import (
    Conflict,
    DaulatError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)

MOST_RESULTS: Final = 200
_LONGEST_FILTER: Final = 1_024
_SAYS_MORE: Final = frozenset({"assurance", "citizenship", "entitlements", "nationality", "password", "roles"})
_WORDS: Final = re.compile(r"[A-Za-z]+")
_SEARCHED: Final = {"id": "id", "user_name": "name", "external_id": "external"}
_log = logging.getLogger(__name__)
ModelT = TypeVar("ModelT", bound=BaseModel)


class Store(Protocol):
    """Port: the people of whoever asks. Rows are as `pipeline.provision.Provisioned` gives them."""

    async def find(self, id_: str) -> dict[str, Any]: ...

    async def search(self, attribute: str, value: str, start: int, count: int) -> dict[str, Any]: ...

    async def create(self, name: str, external: str, *, active: bool) -> dict[str, Any]: ...

    async def update(
        self, id_: str, version: int, name: str, external: str, *, active: bool | None
    ) -> dict[str, Any]: ...

    async def delete(self, id_: str, version: int | None) -> None: ...


class User(Resource[Any]):
    """A person of the tenant. Citizenship and roles come from verified sign-ins and operators' vouching alone."""

    __schema__ = URN("urn:ietf:params:scim:schemas:core:2.0:User")

    user_name: Annotated[str | None, Uniqueness.server, Required.true] = None
    """What the directory calls them; unique in the tenant."""

    external_id: Annotated[str | None, Mutability.write_only, Returned.never, CaseExact.true] = None
    """The directory's own id, set once. It is kept as a keyed hash, so it finds somebody and is never given out."""

    active: bool | None = None
    """Whether they are there. Their keys and sessions end when they are not, and do not come back."""


class Scim:
    """The service; `answer` is all there is to it."""

    def __init__(self) -> None:
        scheme = AuthenticationScheme(
            type=AuthenticationScheme.Type.oauthbearertoken,
            name="Directory token",
            description="Made by an operator (`daulat directory create`), for the people of one tenant",
        )
        config = ServiceProviderConfig(
            patch=Patch(supported=True),
            bulk=Bulk(supported=False, max_operations=0, max_payload_size=0),
            filter=Filter(supported=True, max_results=MOST_RESULTS),
            change_password=ChangePassword(supported=False),
            sort=Sort(supported=False),
            etag=ETag(supported=True),
            authentication_schemes=[scheme],
        )
        # Entra and Okta send what the RFC does not have; what is read so is checked like everything else.
        policy = ScimPolicy(
            unknown=ScimPolicy.Unknown.ignore,
            remove_value_as_filter=ScimPolicy.RemoveValue.apply,
            unmatched_path_filter=ScimPolicy.UnmatchedPathFilter.create,
        )
        self._service = _Service(ScimProvider([User], config=config, policy=policy))

    async def answer(self, request: ScimRequest, store: Store) -> ScimResponse:
        """What is answered, errors too (RFC 7644 section 3.12)."""
        try:
            return await AsyncScimHandler(self._service, _Users(store)).handle(request)
        except DaulatError as error:
            return self.refusal(error)
        except SCIMException as error:
            return self._service.error_response(error)
        except Exception as error:  # noqa: BLE001  see below
            # The edge of one request: a defect, of the library's too, is not to be told to its client. Its words may
            # repeat what was sent, so they stay out of this machine's log.
            _log.error("a SCIM request failed: %s", type(error).__name__)
            return self._service.error_response(error)

    def refusal(self, error: DaulatError) -> ScimResponse:
        """One of ours in SCIM's form."""
        return self._service.error_response(_scim(error))


class _Service(ScimService):
    """The protocol, with what is ours."""

    def read_body(self, model: type[ModelT], body: bytes, content_type: str | None, scim_ctx: Context) -> ModelT:
        self.ensure_json(content_type)
        says_no_more(body)
        read = super().read_body(cast("Any", model), body, content_type, scim_ctx)
        return cast("ModelT", read)

    def read_search(self, resource_types: list[ResourceType], payload: Any) -> tuple[SearchRequest[Any], Any]:
        if isinstance(payload, dict) and len(str(payload.get("filter", ""))) > _LONGEST_FILTER:
            raise InvalidFilterException(detail=f"a filter has at most {_LONGEST_FILTER} characters")
        return super().read_search(resource_types, payload)


class _Users(AsyncScimStorage):
    """A store in the library's terms."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(
        self,
        resource_type: ResourceType,
        resource_id: str,
        *,
        response_parameters: ResponseParameters[Any] | None = None,  # noqa: ARG002  of these few nothing is left out
    ) -> Resource[Any]:
        return _user(resource_type, await self._store.find(resource_id))

    async def search(
        self,
        resource_types: list[ResourceType],
        search_request: SearchRequest[Any],
        *,
        position: Any = None,  # noqa: ARG002  there are no cursors
    ) -> SearchPage:
        attribute, value = _wanted(search_request)
        count = MOST_RESULTS if search_request.count is None else search_request.count
        found = await self._store.search(attribute, value, search_request.start_index or 1, count)
        return SearchPage(found["total"], [_user(resource_types[0], row) for row in found["rows"]])

    async def create(self, resource_type: ResourceType, resource: Resource[Any]) -> Resource[Any]:
        user = cast("User", resource)
        row = await self._store.create(user.user_name or "", user.external_id or "", active=user.active is not False)
        return _user(resource_type, row)

    async def update(
        self, resource_type: ResourceType, resource: Resource[Any], *, expected_version: str | None = None
    ) -> Resource[Any]:
        user = cast("User", resource)
        version = _version(expected_version) or 0
        said = (user.user_name or "", user.external_id or "")
        row = await self._store.update(user.id or "", version, *said, active=user.active)
        return _user(resource_type, row)

    async def delete(
        self, resource_type: ResourceType, resource_id: str, *, expected_version: str | None = None
    ) -> None:
        del resource_type
        await self._store.delete(resource_id, _version(expected_version))


def says_no_more(body: bytes) -> None:
    """Refuse what would say more of somebody than that they are there.

    Whoever leaves, leaves, whatever else is said of them: then it is forgotten like all the rest.

    Raises:
        InvalidValueException: it does, at any depth of a resource or in a PATCH's paths; what is empty says nothing.
        InvalidSyntaxException: it is no JSON.
    """
    try:
        read = json.loads(body)
        named = "" if _leaves(read) else next((name for name in _named(read) if name.lower() in _SAYS_MORE), "")
    except (ValueError, RecursionError):
        raise InvalidSyntaxException(detail="the body is no JSON, or is nested too deeply") from None
    if named:
        raise InvalidValueException(
            detail=f"'{named}' is not for a directory to say: it says who is here. Citizenship, its assurance and "
            "roles come from verified sign-ins and from an operator's vouching, there are no passwords. Do not map it"
        )


def _named(value: Any) -> Iterator[str]:
    """The names of all attributes that are given something."""
    if isinstance(value, list):
        for item in value:
            yield from _named(item)
    elif isinstance(value, dict):
        for name, given in value.items():
            if isinstance(given, str) and name.lower() == "path":
                yield from _WORDS.findall(given)
            elif given not in (None, "", [], {}):
                yield from _WORDS.findall(name)
                yield from _named(given)


def _leaves(value: Any) -> bool:
    """Whether somebody is made inactive, in a resource or by a PATCH in any of its forms."""
    if isinstance(value, list):
        return any(map(_leaves, value))
    if not isinstance(value, dict):
        return False
    said = {name.lower(): given for name, given in value.items()}
    active = said.get("value") if str(said.get("path")).lower() == "active" else said.get("active")
    return str(active).lower() == "false" or any(map(_leaves, value.values()))


def _user(resource_type: ResourceType, row: Mapping[str, Any]) -> User:
    created, changed = (datetime.fromtimestamp(row[name] / 1000, UTC) for name in ("created", "changed"))
    version = f'W/"{row["version"]}"'
    meta = Meta(resource_type=resource_type.name, created=created, last_modified=changed, version=version)
    return User(id=row["id"], user_name=row["name"], active=row["active"], meta=meta)


def _version(tag: str | None) -> int | None:
    """The number in our own tag."""
    return int(tag.removeprefix('W/"').removesuffix('"')) if tag else None


def _wanted(asked: SearchRequest[Any]) -> tuple[str, str]:
    """What is looked for: one attribute, and its value. Nothing more: directories look for one person, or list all.

    Raises:
        InvalidFilterException: it is another filter.
    """
    if asked.filter is None:
        return "", ""
    node = asked.filter.ast
    if isinstance(node, Comparison) and node.op == CompareOperator.eq and isinstance(node.value, str):
        found = asked.filter.resolve_comparison(node.attr_path, strict=False)
        if found is not None and found.field_name in _SEARCHED:
            return _SEARCHED[found.field_name], node.value
    raise InvalidFilterException(detail='filters are: userName eq "...", externalId eq "..." and id eq "..."')


def _scim(error: DaulatError) -> SCIMException:
    """What SCIM has for one of our errors, with its words."""
    by_code: dict[str, type[SCIMException]] = {
        "uniqueness": UniquenessException,
        "mutability": MutabilityException,
        "precondition_failed": PreconditionFailedException,
    }
    by_kind: tuple[tuple[type[DaulatError], type[SCIMException]], ...] = (
        (Unauthenticated, UnauthorizedException),
        (PermissionDenied, ForbiddenException),
        (NotFound, NotFoundException),
        (InvalidRequest, InvalidValueException),
    )
    kind = by_code.get(error.code) or next((ours for theirs, ours in by_kind if isinstance(error, theirs)), None)
    if kind is not None:
        return kind(detail=error.message)
    made = SCIMException(detail=error.message if isinstance(error, Conflict | Unavailable) else "internal error")
    made.status = 409 if isinstance(error, Conflict) else 503 if isinstance(error, Unavailable) else 500
    return made

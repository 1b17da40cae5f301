"""OpenAI's stored chat completions over the vault: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from daulat.errors import Conflict, InvalidRequest
from daulat.gateway.lists import Asked, asked, listed
from daulat.pipeline import stored
from daulat.vault.objects import Kept, Objects, Whose

_USUAL_PAGE, _MOST_PAGE = 20, 100
_MOST_BODY: Final = 65_536
_LONGEST_ID: Final = 200
_NEVER: Final = {"cache-control": "no-store"}


class Completions:
    """The handlers. `reads` and `keeps` say whose a request is, or raise: the latter also where a rule refuses."""

    def __init__(
        self, objects: Callable[[], Objects], reads: Callable[[Request], Whose], keeps: Callable[[Request], Whose]
    ) -> None:
        self._objects, self._reads, self._keeps = objects, reads, keeps

    def routes(self) -> list[Route]:
        one = "/v1/chat/completions/{id}"
        return [
            Route("/v1/chat/completions", self.all, methods=["GET"]),
            Route(one, self.retrieve, methods=["GET"]),
            Route(one, self.update, methods=["POST"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/messages", self.messages, methods=["GET"]),
        ]

    async def all(self, request: Request) -> Response:
        whose, query = self._reads(request), request.query_params
        wish = asked(query, usual=_USUAL_PAGE, most=_MOST_PAGE, order="asc")
        model = query.get("model")
        pairs = {
            name[len("metadata[") : -1]: value
            for name, value in query.multi_items()
            if name.startswith("metadata[") and name.endswith("]")
        }

        def wanted(kept: Kept) -> bool:
            said = kept.about["metadata"]
            return model in {None, kept.about["model"]} and all(said.get(name) == pairs[name] for name in pairs)

        def find() -> tuple[list[dict[str, Any]], bool]:
            found, more = wish.of(self._objects(), whose, "completion", wanted)
            return [self._whole(whose, kept)[0] for kept in found], more

        data, more = await asyncio.to_thread(find)
        return JSONResponse(listed(data, more=more), headers=_NEVER)

    async def retrieve(self, request: Request) -> Response:
        whose, id_ = self._reads(request), request.path_params["id"]
        said, _ = await asyncio.to_thread(self._found, whose, id_)
        return JSONResponse(said, headers=_NEVER)

    async def messages(self, request: Request) -> Response:
        whose, id_ = self._reads(request), request.path_params["id"]
        wish = asked(request.query_params, usual=_USUAL_PAGE, most=_MOST_PAGE, order="asc")
        _, messages = await asyncio.to_thread(self._found, whose, id_)
        return JSONResponse(_part(messages, wish), headers=_NEVER)

    async def update(self, request: Request) -> Response:
        whose, id_ = self._keeps(request), request.path_params["id"]
        value = _json(await request.body())
        if set(value) != {"metadata"}:
            raise InvalidRequest("Only 'metadata' can be changed, and it has to be given.", param="metadata")
        metadata = stored.metadata(value["metadata"])

        def change() -> dict[str, Any]:
            objects = self._objects()
            kept = objects.get(whose, "completion", id_)
            kept = objects.change(whose, "completion", id_, {**kept.about, "metadata": metadata})
            return self._whole(whose, kept)[0]

        return JSONResponse(await asyncio.to_thread(change), headers=_NEVER)

    async def delete(self, request: Request) -> Response:
        whose, id_ = self._reads(request), request.path_params["id"]
        await asyncio.to_thread(self._objects().delete, whose, "completion", id_)
        return JSONResponse({"object": "chat.completion.deleted", "id": id_, "deleted": True}, headers=_NEVER)

    def _found(self, whose: Whose, id_: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return self._whole(whose, self._objects().get(whose, "completion", id_))

    def _whole(self, whose: Whose, kept: Kept) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The object as it is now, and its request's messages."""
        value = json.loads(b"".join(self._objects().content(whose, "completion", kept.id)))
        return {**value["completion"], "metadata": kept.about["metadata"]}, value["messages"]


def keep(objects: Objects, whose: Whose, request: bytes, answer: bytes, *, stream: bool) -> str:
    """Keep a completion: its id. Durable once this returns.

    Raises:
        InvalidRequest, Unavailable, Conflict: it is not kept.
    """
    try:
        said, messages = stored.completion(request, answer, stream=stream)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidRequest(f"This answer cannot be stored: {error}.", code="not_storable") from None
    if len(said["id"]) > _LONGEST_ID or "/" in said["id"]:
        raise Conflict("The engine gave this answer an id that cannot be stored.")
    data = json.dumps({"completion": said, "messages": messages}, ensure_ascii=False).encode()
    about = {"model": said.get("model"), "metadata": said["metadata"]}
    return objects.put(whose, "completion", said["id"], [data], lambda: about).id


def _part(messages: list[dict[str, Any]], wish: Asked) -> Any:
    ordered = messages[::-1] if wish.newest_first else messages
    start = 0
    if wish.after:
        ids = [message["id"] for message in ordered]
        if wish.after not in ids:
            raise InvalidRequest("'after' is the id of none of these messages.", param="after")
        start = ids.index(wish.after) + 1
    return listed(ordered[start : start + wish.limit], more=len(ordered) > start + wish.limit)


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body) if len(body) <= _MOST_BODY else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body is a JSON object of at most {_MOST_BODY} bytes.")
    return value

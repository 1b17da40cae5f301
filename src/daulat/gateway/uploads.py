"""A form with a file in it, read as it comes: the file's bytes are handed on, never collected, nor put on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from daulat.errors import InvalidRequest

_MOST_FIELD: Final = 4_096  # bytes of a field that is no file
_MOST_PARTS: Final = 16
_MOST_HEADERS: Final = 8_192  # bytes, of all parts together


class Upload:
    """RFC 7578, one file in it. `fields` is whole once `pieces` has ended."""

    def __init__(self, content_type: str, file_field: str) -> None:
        """Raises InvalidRequest: it is no form."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequest("Content-Type must be multipart/form-data with a boundary.", code="bad_upload")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._file_field = file_field
        self._events: list[bytes] = []  # of the file, since last looked
        self._parts = self._header_bytes = 0
        self._header, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name, self._collected = "", bytearray()
        self._whole = self._in_file = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._valued,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._all,
            },
        )

    def pieces(self, body: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
        """The file, for another thread than the loop's; the body is read on that loop, no faster than this is taken.

        Raises:
            InvalidRequest: it is no form, is cut off, has no file or two, or something in it is too long.
        """

        async def some() -> bytes:
            return await anext(body, b"")

        while piece := asyncio.run_coroutine_threadsafe(some(), loop).result():
            try:
                self._parser.write(piece)
            except FormParserError as error:
                raise InvalidRequest(f"The form is malformed: {error}.", code="bad_upload") from None
            taken, self._events = self._events, []
            yield from taken
        if not self._whole:
            raise InvalidRequest("The form ends too early.", code="bad_upload")
        if self.filename is None:
            raise InvalidRequest(f"The form has no {self._file_field!r}.", param=self._file_field)

    # python-multipart's callbacks.

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise InvalidRequest(f"The form has more than {_MOST_PARTS} parts.", code="bad_upload")
        self._headers, self._collected = {}, bytearray()

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header += self._bounded(data, start, end)

    def _valued(self, data: bytes, start: int, end: int) -> None:
        self._value += self._bounded(data, start, end)

    def _header_end(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._in_file = self._name == self._file_field
        if self._name in self.fields or (self._in_file and self.filename is not None):
            raise InvalidRequest(f"The form has more than one {self._name[:40]!r}.", code="bad_upload")
        if self._in_file:
            self.filename = options.get(b"filename", b"upload").decode(errors="replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._events.append(data[start:end])
            return
        self._collected += data[start:end]
        if len(self._collected) > _MOST_FIELD:
            raise InvalidRequest(f"The field {self._name[:40]!r} is longer than {_MOST_FIELD} bytes.")

    def _end(self) -> None:
        if not self._in_file:
            self.fields[self._name] = self._collected.decode(errors="replace")

    def _all(self) -> None:
        self._whole = True

    def _bounded(self, data: bytes, start: int, end: int) -> bytes:
        self._header_bytes += end - start
        if self._header_bytes > _MOST_HEADERS:
            raise InvalidRequest("The headers of the form's parts are too long.", code="bad_upload")
        return data[start:end]

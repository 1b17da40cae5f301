"""`daulat receipt`: fetch the receipt of one answer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import click
import httpx

from daulat.cli import emit, service
from daulat.cli.options import json_option
from daulat.core.ids import REQUEST_ID
from daulat.errors import InvalidRequest, NotFound

_PATIENCE: Final = 30.0  # seconds: a receipt follows about one after the answer, where the machine is not busy
_AGAIN: Final = 0.3


@click.command()
@click.argument("request_id")
@click.option("--url", default="http://127.0.0.1:8470", show_default=True, help="The service.")
@click.option(
    "--key-file", type=click.Path(exists=True, path_type=Path), help="Holds the API key (else $DAULAT_API_KEY)."
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Where to write it (default: standard output).")
@json_option
def receipt(request_id: str, url: str, key_file: Path | None, output: Path | None, as_json: bool) -> None:
    """Fetch the receipt of an answer that this API key got. REQUEST_ID is in the answer's x-request-id header.

    \b
    Example:
        daulat receipt req_0198c0a1b2c3d4e5f60718293a4b5c6d -o receipt.json
    """
    if not REQUEST_ID.match(request_id):
        raise InvalidRequest(f"{request_id!r} is no request id: 'req_' and 32 hex digits, from the x-request-id header")
    root = service.address(url)
    data = fetch(f"{root}/v1/receipts/{request_id}", service.api_key(key_file), _PATIENCE)
    if output is None:
        click.echo(data)
        return
    output.write_bytes(data)
    text = f"Wrote {output}. Check it: daulat verify {output} --vkey KEY"
    emit({"request_id": request_id, "file": str(output)}, as_json=as_json, text=text)


def fetch(url: str, secret: str, patience: float) -> bytes:
    """The receipt's bytes. While there is none yet, it is asked for again.

    Raises:
        NotFound: there is none for this principal; Unauthenticated; PermissionDenied; Unavailable: no service answers,
            or it has no receipts to give.
    """
    end = time.monotonic() + patience
    while True:
        try:
            answer = httpx.get(url, headers={"authorization": f"Bearer {secret}"}, timeout=_PATIENCE)
        except httpx.HTTPError as error:
            raise service.unreachable(url, error, ". Where else does the service listen? --url") from None
        if answer.status_code == httpx.codes.OK:
            return answer.content
        if answer.status_code != httpx.codes.NOT_FOUND:
            raise service.refusal(url, answer)
        if time.monotonic() > end:
            raise NotFound("there is no receipt of this request for the holder of this key")
        time.sleep(_AGAIN)

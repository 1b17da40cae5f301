"""`daulat receipt`: fetch the receipt of one answer."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import click
import httpx

from daulat.cli import emit
from daulat.cli.options import json_option
from daulat.core.ids import REQUEST_ID
from daulat.errors import InvalidRequest, NotFound, Unauthenticated, Unavailable

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
    secret = key_file.read_text().strip() if key_file is not None else os.environ.get("DAULAT_API_KEY", "")
    if not secret:
        raise Unauthenticated("give the API key that asked: --key-file FILE, or DAULAT_API_KEY")
    data = fetch(f"{url.rstrip('/')}/v1/receipts/{request_id}", secret, _PATIENCE)
    if output is None:
        click.echo(data)
        return
    output.write_bytes(data)
    text = f"Wrote {output}. Check it: daulat verify {output} --vkey KEY"
    emit({"request_id": request_id, "file": str(output)}, as_json=as_json, text=text)


def fetch(url: str, secret: str, patience: float) -> bytes:
    """The receipt's bytes.

    Raises:
        NotFound: there is none for this principal; Unauthenticated; Unavailable: no service answers.
    """
    end = time.monotonic() + patience
    while True:
        try:
            answer = httpx.get(url, headers={"authorization": f"Bearer {secret}"}, timeout=_PATIENCE)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"{url} cannot be had: {reason}. Where else does the service listen? --url") from None
        if answer.status_code == httpx.codes.OK:
            return answer.content
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise Unauthenticated("the API key is not accepted")
        if time.monotonic() > end:
            raise NotFound("there is no receipt of this request for the holder of this key")
        time.sleep(_AGAIN)

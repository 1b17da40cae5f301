"""`daulat verify`: one receipt, with public keys alone. Works with the base install, and offline."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from daulat.audit import receipt as receipts
from daulat.audit.decisions import DeciderFactory
from daulat.audit.receipt import Given, Verdict
from daulat.cli import emit
from daulat.cli.options import json_option
from daulat.core.files import text_of
from daulat.errors import VerificationFailed
from daulat.tlog.note import Verifier

_HEADER: Final = "daulat-promise:"
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("receipt", type=FILE)
@click.option("--vkey", required=True, help="The log's public key, or a file that holds it. Not from the receipt!")
@click.option("--request", type=FILE, help="The request body, byte for byte.")
@click.option("--response", type=FILE, help="The response body, byte for byte; of a stream, all of it.")
@click.option("--promise", type=FILE, help="The answer's Daulat-Promise header, or all its headers (curl -D FILE).")
@json_option
def verify(
    receipt: Path, vkey: str, request: Path | None, response: Path | None, promise: Path | None, as_json: bool
) -> None:
    """Check a receipt: signatures, inclusion, everything that made the answer lawful, and, where given, the bytes.

    Get the key from the operator by another way than the receipt: printed, on a web page, from a friend. Exits with 1
    on the first thing that does not hold.

    \b
    Example:
        daulat verify receipt.json --vkey log.vkey
        daulat verify receipt.json --vkey log.vkey --request question.json --response answer.json
    """
    given = Given(
        request=None if request is None else request.read_bytes(),
        response=None if response is None else response.read_bytes(),
        promise=None if promise is None else promises(promise.read_text(errors="replace"))[-1],
        now=round(time.time() * 1000),
        decider=cedar(),
    )
    with receipt.open("rb") as stream:
        data = stream.read(receipts.MAX_BYTES + 1)
    verdict = receipts.verify(data, key(vkey), given)
    emit({"holds": True, **asdict(verdict)}, as_json=as_json, text=_text(verdict))


def key(given: str) -> Verifier:
    """The verifier that an option names: a vkey line, or a file with one.

    Raises:
        VerificationFailed: it is neither.
    """
    if "+" not in given and not Path(given).is_file():
        raise VerificationFailed(f"{given!r} is neither a public key of the form <name>+<id>+<key> nor a file")
    return Verifier(text_of(Path(given)) if Path(given).is_file() else given)


def promises(text: str) -> list[str]:
    """The Daulat-Promise headers in a file of them alone, one a line, or of whole headers as curl writes them.

    Raises:
        VerificationFailed: there is none.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line[len(_HEADER) :].strip() for line in lines if line.lower().startswith(_HEADER)]
    found = named or [line for line in lines if not line.startswith("HTTP/")]
    if not found:
        raise VerificationFailed("the file with promises holds no Daulat-Promise header")
    return found


def cedar() -> DeciderFactory | None:
    """What can run decisions again, where it is installed."""
    try:
        from daulat.policy.cedar import CedarDecider
    except ModuleNotFoundError:
        return None
    return CedarDecider


def _text(verdict: Verdict) -> str:
    lines = [f"The receipt of {verdict.request_id} holds (entry {verdict.index} of {verdict.origin})."]
    for title, words in (
        ("Proven, whoever the operator is", verdict.proven),
        ("Vouched for", verdict.vouched),
        ("Not proven", verdict.unproven),
        ("Falls short", verdict.short),
    ):
        lines += ["", f"{title}:", *(f"  - {word}" for word in words)]
    return "\n".join(lines)

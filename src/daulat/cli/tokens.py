"""`daulat tokens`: counting without a service."""

from __future__ import annotations

from typing import IO

import click

from daulat.cli import emit
from daulat.cli.options import json_option

_LONGEST = 64 * 1024 * 1024


@click.group()
def tokens() -> None:
    """Count tokens as DeepSeek's models do, without a service or a network."""


@tokens.command()
@click.argument("file", type=click.File("rb"))
@click.option(
    "--model", "name", default="deepseek-v3.2", show_default=True, help="whose tokens; `daulat model catalog`"
)
@json_option
def count(file: IO[bytes], name: str, *, as_json: bool) -> None:
    """Count the tokens of a text in UTF-8; `-` reads standard input.

    The text alone: a chat template adds some. The running service counts whole conversations (POST /tokenize).

    \b
    Example:
        daulat tokens count prompt.txt
        daulat tokens count - --model deepseek-r1 --json < prompt.txt
    """
    from daulat.adapters.tokenizer import tokenizer
    from daulat.catalog import models
    from daulat.errors import InvalidRequest

    spec = models.find(name)
    data = file.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise InvalidRequest(f"the text is larger than {_LONGEST} bytes: count it in parts")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the text is not UTF-8 at byte {error.start}") from None
    found = len(tokenizer(spec)(text))
    facts = {"model": spec.id, "tokens": found, "characters": len(text), "context": spec.context}
    share = f"{found / spec.context:.1%} of the {spec.context:,} that {spec.title} takes"
    emit(facts, as_json=as_json, text=f"{found:,} tokens ({share})")

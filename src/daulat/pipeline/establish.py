"""What stands in the log before the first request: charter, the log's key, policy, models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from daulat.core.charter import Charter
from daulat.core.decision import Decider, admission_question
from daulat.core.entries import MAX_INLINE_TEXT
from daulat.errors import ConfigError, PermissionDenied
from daulat.pipeline.book import Book
from daulat.policy.bundle import Bundle


async def charter(book: Book, read: Charter, text: str) -> int:
    """The charter's index; a new entry when the text is new to this log."""
    held = book.held("charter/v1")
    digest = hashlib.sha256(text.encode()).hexdigest()
    if held is not None and held["value"]["sha256"] == digest:
        return int(held["position"])
    if len(text.encode()) > MAX_INLINE_TEXT:
        raise ConfigError(f"is longer than {MAX_INLINE_TEXT} bytes", location="charter.toml")
    fields = {
        "origin": book.origin,
        "previous": None if held is None else held["position"],
        "profile": read.profile,
        "jurisdiction": read.country,
        "approvals": read.approvals,
        "sha256": digest,
        "text": text,
        "restates": book.restated("charter/v1"),
    }
    return await book.write("charter/v1", fields, name="")


async def log_key(book: Book, charter_index: int, vkey: str, rotation: Mapping[str, Any] | None) -> int:
    """The log's own key, certified once a log. `rotation`: the vkey it replaces and both keys' signatures, if any."""
    held = book.held("key/v1", "log")
    if held is not None and held["value"]["vkey"] == vkey:
        return int(held["position"])
    if rotation is None:
        return await key(book, charter_index, "log", vkey, name="log")
    old = await key(book, charter_index, "log", rotation["old"])
    return await key(
        book, charter_index, "log", vkey, name="log", replaces=old, signatures=tuple(rotation["signatures"])
    )


async def key(
    book: Book,
    charter_index: int,
    purpose: str,
    vkey: str,
    *,
    name: str | None = None,
    replaces: int | None = None,
    signatures: tuple[str, ...] = (),
    not_after: int | None = None,
) -> int:
    """Certify a key: a worker's at its start, the log's own, an operator's until `not_after`."""
    fields = {
        "charter": charter_index,
        "purpose": purpose,
        "name": vkey.partition("+")[0],
        "vkey": vkey,
        "not_after": not_after,
        "replaces": replaces,
        "signatures": list(signatures),
    }
    return await book.write("key/v1", fields, name=name)


async def policy(book: Book, charter_index: int, bundle: Bundle, put_blob: Callable[[bytes], str]) -> int:
    """The rules in force; a new entry when they or the charter are new."""
    held = book.held("policy/v1")
    if held is not None and (held["value"]["version"], held["value"]["charter"]) == (bundle.version, charter_index):
        return int(held["position"])
    files = bundle.entry_files()
    room = MAX_INLINE_TEXT
    for file in files:  # what no longer fits is named by its hash, and served as a blob
        text = file["text"]
        if text is not None and len(text.encode()) > room:
            file["text"] = None
        elif text is not None:
            room -= len(text.encode())
        if file["text"] is None:
            put_blob(bundle.files[str(file["name"])].encode())
    fields = {
        "charter": charter_index,
        "previous": None if held is None else held["position"],
        "version": bundle.version,
        "files": files,
        "restates": book.restated("policy/v1"),
    }
    return await book.write("policy/v1", fields, name="")


async def model(
    book: Book,
    decider: Decider,
    read: Charter,
    facts: Mapping[str, Any],
    *,
    charter_index: int,
    policy_index: int,
    operator: str,
    citizenship: str,
) -> int:
    """Admit a model under the rules in force; `facts` are the describing fields of `model.admitted/v1`.

    Raises:
        PermissionDenied: the rules refuse it; says which, and why.
    """
    held = book.held("model.admitted/v1", facts["model"])
    if held is not None:
        value = held["value"]
        same = all(value[name] == facts[name] for name in facts)  # a signature, for instance, may be new
        if same and (value["charter"], value["policy"]) == (charter_index, policy_index):
            return int(held["position"])
    decision = decider.decide(admission_question(read, operator, citizenship, facts))
    if not decision.allowed:
        raise PermissionDenied(
            f"model {facts['model']} (licence {facts['licence'] or 'unknown'!r}, format {facts['format']}) is refused "
            f"by {', '.join(decision.policies)}: {decision.reason}. Change charter.toml, or import another model",
            policies=decision.policies,
        )
    attributes = {"operator": operator, "citizenship": citizenship}
    fields = {
        **facts,
        "charter": charter_index,
        "policy": policy_index,
        "decision": {**decision.as_dict(), "attributes": attributes},
        "restates": book.restated("model.admitted/v1", facts["model"]),
    }
    return await book.write("model.admitted/v1", fields, name=facts["model"])

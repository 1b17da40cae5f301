"""What Daulat needs to know of a model: read from its file, and from the record made when it was imported."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from daulat.errors import ConfigError
from daulat.registry.gguf import Header

MODEL_FILE: Final = "model.gguf"
RECORD_FILE: Final = "model.json"
_TEMPLATE: Final = "tokenizer.chat_template"
_EMBEDDING_POOLING: Final = frozenset({1, 2, 3})  # mean, first, last token; 4 ranks, 0 is none
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template: code that runs in the engine, so its digest stands in the log."""

    name: str
    sha256: str
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """What an import adds to the file's own words. `derived_from`: None or {"digest", "recipe"}."""

    name: str
    origin: str = ""
    licence: str = ""
    derived_from: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model. `digest`: hex SHA-256 of the file; `size` in bytes; `context_length` in tokens, 0 where unsaid."""

    name: str
    digest: str
    size: int
    format: str
    architecture: str
    title: str
    quantisation: str
    parameters: int
    tensors: int
    context_length: int
    embeds: bool
    licence: str
    origin: str
    derived_from: Mapping[str, str] | None
    templates: tuple[Template, ...]

    def admission(self) -> dict[str, Any]:
        """The model's share of a `model.admitted/v1` entry (see core.entries)."""
        return {
            "model": self.name,
            "digest": self.digest,
            "format": self.format,
            "licence": self.licence,
            "origin": self.origin,
            "signed_by": None,
            "derived_from": dict(self.derived_from) if self.derived_from else None,
            "files": [{"path": MODEL_FILE, "sha256": self.digest, "size": self.size}],
            "templates": [{"name": template.name, "sha256": template.sha256} for template in self.templates],
        }


def describe(header: Header, *, digest: str, size: int, record: Record) -> ModelFacts:
    """Join the header and the import's record."""
    architecture = header.text("general.architecture")
    pooling = header.metadata.get(f"{architecture}.pooling_type")
    return ModelFacts(
        name=record.name,
        digest=digest,
        size=size,
        format="gguf",
        architecture=architecture,
        title=header.text("general.name"),
        quantisation=_quantisation(header),
        parameters=sum(tensor.elements for tensor in header.tensors),
        tensors=len(header.tensors),
        context_length=header.count(f"{architecture}.context_length"),
        embeds=pooling in _EMBEDDING_POOLING or "bert" in architecture,
        licence=record.licence or header.text("general.license").lower(),
        origin=record.origin or _origin(header),
        derived_from=record.derived_from,
        templates=_templates(header),
    )


def name_of(header: Header, stem: str) -> str:
    """A name clients can use: the model's own, else the file's."""
    wanted = header.text("general.name") or header.text("general.basename") or stem
    plain = re.sub(r"[^a-z0-9._]+", "-", wanted.lower()).strip("-._")[:64].strip("-._")
    return plain or "model"


def check_name(name: str) -> str:
    """The same name.

    Raises:
        ConfigError: it would not do in a URL, a policy or a log entry.
    """
    if not _NAME.match(name):
        raise ConfigError(f"{name!r} is no model name: use a-z, 0-9, dot, hyphen and underscore, at most 64")
    return name


def _quantisation(header: Header) -> str:
    """The type that holds most of the weights."""
    held: Counter[str] = Counter()
    for tensor in header.tensors:
        held[tensor.type] += tensor.elements
    return held.most_common(1)[0][0] if held else ""


def _origin(header: Header) -> str:
    for key in ("general.repo_url", "general.source.url", "general.source.repo_url", "general.url"):
        if found := header.text(key):
            return found[:128]
    return header.text("general.organization")[:128]


def _templates(header: Header) -> tuple[Template, ...]:
    found = []
    for key in sorted(header.metadata):
        text = header.text(key)
        if text and (key == _TEMPLATE or key.startswith(f"{_TEMPLATE}.")):
            name = key.removeprefix(_TEMPLATE).removeprefix(".") or "default"
            found.append(Template(name[:128], hashlib.sha256(text.encode()).hexdigest(), text))
    return tuple(found)

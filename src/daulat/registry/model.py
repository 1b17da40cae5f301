"""What Daulat needs to know of a model: read from its files, and from the record made when it was imported."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from daulat.core.manifest import PAPERS, ModelFile
from daulat.errors import ConfigError
from daulat.registry.templates import Template
from daulat.registry.weights import Described

MODEL_FILE: Final = "model.gguf"
MODEL_FOLDER: Final = "model"
RECORD_FILE: Final = "model.json"
BOM: Final = "bom.cdx.json"
SIGNATURE: Final = "model.sig"
_MOST_LISTED: Final = 24_576  # bytes of an entry that the list of files may take; longer ones are the manifest's
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Record:
    """What an import adds to the files' own words. `derived_from`: None or {"digest", "recipe"}.

    `files` and `papers` (bill of materials, signature) are as they were stored; `blake3`: hex, by path.
    """

    name: str
    origin: str = ""
    licence: str = ""
    derived_from: Mapping[str, str] | None = None
    base_model: str = ""
    signed_by: str | None = None
    files: tuple[ModelFile, ...] = ()
    papers: tuple[ModelFile, ...] = ()
    blake3: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """JSON, as it stands beside the model."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_record(text: str, *, location: str) -> Record:
    """The record that an import has left.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        value = json.loads(text)
        for many in ("files", "papers"):
            value[many] = tuple(ModelFile(**item) for item in value.get(many, ()))
        return Record(**value)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"the model's record is damaged: {error}. Import it again", location=location) from None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model. `size` in bytes; `context_length` in tokens, 0 where unsaid.

    `digest`: hex SHA-256 of its one GGUF file, or of its manifest (`core.manifest`). `papers`: what is served with it.
    """

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
    base_model: str = ""
    signed_by: str | None = None
    files: tuple[ModelFile, ...] = ()
    papers: tuple[ModelFile, ...] = ()

    def admission(self) -> dict[str, Any]:
        """The model's share of a `model.admitted/v1` entry (see core.entries)."""
        files = [asdict(file) for file in self.files or (ModelFile(MODEL_FILE, self.digest, self.size),)]
        papers = [{**asdict(paper), "path": PAPERS + paper.path} for paper in self.papers]
        if len(json.dumps(files, ensure_ascii=False).encode()) > _MOST_LISTED:
            files = []  # the manifest among the papers has them, and its SHA-256 is the digest
        return {
            "model": self.name,
            "digest": self.digest,
            "format": self.format,
            "licence": self.licence,
            "origin": self.origin,
            "signed_by": self.signed_by,
            "derived_from": dict(self.derived_from) if self.derived_from else None,
            "files": [*files, *papers],
            "templates": [{"name": template.name, "sha256": template.sha256} for template in self.templates],
        }


def join(said: Described, record: Record, *, digest: str, size: int, files: tuple[ModelFile, ...]) -> ModelFacts:
    """What the files say and what the import recorded; the import's word goes first."""
    return ModelFacts(
        name=record.name,
        digest=digest,
        size=size,
        format=said.format,
        architecture=said.architecture,
        title=said.title,
        quantisation=said.quantisation,
        parameters=said.parameters,
        tensors=said.tensors,
        context_length=said.context_length,
        embeds=said.embeds,
        licence=record.licence or said.licence,
        origin=record.origin or said.origin,
        derived_from=record.derived_from,
        templates=said.templates,
        base_model=record.base_model or said.base_model,
        signed_by=record.signed_by,
        files=record.files or files,
        papers=record.papers,
    )


def plain_name(wanted: str) -> str:
    """A name that clients can use, as near as may be to what the model or its file is called."""
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

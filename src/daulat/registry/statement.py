"""What an operator states about a model that a server outside Daulat holds: in place of files, which nobody here saw.

One JSON text, whose SHA-256 is the model's digest. It is admitted like files are, under the format `external`, and the
log serves it word for word, so that whoever reads an answer's receipt can read what was claimed about its model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from daulat.core.manifest import ModelFile
from daulat.errors import ConfigError
from daulat.registry.model import ModelFacts

FORMAT: Final = "external"
STATEMENT_FILE: Final = "statement.json"
_LONGEST: Final = 4_096  # characters
_LONGEST_FIELD: Final = 512


@dataclass(frozen=True, slots=True)
class Statement:
    """`model`: what the server calls it. `origin`, `licence`: as for files. `context_length`: 0 where unsaid."""

    name: str
    model: str
    licence: str
    origin: str
    context_length: int = 0

    def text(self) -> str:
        """Its one form."""
        return json.dumps({"statement": "daulat-external/v1", **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    def digest(self) -> str:
        """Hex SHA-256 of `text`."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def facts(self) -> ModelFacts:
        """What the rest of Daulat needs to know of such a model."""
        return ModelFacts(
            name=self.name,
            digest=self.digest(),
            size=0,
            format=FORMAT,
            architecture="",
            title=self.model,
            quantisation="",
            parameters=0,
            tensors=0,
            context_length=self.context_length,
            embeds=False,
            licence=self.licence,
            origin=self.origin,
            derived_from=None,
            templates=(),
            files=(ModelFile(STATEMENT_FILE, self.digest(), len(self.text().encode())),),
        )


def stated(name: str, *, model: str, licence: str, origin: str, context_length: int = 0) -> Statement:
    """A statement that says what the rules ask.

    Raises:
        ConfigError: the licence or the origin is not stated, or something is too long.
    """
    for what, said in (("licence", licence), ("origin", origin)):
        if not said.strip():
            raise ConfigError(f"the {what} of an external model is not stated: nothing here could be read for it")
    made = Statement(name, model or name, licence.strip().lower(), origin.strip(), context_length)
    for said in (made.model, made.licence, made.origin):
        if len(said) > _LONGEST_FIELD:
            raise ConfigError(f"{said[:40]!r}... is longer than {_LONGEST_FIELD} characters")
    return made


def read(text: str) -> Statement:
    """The statement of a stored text.

    Raises:
        ConfigError: it is none, or not in its one form.
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"over {_LONGEST} characters")
        value: dict[str, Any] = json.loads(text)
        found = Statement(**{entry.name: value[entry.name] for entry in fields(Statement)})
        if found.text() != text:
            raise ValueError("not in its one form")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"the statement about an external model is damaged: {error}. State it again") from None
    return found

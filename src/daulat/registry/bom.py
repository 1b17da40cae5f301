"""The bill of materials of a model: CycloneDX 1.6 (ECMA-424), as JSON.

Deterministic: the same model and the same claims give the same bytes, so its hash can stand in the log.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final

from daulat.core.manifest import ModelFile
from daulat.registry.model import ModelFacts

FORMAT: Final = "CycloneDX"
VERSION: Final = "1.6"
_URL: Final = re.compile(r"https?://[A-Za-z0-9.:-]+(/[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]*)?\Z", re.ASCII)
_SPDX: Final = {  # SPDX writes these with capitals
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
}


def text(facts: ModelFacts, files: Iterable[ModelFile], blake3: Mapping[str, str]) -> str:
    """The whole document. `files`: all of the model; `blake3`: hex, by their paths."""
    document = {
        "bomFormat": FORMAT,
        "specVersion": VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, _reference(facts.digest))}",
        "version": 1,
        "metadata": {"component": _model(facts)},
        "components": [_file(file, blake3.get(file.path)) for file in files],
        "dependencies": [{"ref": _reference(facts.digest), "dependsOn": [f"file:{file.path}" for file in files]}],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _model(facts: ModelFacts) -> dict[str, Any]:
    card: dict[str, Any] = {"modelParameters": {"task": "embedding" if facts.embeds else "text-generation"}}
    if facts.architecture:
        card["modelParameters"]["modelArchitecture"] = facts.architecture
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": _reference(facts.digest),
        "name": facts.name,
        "version": facts.digest,
        "hashes": [{"alg": "SHA-256", "content": facts.digest}],
        "modelCard": card,
        "properties": _properties(facts),
    }
    if facts.licence:
        known = _SPDX.get(facts.licence)
        component["licenses"] = [{"license": {"id": known} if known else {"name": facts.licence}}]
    if _URL.match(facts.origin):
        component["externalReferences"] = [{"type": "distribution", "url": facts.origin}]
    if ancestors := _ancestors(facts):
        component["pedigree"] = {"ancestors": ancestors}
    return component


def _properties(facts: ModelFacts) -> list[dict[str, str]]:
    rows = {
        "daulat:format": facts.format,
        "daulat:quantisation": facts.quantisation,
        "daulat:parameters": str(facts.parameters),
        "daulat:context_length": str(facts.context_length),
        "daulat:origin": facts.origin,
        "daulat:signed_by": facts.signed_by or "",
        **{f"daulat:template:{template.name}": template.sha256 for template in facts.templates},
    }
    return [{"name": name, "value": value} for name, value in rows.items() if value]


def _ancestors(facts: ModelFacts) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if facts.base_model:
        found.append({"type": "machine-learning-model", "name": facts.base_model})
    if facts.derived_from:
        digest, recipe = facts.derived_from["digest"], facts.derived_from["recipe"]
        found.append(
            {
                "type": "machine-learning-model",
                "name": f"{facts.name} before: {recipe}",
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
        )
    return found


def _file(file: ModelFile, blake3: str | None) -> dict[str, Any]:
    hashes = [{"alg": "SHA-256", "content": file.sha256}]
    if blake3 is not None:
        hashes.append({"alg": "BLAKE3", "content": blake3})
    size = [{"name": "daulat:size", "value": str(file.size)}]
    return {"type": "file", "bom-ref": f"file:{file.path}", "name": file.path, "hashes": hashes, "properties": size}


def _reference(digest: str) -> str:
    return f"model:{digest}"

"""What the files of a model say of it: GGUF headers, or safetensors headers with `config.json` beside them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from daulat.registry import cards, documents, safetensors, templates
from daulat.registry.gguf import BadModel, Header
from daulat.registry.templates import Template

_EMBEDDING_POOLING: Final = frozenset({1, 2, 3})  # mean, first, last token; 4 ranks, 0 is none
_INDEX: Final = ".safetensors.index.json"
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}\Z", re.ASCII)
_PICKLE: Final = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04|\x7fELF|MZ")
_LONGEST: Final = 128
_GROUPED: Final = frozenset({"deepseek_v3", "deepseek_v32", "kimi_k2"})  # model_type
_ROUTING: Final = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}  # as DeepSeek's own config.json has them


@dataclass(frozen=True, slots=True)
class Described:
    """What the files say; the fields are `ModelFacts`'s."""

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
    base_model: str
    templates: tuple[Template, ...]


def of_gguf(headers: Sequence[Header]) -> Described:
    """One GGUF file, or all parts of a split one in their order.

    Raises:
        BadModel: the parts do not belong together.
    """
    _check_split(headers)
    header = headers[0]
    architecture = header.text("general.architecture")
    every = [tensor for part in headers for tensor in part.tensors]
    pooling = header.metadata.get(f"{architecture}.pooling_type")
    return Described(
        format="gguf",
        architecture=architecture,
        title=header.text("general.name"),
        quantisation=_most(every),
        parameters=sum(tensor.elements for tensor in every),
        tensors=len(every),
        context_length=header.count(f"{architecture}.context_length"),
        embeds=pooling in _EMBEDDING_POOLING or "bert" in architecture,
        licence=header.text("general.license").lower()[:64],
        origin=_origin(header),
        base_model=(header.text("general.base_model.0.repo_url") or header.text("general.base_model.0.name"))[
            :_LONGEST
        ],
        templates=templates.of_gguf(header),
    )


def of_safetensors(headers: Mapping[str, safetensors.Header], papers: Mapping[str, bytes]) -> Described:
    """A folder of safetensors.

    Args:
        headers: by path, of every weights file.
        papers: by path, the bytes of every small file (`is_paper`).

    Raises:
        BadModel: config.json, an index or another document is not in order, asks for code, or does not fit the weights.
    """
    read = {path: _document(path, data) for path, data in papers.items()}
    config = documents.table(papers.get("config.json", b""), "config.json", most=documents.MOST_CONFIG_BYTES)
    for path, document in read.items():
        if path.endswith(_INDEX):
            _check_index(path, document, headers)
    every = [tensor for header in headers.values() for tensor in header.tensors]
    if len({tensor.name for tensor in every}) != len(every) and not any(path.endswith(_INDEX) for path in read):
        raise BadModel("two files hold tensors of one name, and no index says which counts")
    texts = {path: data.decode(errors="replace") for path, data in papers.items() if not path.endswith(".json")}
    inner = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    named = documents.string(config, "_name_or_path")
    return Described(
        format="safetensors",
        architecture=_architecture(config),
        title="",
        quantisation=_quantisation(config, read, every),
        parameters=sum(tensor.elements for tensor in every),
        tensors=len(every),
        context_length=documents.count(inner or {}, "max_position_embeddings"),
        embeds="modules.json" in papers or documents.string(config, "model_type") in {"bert", "xlm-roberta"},
        licence=cards.licence(texts),
        origin=named if _REPOSITORY.match(named) else "",
        base_model=cards.base_model(texts),
        templates=templates.of_files(papers),
    )


def check_routing(data: bytes) -> None:
    """Whether the `config.json` of a DeepSeek-V3 says how experts are chosen.

    transformers takes it for granted, and leaves it out of what it saves; vLLM takes softmax then, and no correction
    bias. It would answer, fluently, out of other experts.

    Raises:
        BadModel: it does not; says what to add.
    """
    config = documents.table(data, "config.json", most=documents.MOST_CONFIG_BYTES)
    missing = {key: value for key, value in _ROUTING.items() if key not in config}
    if missing and documents.string(config, "model_type") in _GROUPED:
        raise BadModel(
            "does not say how experts are chosen, and engines then choose differently: add "
            f"{json.dumps(missing)[1:-1]} as in DeepSeek's own, or whatever the model was trained with",
            location="config.json",
        )


def is_paper(path: str) -> bool:
    """Whether a file of a safetensors folder is a small document that is read whole."""
    name = path.rpartition("/")[2].lower()
    return name.endswith((".json", ".jinja", ".md", ".txt")) or "." not in name


def check_paper(data: bytes, path: str) -> None:
    """Refuse a file whose name says document and whose first bytes say program or pickle.

    Raises:
        BadModel: it is one.
    """
    if _PICKLE.match(data):
        raise BadModel("is a pickle, an archive or a program under a harmless name; remove it", location=path)


def _document(path: str, data: bytes) -> Any:
    check_paper(data, path)
    if not path.endswith(".json"):
        return None
    value = documents.parse(data, path)
    documents.refuse_code(value, path)
    return value


def _architecture(config: Mapping[str, Any]) -> str:
    named, kind = config.get("architectures"), documents.string(config, "model_type")
    first = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    if not kind and not first:
        raise BadModel("names neither architectures nor model_type: engines cannot load it", location="config.json")
    return (kind or first)[:_LONGEST]


def _quantisation(config: Mapping[str, Any], read: Mapping[str, Any], every: Iterable[Any]) -> str:
    method = documents.string(config, "quantization_config", "quant_method")
    ascend = [read[path] for path in read if path.startswith("quant_model_description")]
    if ascend and isinstance(ascend[0], dict):  # written by Ascend's ModelSlim
        return documents.string(ascend[0], "model_quant_type")[:64] or "ascend"
    form = documents.string(config, "quantization_config", "fmt")
    return f"{method} {form}".strip()[:64] or _most(every)


def _most(tensors: Iterable[Any]) -> str:
    """The type that holds most of the weights."""
    held: Counter[str] = Counter()
    for tensor in tensors:
        held[tensor.type] += tensor.elements
    return held.most_common(1)[0][0] if held else ""


def _check_index(path: str, document: Any, headers: Mapping[str, safetensors.Header]) -> None:
    places = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise BadModel("has no weight_map from tensors to files", location=path)
    held = {file: {tensor.name for tensor in header.tensors} for file, header in headers.items()}
    folder = path.rpartition("/")[0]
    for tensor, file in places.items():
        there = f"{folder}/{file}" if folder else file
        if there not in held:
            raise BadModel(f"names the file {json.dumps(file)[:80]}, which is missing: fetch it", location=path)
        if tensor not in held[there]:
            raise BadModel(f"says that {file[:80]} holds {tensor[:80]!r}, and it does not", location=path)


def _check_split(headers: Sequence[Header]) -> None:
    counts = [header.metadata.get("split.count", 1 if len(headers) == 1 else None) for header in headers]
    if len(headers) == 1 and counts[0] in {0, 1}:
        return
    if len(headers) == 1:
        raise BadModel(f"this is one part of {counts[0]}: give all parts, under the names that they were written with")
    numbers = [header.metadata.get("split.no") for header in headers]
    if set(counts) != {len(headers)} or numbers != list(range(len(headers))):
        raise BadModel(f"the parts say that they are {numbers} of {counts}: they do not belong together")
    every = [tensor.name for header in headers for tensor in header.tensors]
    total = headers[0].metadata.get("split.tensors.count", len(every))
    if total != len(every) or len(set(every)) != len(every):
        raise BadModel(f"the parts hold {len(every)} tensors, not the {total} that the first one speaks of")


def _origin(header: Header) -> str:
    for key in ("general.repo_url", "general.source.url", "general.source.repo_url", "general.url"):
        if found := header.text(key):
            return found[:_LONGEST]
    return header.text("general.organization")[:_LONGEST]

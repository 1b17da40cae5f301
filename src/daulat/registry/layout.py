"""Of which files a model may consist: weights that are data, and the small documents beside them.

What can carry code is refused with the reason and with what would be right; what nobody needs (hidden files, a wheel's
packaging) is left out. Pure: it looks at names alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from daulat.core.manifest import MOST_FILES, check_path
from daulat.errors import VerificationFailed
from daulat.registry.gguf import BadModel

MOST_MEMBERS: Final = 20_000
SPLIT: Final = re.compile(
    r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<suffix>gguf|safetensors)\Z", re.ASCII
)
_PICKLE: Final = (
    "is or may be a pickle, which runs any code when it is loaded. Import the model's .safetensors or .gguf instead; "
    "whoever made it can write them from the same weights"
)
_CODE: Final = (
    "is code, and nothing that comes with a model is run here. Engines know most architectures themselves: remove it, "
    "or import with --without-code, which leaves code out"
)
_PROGRAM: Final = "is a program; a model is data alone. Remove it"
_OTHER_FORMAT: Final = "is in a format that is not served here; import the model's .safetensors or .gguf instead"
_REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("bin", "pt", "pth", "ckpt", "pkl", "pickle", "joblib", "dill", "npy", "npz", "mar"), _PICKLE),
    **dict.fromkeys(("py", "pyc", "pyi", "ipynb", "cu", "cpp", "c", "h", "rs", "js"), _CODE),
    **dict.fromkeys(("so", "dll", "dylib", "exe", "sh", "bat", "ps1", "whl", "jar"), _PROGRAM),
    **dict.fromkeys(("h5", "keras", "msgpack", "onnx", "pb", "tflite", "om", "engine", "plan", "ot"), _OTHER_FORMAT),
}
_DOCUMENTS: Final = frozenset(
    {
        "json",
        "jinja",
        "md",
        "txt",
        "model",
        "tiktoken",
        "vocab",
        "bpe",
        "yaml",
        "yml",
        "sig",
        "pdf",
        "png",
        "jpg",
        "jpeg",
    }
    | {"gif", "svg", "webp"}
)
_BARE: Final = re.compile(r"(LICEN[CS]E|NOTICE|COPYING|USE_POLICY|README)\b", re.IGNORECASE)
_PACKAGING: Final = re.compile(r"(^|/)[^/]+\.(dist-info|data|egg-info)/|\.pyi?\Z")


@dataclass(frozen=True, slots=True)
class Layout:
    """What of a source is the model. `kept`: the name inside the model, by the path in the source."""

    format: str  # "gguf" | "safetensors"
    kept: Mapping[str, str]
    left_out: tuple[str, ...]


def choose(paths: Iterable[str], *, without_code: bool = False, packaging: bool = False) -> Layout:
    """Which of these files are the model. `packaging`: the source is a wheel, whose own code is of no concern.

    Raises:
        BadModel: a file is refused, or they are no model, or more than one; says what would be right.
    """
    everything = sorted(paths)
    if len(everything) > MOST_MEMBERS:
        raise BadModel(f"{len(everything)} files; a model may come in {MOST_MEMBERS}")
    left_out = [path for path in everything if _needless(path, without_code=without_code, packaging=packaging)]
    serious = [path for path in everything if path not in set(left_out)]
    for path in serious:
        _check(path)
    gguf, safetensors = (_ending(serious, suffix) for suffix in ("gguf", "safetensors"))
    if gguf and safetensors:
        raise BadModel(f"holds two models, {gguf[0]} and {safetensors[0]}: give one of them alone")
    if gguf:
        _whole(gguf)
        kept = {path: path.rpartition("/")[2] for path in gguf}
        _distinct(kept.values())
        return Layout("gguf", kept, tuple(path for path in everything if path not in kept))
    if not safetensors:
        raise BadModel("holds no weights: give a .gguf file, or a folder with config.json and .safetensors files")
    root = _root(serious, safetensors)
    kept = {path: path.removeprefix(root) for path in serious if path.startswith(root)}
    _whole([path for path in safetensors if "/" not in path.removeprefix(root)])
    _distinct(kept.values())
    return Layout("safetensors", kept, tuple(path for path in everything if path not in kept))


def single(layout: Layout) -> bool:
    """Whether the model is one GGUF file, whose SHA-256 is its digest."""
    return layout.format == "gguf" and len(layout.kept) == 1


def is_code(path: str) -> bool:
    """Whether a file is source code, by its name."""
    return _REFUSED.get(_suffix(path)) == _CODE


def _needless(path: str, *, without_code: bool, packaging: bool) -> bool:
    parts = path.split("/")
    if any(part.startswith(".") and part not in {".", ".."} for part in parts) or "__MACOSX" in parts:
        return True
    if packaging and _PACKAGING.search(path):
        return True
    return without_code and is_code(path)


def _check(path: str) -> None:
    try:
        check_path(path)
    except VerificationFailed as error:
        raise BadModel(error.message) from None
    suffix = _suffix(path)
    if reason := _REFUSED.get(suffix):
        raise BadModel(reason, location=path)
    if suffix not in _DOCUMENTS | {"gguf", "safetensors"} and not _BARE.match(path.rpartition("/")[2]):
        raise BadModel(
            "is none of the files that a model is made of. Remove it, or import a copy without it", location=path
        )


def _suffix(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[2].lower()


def _ending(paths: list[str], suffix: str) -> list[str]:
    return [path for path in paths if _suffix(path) == suffix]


def _root(paths: list[str], weights: list[str]) -> str:
    """The folder of config.json, as a prefix."""
    folders = {path.removesuffix("config.json") for path in paths if path.rpartition("/")[2] == "config.json"}
    holding = sorted((folder for folder in folders if any(w.startswith(folder) for w in weights)), key=len)
    if not holding:
        raise BadModel("has .safetensors files but no config.json beside them: the model is not complete")
    root = holding[0]
    if any(not other.startswith(root) for other in holding):
        raise BadModel(f"holds more than one model, in {', '.join(holding)}: give one of them alone")
    return root


def _distinct(names: Collection[str]) -> None:
    """No two files may be one where capitals or the forms of accents do not count, nor a file another's folder.

    Raises:
        BadModel: two readers of a copy could see different models; or there are more files than a manifest takes.
    """
    if len(names) > MOST_FILES:
        raise BadModel(f"{len(names)} files; a model may have {MOST_FILES}")
    plain: dict[str, str] = {}
    for name in names:
        other = plain.setdefault(_plain(name), name)
        if other != name:
            raise BadModel(f"{name[:80]!r} and {other[:80]!r} are one file where capitals do not count: rename one")
    for name in names:
        parts = _plain(name).split("/")[:-1]
        for count in range(1, len(parts) + 1):
            if (file := plain.get("/".join(parts[:count]))) is not None:
                raise BadModel(f"{file[:80]!r} is a file and {name[:80]!r} says that it is a folder")


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _whole(weights: list[str]) -> None:
    """All parts of one split model, or one file where it is a GGUF.

    Raises:
        BadModel: parts are missing, or there are several models.
    """
    stems: dict[tuple[str, int], set[int]] = {}
    for path in weights:
        if found := SPLIT.match(path):
            stems.setdefault((found["stem"], int(found["count"])), set()).add(int(found["number"]))
    for (stem, count), numbers in stems.items():
        missing = [number for number in range(1, min(count, MOST_MEMBERS) + 1) if number not in numbers]
        if missing or numbers - set(range(1, count + 1)):
            named = ", ".join(map(str, missing[:5]))
            raise BadModel(
                f"{stem}: of {count} parts {len(missing)} are missing ({named}): fetch them, then import again"
            )
    alone = [path for path in weights if _suffix(path) == "gguf" and not SPLIT.match(path)]
    if any(_suffix(path) == "gguf" for path in weights) and len(alone) + len(stems) > 1:
        raise BadModel(f"holds {len(alone) + len(stems)} GGUF models: give the path of one of them: {weights[0]}")

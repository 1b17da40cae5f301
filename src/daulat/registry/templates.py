"""Chat templates are code that came with a model: what they may do is bounded before anything renders them.

`check` looks at a template without running it. It refuses what public attacks are made of (attributes that begin with
an underscore, `self`, imports, `attr`, Jinja's handy globals; CVE-2024-34359, CVE-2026-5760) and what has no end. It
is the first of three walls: the second is Jinja's immutable sandbox in a process that may be killed
(`adapters.rendering`), the third the engine's own sandbox.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daulat.registry import documents
from daulat.registry.gguf import BadModel, Header

TEMPLATE_FILE: Final = "chat_template.jinja"
MOST_CHARACTERS: Final = 256 * 1024
MOST_NODES: Final = 30_000
MOST_TEMPLATES: Final = 32
DEEPEST_LOOP: Final = 6
_DEEPEST: Final = 120
_LARGEST_NUMBER: Final = 10_000_000
_LARGEST_RANGE: Final = 100_000  # as Jinja's own sandbox
_GGUF_KEY: Final = "tokenizer.chat_template"
_LONGEST_NAME: Final = 128
_DUNDER: Final = re.compile(r"__[A-Za-z]|[A-Za-z]__")
_ATTRIBUTES: Final = re.compile(
    r"(mro|func_(globals|code)|(gi|cr|ag|tb)_(frame|code|next)|f_(globals|locals|builtins|back|code))\Z"
)
_NAMES: Final = frozenset({"self", "lipsum", "cycler", "joiner"})
_FILTERS: Final = frozenset({"attr", "xmlattr", "pprint", "urlize", "random"})
_STATEMENTS: Final = frozenset(
    {"Import", "FromImport", "Include", "Extends", "Block", "OverlayScope", "EvalContextModifier"}
)
_GENERATION: Final = re.compile(r"\{%(-|\+)?\s*(end)?generation\s*(-|\+)?%\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template: code that runs in the engine, so its digest stands in the log."""

    name: str
    sha256: str
    text: str


def of_gguf(header: Header) -> tuple[Template, ...]:
    """`tokenizer.chat_template` and the named ones beside it."""
    found = {}
    for key in header.metadata:
        if (text := header.text(key)) and (key == _GGUF_KEY or key.startswith(f"{_GGUF_KEY}.")):
            found[key.removeprefix(_GGUF_KEY).removeprefix(".") or "default"] = text
    return _sealed(found)


def of_files(files: Mapping[str, bytes]) -> tuple[Template, ...]:
    """Those of a safetensors folder. `files`: the small ones, by path.

    `chat_template.jinja` goes before what `tokenizer_config.json` says, as in Transformers; where both are there and
    differ, both are admitted under names of their own.

    Raises:
        BadModel: a file that should hold one does not.
    """
    found: dict[str, str] = {}
    for path, data in files.items():
        folder, _, name = path.rpartition("/")
        if path == TEMPLATE_FILE:
            found["default"] = _decoded(data, path)
        elif folder == "additional_chat_templates" and name.endswith(".jinja"):
            found[name.removesuffix(".jinja")] = _decoded(data, path)
    for path in ("chat_template.json", "tokenizer_config.json"):
        if path not in files:
            continue
        for name, text in _in_settings(documents.table(files[path], path).get("chat_template"), path):
            if found.setdefault(name, text) != text:
                found[f"{path}:{name}"] = text
    return _sealed(found)


def check(template: Template) -> None:
    """Refuse a template that no model needs.

    Raises:
        BadModel: says what in it is refused, and in which line.
    """
    from jinja2 import Environment, TemplateError  # noqa: PLC0415  only imports of models need it

    where = f"chat template {template.name!r}"
    if len(template.text) > MOST_CHARACTERS:
        raise BadModel(f"has {len(template.text)} characters; at most {MOST_CHARACTERS} are taken", location=where)
    environment = Environment(autoescape=False, extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"])  # noqa: S701  parsed only
    try:
        tree = environment.parse(plain(template.text))
    except (TemplateError, RecursionError, ValueError, OverflowError) as error:
        raise BadModel(f"is no Jinja: {error}", location=where) from None
    for seen, (node, depth, loops) in enumerate(_walk(tree)):
        if seen > MOST_NODES or depth > _DEEPEST or loops > DEEPEST_LOOP:
            raise BadModel("is larger, deeper or more often looped than any model needs", location=where)
        if reason := _refused(node, environment.filters):
            raise BadModel(
                f"line {node.lineno}: {reason}. Take the template out or ask the model's maker for another",
                location=where,
            )


def plain(text: str) -> str:
    """Without Transformers' `generation` marks, which print nothing and which Jinja itself does not know."""
    return _GENERATION.sub(lambda found: f"{{%{found[1] or ''} if true {found[3] or ''}%}}{{% endif %}}", text)


def _walk(tree: Any) -> Iterator[tuple[Any, int, int]]:
    """Every node, with how deep it stands and in how many loops."""
    waiting = [(tree, 0, 0)]
    while waiting:
        node, depth, loops = waiting.pop()
        yield node, depth, loops
        inside = loops + (type(node).__name__ == "For")
        waiting += [(child, depth + 1, inside) for child in node.iter_child_nodes()]


def _refused(node: Any, filters: Mapping[str, Any]) -> str:
    """Why this node is refused, or ""."""
    kind = type(node).__name__
    if kind in _STATEMENTS:
        return f"{kind.lower()} brings in other templates"
    if kind == "Filter" and (node.name in _FILTERS or node.name not in filters):
        return f"the filter {node.name!r} is not among those a chat template may use"
    look = _LOOKS.get(kind)
    return "" if look is None else look(node)


def _name(node: Any) -> str:
    outside = node.name in _NAMES or node.name.startswith("_")
    return f"the name {node.name!r} leads out of the template" if outside else ""


def _item(node: Any) -> str:
    key = getattr(node.arg, "value", None)
    return _attribute(key) if isinstance(key, str) else ""


def _keyword(node: Any) -> str:
    """`map(attribute="a.b")` reads attributes too."""
    path = getattr(node.value, "value", None) if node.key == "attribute" else None
    return next(filter(None, map(_attribute, str(path).split("."))), "")


def _range(node: Any) -> str:
    if getattr(node.node, "name", "") != "range":
        return ""
    numbers = [getattr(argument, "value", 0) for argument in node.args]
    too_long = any(isinstance(number, int) and abs(number) > _LARGEST_RANGE for number in numbers)
    return f"a range of over {_LARGEST_RANGE}" if too_long else ""


def _attribute(name: str) -> str:
    if name.startswith("_") or _DUNDER.search(name) or _ATTRIBUTES.match(name):
        return f"the attribute {name[:64]!r} leads into Python itself"
    return ""


def _constant(value: Any) -> str:
    if isinstance(value, str) and _DUNDER.search(value):
        return f"the text {value[:64]!r} spells a name of Python's inside"
    if isinstance(value, (int, float)) and abs(value) > _LARGEST_NUMBER:
        return "a number this large can only repeat something without end"
    return ""


_LOOKS: Final[Mapping[str, Callable[[Any], str]]] = {
    "Name": _name,
    "Getattr": lambda node: _attribute(node.attr),
    "NSRef": lambda node: _attribute(node.attr),
    "Getitem": _item,
    "Keyword": _keyword,
    "Call": _range,
    "Const": lambda node: _constant(node.value),
    "Pow": lambda _: "powers can fill any memory",
}


def _decoded(data: bytes, path: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadModel("is not UTF-8", location=path) from None


def _in_settings(value: Any, path: str) -> list[tuple[str, str]]:
    """`chat_template` is one text, or a list of {"name", "template"}."""
    if value is None:
        return []
    if isinstance(value, str):
        return [("default", value)]
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return list(value.items())
    named = isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("name"), str) and isinstance(item.get("template"), str)
        for item in value
    )
    if not named:
        raise BadModel("chat_template is neither a text nor a list of {name, template}", location=path)
    return [(item["name"], item["template"]) for item in value]


def _sealed(found: Mapping[str, str]) -> tuple[Template, ...]:
    if len(found) > MOST_TEMPLATES:
        raise BadModel(f"{len(found)} chat templates; at most {MOST_TEMPLATES} are taken")
    return tuple(
        Template(name[:_LONGEST_NAME], hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest(), text)
        for name, text in sorted(found.items())
    )

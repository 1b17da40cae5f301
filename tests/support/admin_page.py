"""Writes `docs/admin-reference.md` out of the admin API's own description. A test holds that it stands there so.

python -m tests.support.admin_page
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from daulat.gateway.admin import openapi
from daulat.gateway.admin.table import DOCUMENT, OPERATIONS

PAGE: Final = Path(__file__).parents[2] / "docs" / "admin-reference.md"
_HEAD: Final = f"""# Admin API: reference

Made of the code by `python -m tests.support.admin_page`; a test holds that it is what the code says. A running service
publishes the same as OpenAPI 3.1, at `{DOCUMENT}`. What it is for, and how to ask, is in [the guide](admin-api.md).

## Addresses

| method | address | what | roles | body | answer |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The page's text."""
    described = openapi.document()
    lines = [_row(operation, described) for operation in OPERATIONS]
    types = [_type(name, said) for name, said in described["components"]["schemas"].items() if not _is_page(name)]
    return _HEAD + "\n".join(lines) + "\n\n## Types\n\n" + "\n".join(types)


def _row(operation: Any, described: dict[str, Any]) -> str:
    said = described["paths"][operation.path][operation.method.lower()]
    queries = [f"`{one['name']}`" for one in said["parameters"] if one["in"] == "query"]
    what = operation.says + (f" Query: {', '.join(queries)}." if queries else "")
    answer = said["responses"][str(operation.status)]["content"]["application/json"]["schema"]
    body = said.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    cells = (operation.method, f"`{operation.path}`", what, ", ".join(sorted(operation.roles)))
    return f"| {' | '.join((*cells, _named(body) if body else '', f'{operation.status} {_named(answer)}'))} |"


def _type(name: str, said: dict[str, Any]) -> str:
    required = set(said.get("required", ()))
    rows = [
        f"| `{field}` | {_words(schema)} | {'yes' if field in required else _default(schema)} |"
        for field, schema in said.get("properties", {}).items()
    ]
    table = "\n".join(["| field | type | needed |", "|---|---|---|", *rows])
    return f"### {name}\n\n{said.get('description', '')}\n\n{table}\n"


def _is_page(name: str) -> bool:
    return name.startswith("Page_")


def _named(schema: dict[str, Any]) -> str:
    name = str(schema["$ref"]).rpartition("/")[2]
    return f"list of {name.removeprefix('Page_').removesuffix('_')}" if _is_page(name) else name


def _default(schema: dict[str, Any]) -> str:
    return f"else `{schema['default']!r}`" if "default" in schema else "no"


def _words(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_words(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    words = str(schema.get("type", "anything"))
    if words == "array":
        words = f"list of {_words(schema.get('items', {}))}"
    bounds = {"minimum": "from", "maximum": "to", "minLength": "at least", "maxLength": "at most", "pattern": "like"}
    said = [f"{word} `{schema[name]}`" for name, word in bounds.items() if name in schema]
    return " ".join([words, *said]) + (f". {schema['description']}" if "description" in schema else "")


if __name__ == "__main__":
    PAGE.write_text(page())

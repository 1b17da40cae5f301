"""What is written must be true, and what exists must be written."""

from __future__ import annotations

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from daulat.cli import VERBS, cli
from daulat.core.entries import ADMISSION_FIELDS, COMPLETION_FIELDS, SHAPES
from daulat.settings import Settings

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]


def text(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Settings)])
def test_every_setting_is_documented_with_its_default(field: str) -> None:
    default = getattr(Settings(), field)
    rows = [line for line in text("docs/operator.md").splitlines() if line.startswith(f"| `{field}` |")]
    assert len(rows) == 1, f"docs/operator.md needs one table row for setting {field}"
    assert f"`{default}`" in rows[0] or (default == "" and "empty" in rows[0])


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


@pytest.mark.parametrize("path", [path for path, _ in commands(cli)])
def test_every_verb_has_help_an_example_and_a_place_in_the_reference(path: str) -> None:
    command = dict(commands(cli))[path]
    assert command.help, f"daulat {path} has no help"
    if not isinstance(command, click.Group):
        assert f"daulat {path}" in command.help, f"the help of `daulat {path}` shows no example"
        assert any("--json" in parameter.opts for parameter in command.params), f"daulat {path} has no --json"
    assert f"`daulat {path}" in text("docs/operator.md"), f"docs/operator.md does not name `daulat {path}`"


def test_verbs_table_matches_the_commands() -> None:
    assert set(VERBS) == {path for path, _ in commands(cli) if " " not in path}


@pytest.mark.parametrize("type_", sorted(SHAPES))
def test_every_entry_type_and_field_is_in_the_auditors_guide(type_: str) -> None:
    guide = text("docs/auditor.md")
    assert f"`{type_}`" in guide
    for field in SHAPES[type_].fields:
        assert f"`{field}`" in guide, f"docs/auditor.md does not explain {type_}.{field}"


@pytest.mark.parametrize("field", [*ADMISSION_FIELDS, *COMPLETION_FIELDS])
def test_every_inference_field_is_in_the_auditors_guide(field: str) -> None:
    assert f"`{field}`" in text("docs/auditor.md")


def test_every_dependency_is_justified() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in (item for group in groups for item in group):
        name = re.split(r"[<>=\[ ]", requirement)[0]
        assert f"`{name}`" in text("docs/dependencies.md"), f"docs/dependencies.md does not justify {name}"


def test_every_room_has_its_line_in_the_architecture() -> None:
    rooms = {path.parent.name for path in (ROOT / "src/daulat").glob("*/__init__.py")}
    for room in rooms:
        assert f"| `{room}/` |" in text("ARCHITECTURE.md"), f"ARCHITECTURE.md has no line for {room}/"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_files_and_functions_stay_small_and_public_things_have_docstrings(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= 500, "over 500 lines: re-cut it"
    tree = ast.parse(source)
    if source.strip() and path.name != "__init__.py":
        assert ast.get_docstring(tree), "the module says nothing about itself"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, f"{node.name} has over 60 lines"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bases = {getattr(base, "id", getattr(base, "attr", "")) for base in node.bases}
            is_error = any(name.endswith(("Error", "Exception")) or name == "DaulatError" for name in bases)
            assert (
                ast.get_docstring(node)
                or is_error
                or path.name == "snapshot.py"
                or node.name.endswith("Error")
                or len(node.body) <= 3
            )

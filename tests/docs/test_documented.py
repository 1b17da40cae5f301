"""What is written must be true, and what exists must be written."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
import pytest

from daulat.catalog import charters
from daulat.catalog.starter import STARTER as STARTER_MODEL
from daulat.cli import VERBS, cli
from daulat.core import charter as charter_core
from daulat.core.entries import ADMISSION_FIELDS, COMPLETION_FIELDS, SHAPES
from daulat.gateway import errors as gateway_errors
from daulat.gateway import metrics
from daulat.policy import bundle, cases
from daulat.policy.cedar import CedarDecider
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


def starter_keys(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from starter_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


STARTER = dict(starter_keys(tomllib.loads(charters.starter("x"))))


@pytest.mark.parametrize("key", STARTER)
def test_every_charter_key_is_documented_with_its_starter_value(key: str) -> None:
    rows = [line for line in text("docs/operator.md").splitlines() if line.startswith(f"| `{key}` |")]
    assert len(rows) == 1, f"docs/operator.md needs one table row for the charter's {key}"
    if key not in {"models.licences", "log.name"}:
        assert f"| `{json.dumps(STARTER[key])}` |" in rows[0]


def test_every_line_of_the_starter_charter_has_its_comment() -> None:
    for line in charters.starter().splitlines():
        assert not line or "#" in line, line
    assert "profile = " in charters.starter()
    assert STARTER["profile"] == "evaluation"
    assert STARTER["approvals"] == 0


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


def commands_in(page: Path) -> Iterator[list[str]]:
    """The words of every `daulat` command in a page's blocks of code, without `$` and any pipe behind it."""
    lines = page.read_text().replace("\\\n", " ").splitlines()
    for line in lines:
        found = re.match(r"(?:    (?:\$ )?|\$ )(?:\.venv/bin/)?daulat (.*)", line)
        if found:
            yield shlex.split(found[1].partition(" | ")[0], comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_docs_exist_with_their_options(page: Path) -> None:
    for line in commands_in(page):
        words, command = line, cast("click.Command", cli)
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            inner = command.get_command(click.Context(command), words[0])
            assert inner is not None, f"{page.name}: there is no `daulat {words[0]}`"
            command, words = inner, words[1:]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in words:
            if word.startswith("-"):
                assert word.partition("=")[0] in {*known, "--help"}, f"{page.name}: `{command.name}` has no {word}"


def test_commands_are_found_in_the_docs() -> None:
    found = {name: len(list(commands_in(ROOT / name))) for name in ("README.md", "docs/operator.md", "docs/auditor.md")}
    assert all(found.values()), found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_in_the_docs_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    for target in re.findall(r"`make ([a-z-]+)", page.read_text()) + re.findall(
        r"^make ([a-z-]+)", page.read_text(), re.MULTILINE
    ):
        assert target in targets, f"{page.name}: there is no `make {target}`"


def test_every_make_target_helps() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", text("Makefile"), re.MULTILINE)
    assert phony is not None
    helped = set(re.findall(r"^([a-z-]+):.*## \S", text("Makefile"), re.MULTILINE))
    assert set(phony[1].split()) - {"help"} <= helped
    assert {"up", "test"} <= helped


def test_every_status_of_the_wire_is_in_the_developers_guide() -> None:
    statuses = {status for status, _ in gateway_errors.STATUS.values()} | set(gateway_errors._BY_CODE.values()) | {500}
    documented = {int(found) for found in re.findall(r"^\| (\d{3}) \|", text("docs/developer.md"), re.MULTILINE)}
    assert documented == statuses


@pytest.mark.parametrize("name", metrics.HELP)
def test_every_metric_is_in_the_operators_guide(name: str) -> None:
    assert f"| `{name}` |" in text("docs/operator.md")


def test_every_rule_the_pages_name_exists_and_the_shipped_files_are_named() -> None:
    rules = CedarDecider(bundle.load().rules, bundle.load().schema).reasons
    page = text("docs/policy.md")
    for name in bundle.load().files:
        assert f"`{name}`" in page
    for named in re.findall(r"`((?:use|place|models)\.[a-z_.]+)`", page):
        assert named in rules or named.endswith(".cedar"), named
    assert set(gateway_rules()) == set(re.findall(r"`(gateway\.[a-z_]+)`", page))


def gateway_rules() -> Iterator[str]:
    """The refusals that the gateway's own code names."""
    for path in SOURCES:
        if "/pipeline/" in str(path) or "/gateway/" in str(path):
            yield from re.findall(r'"(gateway\.[a-z_]+)"', path.read_text())


def test_own_rules_and_cases_in_the_page_on_rules_hold() -> None:
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text("docs/policy.md"), re.MULTILINE)
    (rule,) = [block for block in blocks if "@id(" in block]
    (case,) = [block for block in blocks if "[[case]]" in block]
    shipped = bundle.load()
    decider = CedarDecider(shipped.rules + textwrap.dedent(rule), shipped.schema)
    starter = charter_core.parse(charters.starter())
    outcomes = cases.run(cases.parse(textwrap.dedent(case), starter, location="policy.md"), decider)
    assert [item.wrong for item in outcomes] == [""]


def test_decisions_are_numbered_without_gaps_and_name_themselves() -> None:
    pages = sorted((ROOT / "docs/adr").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for number, page in enumerate(pages, 1):
        body = page.read_text()
        assert body.startswith(f"# {number}. ")
        for part in ("**Context.**", "**Decision.**", "**Consequences.**"):
            assert part in body, f"{page.name} has no {part}"


def test_changelog_fragments_say_what_kind_of_change_they_are() -> None:
    fragments = [path for path in (ROOT / "changelog.d").iterdir() if path.name != "README.md"]
    assert fragments
    for path in fragments:
        assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.(added|changed|fixed|removed|security)\.md", path.name)
        assert path.read_text().strip().endswith(".")


def test_the_readme_has_the_two_commands_the_peers_and_what_is_not_proven() -> None:
    readme = text("README.md")
    assert re.search(r"^make up\b.*\nmake test\b", readme, re.MULTILINE)
    for peer in ("GPUStack", "LiteLLM", "production-stack", "llm-d", "Bifrost", "Apple PCC"):
        assert peer in readme
    assert "## What is not proven" in readme
    assert "often wrong" in readme
    assert STARTER_MODEL.name in readme
    assert not re.search(r"sk-[A-Za-z0-9_-]{40,}|at-[A-Za-z0-9_-]{40,}", readme), "no whole secret, not even a dead one"


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


def test_the_architecture_lists_the_rooms_in_the_order_that_the_import_contract_holds() -> None:
    contract = tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]
    assert contract["exhaustive"] is True
    rooms = [room for layer in contract["layers"] for room in layer.split(" | ") if room != "__main__"]
    table = re.findall(r"^\| `([a-z]+)(?:/|\.py)` \|", text("ARCHITECTURE.md"), re.MULTILINE)
    assert table == rooms


def test_the_architecture_links_every_decision_by_its_title() -> None:
    page = text("ARCHITECTURE.md")
    for decision in sorted((ROOT / "docs/adr").glob("*.md")):
        number, _, title = decision.read_text().splitlines()[0].removeprefix("# ").partition(". ")
        assert f"{number}. [{title}](docs/adr/{decision.name})" in page


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


def test_every_method_that_changes_something_says_who_may_call_it() -> None:
    """`docs/operators.md` has a row for each handler of the control process that changes something."""
    sources = "".join(path.read_text() for path in (ROOT / "src/daulat/processes").glob("*.py"))
    methods = set(re.findall(r'"([a-z_.]+)": (?:self\._)?changes\(', sources)) | {"deploy"}
    assert {"person.add", "consent.propose", "glass.break"} <= methods
    table = text("docs/operators.md").partition("## Who may do what")[2].partition("\n## ")[0]
    rows = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    for method in methods:
        assert f"`{method}`" in rows, f"docs/operators.md does not say who may call {method}"

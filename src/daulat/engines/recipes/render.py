"""Recipes as text that an operator reviews and pastes: shell commands, `docker run` lines, JSON. Pure.

Every word goes through `shlex.quote`, so that a shell gives the engine exactly the recipe's arguments, whatever
characters stand in a model's name or path.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, Final

from daulat.engines.recipes import sources
from daulat.engines.recipes.recipe import Container, File, Process, Recipe
from daulat.errors import ConfigError

FORMATS: Final = ("shell", "container", "json")
FORMAT: Final = "recipe/v1"
_END: Final = "END_OF_FILE"  # a line of its own that no JSON has


def shell(recipe: Recipe) -> str:
    """Files, then each process: its environment and one flag a line."""
    blocks = [_head(recipe), *(_file(file) for file in recipe.files)]
    for process in recipe.processes:
        environment = [f"{key}={value}" for key, value in process.environment.items()]
        words = (
            [["env"], *([word] for word in environment), *_lines(process.argv)] if environment else _lines(process.argv)
        )
        blocks.append(f"{_title(process)}\n{_joined(words)}")
    return "\n\n".join(blocks) + "\n"


def container(recipe: Recipe) -> str:
    """`docker run` for each process, with exactly the devices and files it needs.

    Raises:
        ConfigError: the recipe has no image, or a path that `docker run -v` cannot take.
    """
    image = recipe.container
    if image is None:
        raise ConfigError(f"{recipe.engine} is not run from an image here; take --format shell", location="--format")
    blocks = [_head(recipe), *(_file(file) for file in recipe.files)]
    blocks += [f"{_title(process)}\n{_joined(docker(recipe, image, process))}" for process in recipe.processes]
    return "\n\n".join(blocks) + "\n"


def docker(recipe: Recipe, image: Container, process: Process) -> list[list[str]]:
    """The words of one `docker run`, as its lines.

    Raises:
        ConfigError: a path that `docker run -v` cannot take.
    """
    lines = [["docker", "run", "--rm"], ["--name", process.name]]
    lines += [list(pair) for pair in _pairs(image.options)]
    if process.devices:
        lines += [["--device", device] for device in image.devices]
    for mount in image.mounts:
        if ":" in mount.host or ":" in mount.inside:
            raise ConfigError(f"docker run -v takes no path with a colon: {mount.host!r}; rename or link it")
        lines.append(["-v", f"{mount.host}:{mount.inside}{':ro' if mount.read_only else ''}"])
    for file in recipe.files:
        if file.node in (None, process.node):
            lines.append(["-v", f"{file.path}:{file.path}:ro"])
    lines += [["-e", f"{key}={value}"] for key, value in process.environment.items()]
    if image.entrypoint:
        lines.append(["--entrypoint", image.entrypoint])
    return [*lines, [image.image], *_lines(process.argv)]


def as_json(recipe: Recipe) -> dict[str, Any]:
    """All of it, as docs/recipe.schema.json has it."""
    return {"format": FORMAT, **_plain(recipe)}


def _head(recipe: Recipe) -> str:
    devices = "; ".join(
        f"{group.role}: nodes {','.join(map(str, group.nodes))}, DP{group.dp} TP{group.tp} EP{group.ep}"
        for group in recipe.groups
    )
    lines = [f"{recipe.engine}: {recipe.model} in {recipe.precision} on {recipe.hardware}, {recipe.goal}"]
    lines += [f"context {recipe.context} tokens; {devices}"]
    lines += [f"needs {name} {version}" for name, version in recipe.versions.items()]
    lines += [f"{note.text} [{note.source}]" for note in recipe.notes]
    first = {process.role: process for process in reversed(recipe.processes) if process.sources}
    for role, process in reversed(first.items()):
        told = sources.by_source(process.sources)
        lines += [f"{role}: {', '.join(names)} [{source}]" for source, names in told.items()]
    return "\n".join(f"# {' '.join(line.splitlines())}" for line in lines)


def _title(process: Process) -> str:
    devices = f", devices {process.devices[0]}-{process.devices[-1]}" if process.devices else ""
    return f"# node {process.node}: {process.name}{devices}"


def _file(file: File) -> str:
    where = "every node" if file.node is None else f"node {file.node}"
    path = shlex.quote(file.path)
    return f"# {where}: {path!s}\ninstall -D -m {file.mode} /dev/stdin {path} <<'{_END}'\n{file.text}\n{_END}"


def _lines(argv: Iterable[str]) -> list[list[str]]:
    """A command's words, each flag with what follows it."""
    lines: list[list[str]] = [[]]
    for word in argv:
        if word.startswith("-") and lines[-1]:
            lines.append([])
        lines[-1].append(word)
    return lines


def _pairs(words: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    return [tuple(line) for line in _lines(words)] if words else []


def _joined(lines: list[list[str]]) -> str:
    return " \\\n    ".join(shlex.join(line) for line in lines)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def text(recipe: Recipe, form: str) -> str:
    """In one of FORMATS.

    Raises:
        ConfigError: the recipe has no such form.
    """
    if form == "json":
        return json.dumps(as_json(recipe), ensure_ascii=False, indent=2) + "\n"
    return container(recipe) if form == "container" else shell(recipe)

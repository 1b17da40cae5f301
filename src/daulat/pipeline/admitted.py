"""The models that a log has admitted, held against the files that are here: the part of `daulat log fsck` on models.

An entry says of a model which bytes it has, which papers stand beside it and what the rules decided on; the store has
the bytes. That an entry agrees with itself and its papers lie beside the log is `ledger.fsck`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from daulat.core.manifest import PAPERS
from daulat.errors import DaulatError
from daulat.ledger.fsck import Problem
from daulat.registry.model import ModelFacts

_CLAIMS: Final = ("licence", "origin", "signed_by", "derived_from")  # of the record alone: no hash holds them

Progress = Callable[[str, int, int], None]


class Models(Protocol):
    """Port: the models of an installation, by digest."""

    def path(self, digest: str, /) -> Path: ...

    def facts(self, digest: str, /) -> ModelFacts: ...

    def check(self, digest: str, progress: Progress, /) -> None:
        """Hash every file. Raises DaulatError where one is not what the digest says."""

    def papers(self, digest: str, /) -> Mapping[str, bytes]:
        """Raises DaulatError where one was changed."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A `model.admitted/v1` entry: where it stands, and what it says."""

    log: str
    index: int
    entry: Mapping[str, Any]

    def __str__(self) -> str:
        return f"model {self.entry['model']!r} ({self.entry['digest'][:12]}, entry {self.index} of {self.log})"


def check(admissions: Iterable[Admission], models: Models, progress: Progress) -> Iterator[tuple[Admission, Problem]]:
    """What is wrong with the files of the models that these entries admitted, given in the order of the logs.

    Each model's files are hashed once, however often it was admitted; its last admission speaks for it.
    """
    last = {admission.entry["digest"]: admission for admission in admissions}
    in_force = {admission.entry["model"]: admission for admission in last.values()}
    for admission in last.values():
        for problem in _of_one(admission, models, progress, in_force=in_force[admission.entry["model"]] is admission):
            yield admission, problem


def _of_one(admission: Admission, models: Models, progress: Progress, *, in_force: bool) -> Iterator[Problem]:
    digest = admission.entry["digest"]
    if not models.path(digest).exists():
        what = "is not in the store: it cannot be served until it is imported again"
        yield Problem(f"{admission} {what}", serious=False)
        return
    try:
        models.check(digest, progress)
        models.papers(digest)
        facts = models.facts(digest)
    except DaulatError as error:
        yield Problem(f"{admission}: {error.message}", serious=True)
        return
    yield from _templates(admission, facts)
    if in_force:
        yield from _claims(admission, facts)


def _templates(admission: Admission, facts: ModelFacts) -> Iterator[Problem]:
    found = [{"name": template.name, "sha256": template.sha256} for template in facts.templates]
    if found != admission.entry["templates"]:
        names = ", ".join(template["name"] for template in found) or "none"
        yield Problem(f"{admission}: its chat templates ({names}) are not those that were admitted", serious=True)


def _claims(admission: Admission, facts: ModelFacts) -> Iterator[Problem]:
    """What only the record says, and papers made from it: a later import may have changed them."""
    now = facts.admission()
    for name in _CLAIMS:
        if now[name] != admission.entry[name]:
            yield Problem(
                f"{admission}: its record says {name} {_short(now[name])}, and the log {_short(admission.entry[name])};"
                " what the record says is not in force before the next start has admitted it",
                serious=False,
            )
    before, after = (_papers(files) for files in (admission.entry["files"], now["files"]))
    for path in sorted(set(before) | set(after)):
        if before.get(path) != after.get(path):
            what = "is another" if path in after else "is missing"
            yield Problem(f"{admission}: {path.removeprefix(PAPERS)} beside it {what} than was admitted", serious=False)


def _papers(files: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {file["path"]: file["sha256"] for file in files if file["path"].startswith(PAPERS)}


def _short(value: object) -> str:
    return repr(value)[:80]

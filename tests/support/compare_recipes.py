"""Print how our recipes compare with vLLM-Ascend's configurations: `python -m tests.support.compare_recipes PATH...`

PATH is a configuration's YAML file, or a folder of them. For each launch in it: *agrees*; *agrees in essentials*, where
only other settings differ; *differs*, with each setting and both values; *refused*, with our recipe's own reason; or
*unreadable*. A difference counts if neither docs/recipes.md gives its reason nor the configurations at hand contradict
each other about it. The exit code is 1 if anything differs in essentials, is refused or unreadable.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from tests.support import ascend_configs
from tests.support.ascend_configs import Case, Difference

from daulat.errors import DaulatError

# Beside layout and quantisation: what decides whether a launch starts, what it computes, and how fast by factors.
ESSENTIAL = {
    *("speculative-config.method", "speculative-config.num_speculative_tokens", "compilation-config.cudagraph_mode"),
    *("enforce-eager", "kv-transfer-config", "enable-prefix-caching", "max-model-len", "dtype", "load-format"),
    *("HCCL_OP_EXPANSION_MODE", "HCCL_BUFFSIZE", "PYTORCH_NPU_ALLOC_CONF", "TASK_QUEUE_ENABLE"),
    *("prefill-context-parallel-size", "mamba-ssm-cache-dtype"),
}
AGREES, ESSENTIALS, DIFFERS, REFUSED, UNREADABLE = "agrees", "agrees in essentials", "differs", "refused", "unreadable"


@dataclass(frozen=True)
class Verdict:
    """On one launch, or on a file that cannot be read. `why`: of a refusal."""

    name: str
    word: str
    differences: tuple[Difference, ...] = ()
    why: str = ""

    @property
    def lines(self) -> Iterator[str]:
        """As text: the verdict, then each difference."""
        yield f"{self.word}: {self.name}" + (f": {self.why}" if self.why else "")
        for each in self.differences:
            mark = "!" if is_essential(each) else " "
            yield f"  {mark} {each.role} {each.kind} {each.name}: theirs {each.theirs}, ours {each.ours}"


def is_essential(difference: Difference) -> bool:
    """Layout, quantisation, and the settings above."""
    return difference.kind in ("layout", "quantisation") or difference.name in ESSENTIAL


def verdict(case: Case, public: Iterable[Case]) -> Verdict:
    """On one launch beside our recipe for the same wish."""
    try:
        recipe = ascend_configs.ours(case)
    except DaulatError as error:
        return Verdict(case.name, REFUSED, why=str(error))
    left = tuple(ascend_configs.unexplained(case, ascend_configs.differences(case, recipe), public))
    word = AGREES if not left else DIFFERS if any(map(is_essential, left)) else ESSENTIALS
    return Verdict(case.name, word, left)


def compare(paths: Iterable[Path]) -> list[Verdict]:
    """On every launch of these files."""
    cases: list[Case] = []
    found: list[Verdict] = []
    for path in paths:
        try:
            cases += ascend_configs.read(path)
        except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
            found.append(Verdict(path.stem, UNREADABLE, why=f"{type(error).__name__} {error}"))
    known = [case for case in cases if ascend_configs.is_known(case)]
    return found + [verdict(case, known) for case in cases]


def files(paths: Iterable[Path]) -> list[Path]:
    """Folders become the configurations in them."""
    return [file for path in paths for file in (sorted(path.rglob("*.yaml")) if path.is_dir() else [path])]


def main(arguments: list[str]) -> int:
    """Print it all, then how many of each."""
    if not arguments:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    found = compare(files(map(Path, arguments)))
    for each in found:
        sys.stdout.write("\n".join(each.lines) + "\n")
    counts = Counter(each.word for each in found)
    sys.stdout.write(f"\n{len(found)}: {', '.join(f'{number} {word}' for word, number in counts.most_common())}\n")
    return int(any(each.word not in (AGREES, ESSENTIALS) for each in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`daulat accelerators`: what this machine has, and what saved outputs of another say."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from daulat.cli import emit
from daulat.cli.options import json_option
from daulat.core.accelerator import MIB, Accelerator
from daulat.errors import NotFound
from daulat.fleet.inventory import Inventory, together
from daulat.fleet.outputs import capture
from daulat.fleet.outputs.lines import MAX_CHARACTERS, Reading

_MARK: Final = {"ok": "ok", "warning": "WARN", "alarm": "ALARM", "critical": "CRIT", "unknown": "?"}


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def accelerators(context: click.Context, as_json: bool) -> None:
    """Show this machine's NPUs, GPUs and CPU: health, memory, links, who uses them.

    Exits with 1 when one of them should not be used, or a tool does not answer.

    \b
    Example:
        daulat accelerators
        daulat accelerators --json | jq '.accelerators[] | select(.vendor == "ascend") | .health.state'
    """
    if context.invoked_subcommand is not None:
        return
    from daulat.adapters.accelerators import discover

    found = discover()
    emit(as_facts(found), as_json=as_json, text=described(found))
    sys.exit(1 if found.problems or any(map(_broken, found.accelerators)) else 0)


def _broken(one: Accelerator) -> bool:
    return one.health.state in {"alarm", "critical"} or (one.health.state == "unknown" and bool(one.health.reasons))


@accelerators.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path, allow_dash=True))
@json_option
def explain(files: tuple[Path, ...], as_json: bool) -> None:
    """Read saved outputs of npu-smi, hccn_tool, nvidia-smi, rocm-smi or amd-smi from a machine that is not at hand.

    A file may hold one output or several, with or without the commands that made them. What is malformed is an error
    that quotes the line. `-` reads standard input.

    \b
    Example:
        daulat accelerators explain npu-smi-info.txt hccn.conf
        ssh node7 'npu-smi info; npu-smi info -t topo' | daulat accelerators explain - --json
    """
    readings = [(str(path), reading) for path in files for reading in capture.read_file(_text(path), str(path))]
    found = together(reading for _, reading in readings)
    outputs = [(name, reading) for name, reading in readings if reading.tool != capture.REMARK]
    facts = {"readings": [_source(name, reading) for name, reading in outputs], **as_facts(found)}
    lines = [f"{name}, line {reading.line}: {reading.tool} {reading.what}".rstrip() for name, reading in outputs]
    emit(facts, as_json=as_json, text="\n".join([*lines, "", described(found)]))


@accelerators.command("metrics")
@json_option
def metrics_(as_json: bool) -> None:
    """Print the metrics of this machine's NPUs and GPUs once, in Prometheus' text format.

    They have the names of npu-exporter and of DCGM exporter.
    A running service has them on its /metrics page; this is for machines without one (node_exporter's textfile folder).

    \b
    Example:
        daulat accelerators metrics > /var/lib/node_exporter/textfile/npu.prom
    """
    from daulat import __version__
    from daulat.adapters.accelerators import discover
    from daulat.fleet import gpu_metrics, npu_metrics
    from daulat.gateway import metrics

    found = discover()
    samples = {**npu_metrics.samples(found, __version__), **gpu_metrics.samples(found)}
    if not samples:
        raise NotFound("neither an NPU nor an NVIDIA GPU is found here: `daulat accelerators` shows what there is")
    known = {**npu_metrics.HELP, **gpu_metrics.HELP}
    emit(samples, as_json=as_json, text=metrics.render(samples, known).rstrip())


def _text(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.buffer.read(MAX_CHARACTERS + 1).decode(errors="replace")
    if not path.is_file():
        raise NotFound(f"{path} is no file")
    with path.open("rb") as file:
        return file.read(MAX_CHARACTERS + 1).decode(errors="replace")


def _source(name: str, reading: Reading) -> dict[str, Any]:
    return {"file": name, "line": reading.line, "tool": reading.tool, "what": reading.what}


def as_facts(found: Inventory) -> dict[str, Any]:
    """An inventory for scripts: every field, `null` for what is not known, memory in bytes."""
    return {
        "accelerators": [
            {
                "name": one.name,
                **asdict(one),
                "port": {
                    **asdict(one.port),
                    "optical": dict(one.port.optical),
                    "counters": dict(one.port.counters),
                },
            }
            for one in found.accelerators
        ],
        "topology": found.topology,
        "affinity": found.affinity,
        "problems": list(found.problems),
        "notes": list(found.notes),
    }


def described(found: Inventory) -> str:
    """An inventory for people: a line each, then what is wrong."""
    lines = [_line(one) for one in found.accelerators]
    for one in found.accelerators:
        lines += [f"{one.name}: {reason}" for reason in one.health.reasons]
        if one.health.codes:
            lines.append(f"{one.name}: error codes {', '.join(one.health.codes)}")
        lines += [
            f"{one.name}: used by process {user.pid}{f' ({user.name})' if user.name else ''}{_gib(user.memory)}"
            for user in one.processes
        ]
    kinds = Counter(kind for peers in found.topology.values() for kind in peers.values())
    if kinds:
        lines.append("links: " + ", ".join(f"{count // 2} {kind}" for kind, count in sorted(kinds.items())))
    lines += [f"problem: {words}" for words in found.problems]
    lines += [f"note: {words}" for words in found.notes]
    return "\n".join(lines) or "nothing was found"


def _gib(memory: int | None) -> str:
    return "" if memory is None else f", {memory / 2**30:.1f} GiB"


def _line(one: Accelerator) -> str:
    memory = (
        ""
        if one.memory_total is None
        else f"{'?' if one.memory_used is None else one.memory_used // MIB}/{one.memory_total // MIB} MiB"
    )
    values = [
        (one.name, 18),
        (one.product or "?", 24),
        (one.architecture or "", 8),
        (_MARK[one.health.state], 6),
        (memory, 20),
        ("" if one.utilisation.core is None else f"{one.utilisation.core:g}%", 5),
        ("" if one.temperature is None else f"{one.temperature:g} C", 6),
        ("" if one.power is None else f"{one.power:g} W", 8),
        (one.pci or "", 13),
        (_place(one), 0),
    ]
    return " ".join(f"{value:<{width}}" for value, width in values).rstrip()


def _place(one: Accelerator) -> str:
    if one.vendor == "cpu":
        return f"CPUs {one.cpu_affinity}, {', '.join(one.features)}".rstrip(", ")
    device = f"/dev/davinci{one.physical_id}" if one.vendor == "ascend" and one.physical_id is not None else ""
    port = one.port.state or ""
    return " ".join(filter(None, (device, one.port.address, port)))

"""A saved file of one output, or of several one after the other, with or without the command lines between them.

Which tool wrote what is known from the words themselves; a command line above adds what an output leaves out (which
device it is about). Lines under a command that is not ours are passed over; elsewhere a line that nobody knows is an
error.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from daulat.core.accelerator import Accelerator
from daulat.errors import InvalidRequest
from daulat.fleet.outputs import amd, amd_table, fields, hccn, npu_smi, nvidia, nvidia_tables, topology
from daulat.fleet.outputs.lines import Context, Line, Reading, malformed, split
from daulat.fleet.outputs.repeated import newest

_TOOLS: Final = "npu-smi|hccn_tool|nvidia-smi|rocm-smi|amd-smi"
_OTHERS: Final = (
    "ls|cat|lspci|pip|pip3|uname|date|echo|grep|lscpu|free|df|dmesg|hostname|numactl|docker|source|export|cd"
)
_PROMPT: Final = (
    r"(?:\([^)\s]{1,40}\)\s?)?(?:#{1,6} |={2,}>? ?|\[[^\]]{1,80}\]\s?[#$>]? ?"
    r"|\S{0,80}[#$>%\u276f] ?|\S{1,80}\s\S{1,80}[#$] |\+ )?"
)
_WRAPPER: Final = (
    r"(?:(?:sudo|time|stdbuf \S+|timeout \S+|watch(?: -\S+(?: [\d.]+)?){0,4}"
    r"|(?:docker|podman|nerdctl) exec(?: -\S+){0,4} \S+|kubectl exec(?: \S+){1,8} --|ssh \S+"
    r"|for \w+ in [^;]{1,200}; ?do) ['\"]?){0,3}"
)
_COMMAND: Final = re.compile(
    rf"^\s*{_PROMPT}\s*{_WRAPPER}(?:/(?:[\w.+-]+/)*)?(?:(?P<tool>{_TOOLS})(?:\.exe)?|(?P<other>{_OTHERS}))"
    r"(?=\s|$)(?P<arguments>(?:\s[^|]*)?)(?:\|.*)?$"
)
_LOOP: Final = re.compile(
    r"\bfor \w+ in (?:\{(\d{1,3})\.\.(\d{1,3})\}|[$`(]{1,2}seq (\d{1,3}) (\d{1,3})[)`]|((?:\d{1,3} ?)+));"
)
_PASSED_OVER: Final = re.compile(
    r"\s(?:set|clear|upgrade|proc|-h|--help|-v|tls-csr-get)(?=\s|$)"
)  # they tell nothing of what is kept
_OPTION: Final = re.compile(r"(?:^|\s)-(t|i|c|p)\s+([A-Za-z0-9_-]+)")
_FLAG: Final = re.compile(r"(?:^|\s)-([a-z][a-z_0-9]+)(?=\s|$)")
_PROBLEM: Final = re.compile(
    r"dcmi (?:module|moudle)? ?init\w* failed|DrvMng\w+ failed|ret is -?\d+|command not found|No such file or directory"
    r"|Permission denied|couldn't communicate with the NVIDIA driver|Failed to initialize NVML|No devices were found"
    r"|Unable to determine the device handle|Invalid (?:card|chip|device)? ?id|Error parameter|^Usage:|does not support"
    r"|Device or resource busy|Cmd executed failed|GPU is lost|fell off the bus|failed to open"
    r"|Make sure that the latest|driver/library version mismatch|NVML library version"
    r"|Failed to get|cannot open shared object",
    re.IGNORECASE,
)
_SKIPPED: Final = re.compile(
    r"(?:<.*(?:truncated|cut|snip|omitted).*>|\.{3,}|-{3,}|(?!=*NVSMI)={3,}(?: ?[\w ]{1,60} ?={3,})?"
    r"|`{3}\w*|\(.*(?:truncated|cut|omitted).*\)"
    r"|\[[^\]]{1,80}\] ?[#$]|[\w.@:~/-]{1,80}[#$]|#+)",
    re.IGNORECASE,
)
_PROMPTED: Final = re.compile(  # and a command that is not known
    r"(?:\[[^\]]{1,80}\] ?|[\w.-]{1,40}@[\w.:~/-]{1,80} ?)[#$](?: .{0,300})?|[#$]"
)
_LEGEND: Final = re.compile(
    r"\s*(?:Legend:?|NIC Legend:?|(?:X|SYS|NODE|PHB|PIX|PXB|HCCS|HCCS_SW|SIO|UB|XLink|XLink_SW|NA|NV#|NIC\d+)\s*[:=].*)"
)
_DATETIME: Final = re.compile(
    r"(?:Datetime:|Every \d|\w{3} \w{3}\s+\d{1,2} [\d:]{8} \w* ?\d{4}$|\w{3} \w{3}\s+\d{1,2} [\d:]{8} \d{4}$)"
)
_FIELD: Final = re.compile(r"[^:|]{1,60}:(?!//)")
_NAMES: Final = re.compile(  # only npu-smi's fields begin so: `Product Name` may be dmidecode's, `Model` lscpu's
    r"(?:NPU|Chip|DDR|HBM|Ai ?(?:core|cpu|vector|cube)|Ctrlcpu|Health Status|Error Code|Fault Event|Total Count|HCCS"
    r"|Process id(?=\s*:\s*\d+\s+Process name)|VDie ID|NDie ID|DDie ID)\b",
    re.IGNORECASE,
)
_TALKS_OF_NPUS: Final = frozenset(  # under these, such a line is npu-smi's; other commands may print one themselves
    {
        "",
        "hccn_tool",
        "nvidia-smi",
        "rocm-smi",
        "amd-smi",
        "echo",
        "date",
        "uname",
        "hostname",
        "cat",
        "export",
        "cd",
        "ls",
    }
)
_VERSION: Final = re.compile(r"Version=(\S{1,60})")

_CELL: Final = re.compile(r"\d\s*/\s*\d|(?:^|\|)\s*(?:OK|Warning|Alarm|Critical|UNKNOWN)\s*(?:\||$)")  # of a chip's row
_LONGEST: Final = 400  # characters: no prompt with its command, and no remark, is longer

_PASSED: Final = "passed over"  # the tool of a command of ours whose output tells nothing of what is kept
_OURS: Final = frozenset({_PASSED, *_TOOLS.split("|")})
REMARK: Final = "remark"  # the tool of a reading that is none
_UNMISTAKABLE: Final = 3  # of the kinds below: these are read whatever command stands above
_MOST_REMARKS: Final = 5
_MOST_OUTPUTS: Final = 10_000

Reader = Callable[[list[Line], Context], Reading]


def read(text: str) -> list[Reading]:
    """All outputs in a text. Remarks between them are passed over, and said; a row of a table is no remark.

    Raises:
        InvalidRequest: a line is malformed, quoted with its number; or nothing in the text is known.
    """
    lines = split(text)
    found: list[Reading] = []
    parts = list(_sections(lines))
    for context, section in parts:
        for reading in _read_section(context, section):
            found.append(reading)
            if len(found) > _MOST_OUTPUTS:
                raise malformed(section[0], f"more than {_MOST_OUTPUTS} outputs and remarks follow")
    known = any(reading.tool != REMARK for reading in found) or any(context.tool in _OURS for context, _ in parts)
    if not known:
        first = next((line for line in lines if line.text.strip()), Line(1, ""))
        raise malformed(first, "this is no output of npu-smi, hccn_tool, nvidia-smi, rocm-smi or amd-smi")
    remarks = [reading for reading in found if reading.tool == REMARK]
    passed = {id(reading) for reading in remarks[_MOST_REMARKS:]}
    return newest([reading for reading in found if id(reading) not in passed])


def _sections(lines: list[Line]) -> Iterator[tuple[Context, list[Line]]]:
    context, section = Context(), list[Line]()
    for line in lines:
        command = _COMMAND.match(line.text) if len(line.text) <= _LONGEST or "--query-" in line.text else None
        if command is None and not (_prompted(line.text) and len(line.text.strip()) > 1):
            section.append(line)
            continue
        yield context, section
        context, section = Context() if command is None else _context(command), []
    yield context, section


def _context(command: re.Match[str]) -> Context:
    arguments = (command["arguments"] or "").strip()
    options = dict(_OPTION.findall(arguments))
    number = {name: int(value) for name, value in options.items() if value.isdecimal() and len(value) <= 9}  # noqa: PLR2004
    flags = [flag for flag in _FLAG.findall(arguments) if flag != "inet6"]
    if command["other"] is not None or _is_passed_over(command["tool"], f" {arguments}"):
        return Context(command["other"] or _PASSED, arguments=arguments)
    if command["tool"] == "hccn_tool":
        what = f"-{flags[0]}" if flags else ""
        return Context("hccn_tool", what, device=number.get("i"), arguments=arguments, loop=_looped(command[0]))
    what = f"-t {options['t']}" if "t" in options else ""
    return Context(command["tool"], what, number.get("i"), number.get("c"), arguments=arguments)


def _is_passed_over(tool: str, arguments: str) -> bool:
    """Help, settings, versions, certificates and registers say nothing of what is kept of a device."""
    if tool == "npu-smi":
        return _PASSED_OVER.search(arguments) is not None
    if tool == "hccn_tool":
        return (
            re.search(r"\s(?:-h|-s|-tls|-dump|-ub_ping|-context|-show_list|-show_res)(?=\s|$)", arguments) is not None
        )
    if tool == "nvidia-smi":
        return (
            re.search(r"\s(?:-h|--help|--version|pmon|--query-(?:retired|accounted|remapped|supported))", arguments)
            is not None
        )
    return False


def _looped(text: str) -> tuple[int, ...]:
    """The numbers of `for i in {0..7}; do`, of `$(seq 0 7)` and of a list."""
    match = _LOOP.search(text)
    if match is None:
        return ()
    if match[5] is not None:
        return tuple(int(number) for number in match[5].split())
    first, last = (match[1], match[2]) if match[1] is not None else (match[3], match[4])
    return tuple(range(int(first), int(last) + 1))


def _read_section(context: Context, lines: list[Line]) -> Iterator[Reading]:
    """The outputs between two command lines. Those of commands that are not ours may hold what is: device files."""
    foreign = context.tool in _OTHERS.split("|") or context.tool == _PASSED
    if foreign and (reading := _version_file(context, lines)) is not None:
        yield reading
    at = 0
    while at < len(lines):
        text = lines[at].text
        if not text.strip() or _ignored(text):
            at += 1
            continue
        kinds = _KINDS[:_UNMISTAKABLE] if context.tool == _PASSED else _KINDS
        kind = next((kind for kind in kinds if kind[0](text, context)), None)
        if kind is None:
            if not foreign:
                yield _remark(lines[at])
            at += 1
            continue
        _, ends, reader = kind
        end = _end(lines, at, ends, context)
        yield reader(lines[at:end], context)
        at = end


def _remark(line: Line) -> Reading:
    """A line of no output that is known. Part of a table it must not be: half a table would tell half the truth."""
    bare = line.text.strip()
    if bare.startswith("|") or bare.endswith("|") or ("|" in bare and _CELL.search(bare) is not None):
        raise malformed(line, "this is in no output that is known")
    words = line.text.strip()[:80]
    return Reading(REMARK, "", line.number, problems=(f"line {line.number} is in no output that is known: {words!r}",))


def _ignored(text: str) -> bool:
    bare = text.strip()
    if len(bare) > _LONGEST:
        return False
    return (
        any(pattern.fullmatch(bare) for pattern in (_SKIPPED, _PROMPTED, _LEGEND)) or _DATETIME.match(bare) is not None
    )


def _problem(lines: list[Line], context: Context) -> Reading:
    words = tuple(dict.fromkeys(line.text.strip() for line in lines if line.text.strip()))
    return Reading(context.tool, context.what, lines[0].number, problems=words[:20])


def _version_file(context: Context, lines: list[Line]) -> Reading | None:
    """`cat .../driver/version.info`, `.../firmware/version.info`: what every NPU of the machine has."""
    kind = next((kind for kind in ("driver", "firmware") if f"/{kind}/version.info" in context.arguments), None)
    match = next((found for line in lines if (found := _VERSION.fullmatch(line.text.strip()))), None)
    if context.tool != "cat" or kind is None or match is None:
        return None
    part = Accelerator("ascend", driver=match[1]) if kind == "driver" else Accelerator("ascend", firmware=match[1])
    return Reading("version.info", kind, lines[0].number, (part,))


def _table(text: str) -> bool:
    return text.strip().startswith(("+--", "+==", "|"))


def _named(text: str, context: Context) -> bool:
    bare = text.strip()
    known = context.tool == "npu-smi" or (context.tool in _TALKS_OF_NPUS and _NAMES.match(bare) is not None)
    return known and _FIELD.match(bare) is not None


def _of_hccn(text: str, context: Context) -> bool:
    bare = text.strip()
    named = context.tool == "hccn_tool" and _FIELD.match(bare) is not None and _NAMES.match(bare) is None
    return hccn.is_hccn(text) or named


def _read_fields(lines: list[Line], context: Context) -> Reading:
    return fields.read_fields(lines, context if context.tool == "npu-smi" else Context())


def _reader_of_table(lines: list[Line], context: Context) -> Reading:
    if any(nvidia_tables.is_table(line.text) for line in lines[:4]):
        return nvidia_tables.read_table(lines)
    if any(amd_table.is_table(line.text) for line in lines[:4]):
        return amd_table.read_table(lines)
    if any(hccn.is_ports(line.text) for line in lines[:3]):
        return hccn.read_ports(lines, context)
    titled = any(npu_smi.is_title(line.text) or npu_smi.is_chip(line.text) for line in lines[:4])
    if context.tool == "hccn_tool" and not titled:  # lanes, histories, error counts: nothing of them is kept
        return Reading("hccn_tool", context.what, lines[0].number)
    return npu_smi.read_tables(lines)


def _end_of_table(text: str, _context: Context) -> bool:
    return bool(text.strip()) and not _table(text)


def _begins_table(lines: list[Line], at: int) -> bool:
    """Whether a table begins at this line, directly under another: a title, its rule, or a chip below processes."""
    if _rule(lines[at].text):
        return at + 1 < len(lines) and _titled(lines[at + 1].text)
    above = next((n for n in range(at - 1, -1, -1) if not _rule(lines[n].text)), None)
    if _titled(lines[at].text):
        return not _rule(lines[at - 1].text)
    before = "" if above is None else lines[above].text
    return npu_smi.is_chip(lines[at].text) and (not before.strip() or npu_smi.is_user(before))


def _rule(text: str) -> bool:
    return bool(text.strip()) and set(text.strip()) <= set("+-=|")


def _titled(text: str) -> bool:
    return any(
        is_title(text) for is_title in (npu_smi.is_title, nvidia_tables.is_table, amd_table.is_table, hccn.is_ports)
    )


def _json(text: str) -> bool:
    return text.lstrip().startswith(("{", "[{", "[\n")) or text.strip() == "["


def _begins(text: str) -> bool:
    """Whether a line begins an output, whatever stands above it: no output has such a line inside."""
    return (
        _table(text)
        or _json(text)
        or nvidia_tables.columns(text) is not None
        or any(
            is_head(text)
            for is_head in (
                *(nvidia.is_nvidia_q, nvidia.is_nvidia_xml, amd.is_text, nvidia_tables.is_list),
                *(nvidia_tables.is_monitor, npu_smi.is_watch, npu_smi.is_mapping, topology.is_topology),
                *(topology.is_device_file, hccn.is_conf),
            )
        )
    )


def _field(text: str) -> bool:
    """Whether a line is a field that only npu-smi has."""
    bare = text.strip()
    return _NAMES.match(bare) is not None and _FIELD.match(bare) is not None


def _end_of_rows(text: str, context: Context) -> bool:
    other = (
        _begins(text)
        or _field(text)
        or _named(text, context)
        or _of_hccn(text, context)
        or _PROBLEM.search(text) is not None
    )
    return not text.strip() or _ignored(text) or other


def _end_of(own: Callable[[str], bool]) -> Callable[[str, Context], bool]:
    """Where rows end that have a form of their own."""
    return lambda text, context: _end_of_rows(text, context) and not own(text)


def _end_of_tree(text: str, _context: Context) -> bool:
    """Where what is indented under its heading ends; an empty line does not end it."""
    left = not text[:1].isspace() and (hccn.is_hccn(text) or _PROBLEM.search(text) is not None or _prompted(text))
    return _begins(text) or _field(text) or left


def _end_of_fields(text: str, _context: Context) -> bool:
    """Another kind begins; an empty line does not end these."""
    bare = text.strip()
    port = hccn.is_hccn(text) and ":" in bare
    return bool(bare) and (_begins(text) or port or _noise(bare) or _prompted(text))


def _end_of_ports(text: str, _context: Context) -> bool:
    bare = text.strip()
    return bool(bare) and (
        _begins(text) or _field(text) or _noise(bare) or _prompted(text) or bare.startswith("Total Count")
    )


def _noise(bare: str) -> bool:
    return _PROBLEM.search(bare) is not None or _DATETIME.match(bare) is not None


def _prompted(text: str) -> bool:
    return len(text) <= _LONGEST and _PROMPTED.fullmatch(text.strip()) is not None


def _end_of_xml(text: str, _context: Context) -> bool:
    return nvidia.is_nvidia_q(text) or _table(text) or text.lstrip().startswith("<?xml")


def _never(_text: str, _context: Context) -> bool:
    return False


def _end(lines: list[Line], at: int, ends: Callable[[str, Context], bool], context: Context) -> int:
    """Where the output that begins at a line ends. XML and JSON end where they are closed."""
    end = next((n for n in range(at + 1, len(lines)) if ends(lines[n].text, context)), len(lines))
    if ends is _end_of_xml:
        return next((n + 1 for n in range(at, end) if lines[n].text.strip() == "</nvidia_smi_log>"), end)
    if ends is _never:
        text = "\n".join(line.text for line in lines[at:])
        with contextlib.suppress(ValueError, RecursionError):
            start = len(text) - len(text.lstrip())
            _, closed = json.JSONDecoder().raw_decode(text, start)
            return at + text.count("\n", 0, closed) + 1
    if ends is _end_of_table:
        return next((n for n in range(at + 2, end) if _begins_table(lines, n)), end)
    return end


def _tool(context: Context, text: str) -> str:
    return context.tool if context.tool in _OURS else "nvidia-smi" if "GPU" in text else "npu-smi"


Kind = tuple[Callable[[str, Context], bool], Callable[[str, Context], bool], Reader]


def _of_amd(form: Callable[[str], bool]) -> Kind:
    def ends(text: str, context: Context) -> bool:
        return (_end_of_tree(text, context) and not form(text)) or "End of ROCm SMI Log" in text

    return lambda text, _: form(text), ends, lambda lines, _: amd.read_text(lines)


# In this order: what begins an output, what ends it, who reads it.
_KINDS: Final[tuple[Kind, ...]] = (
    (lambda text, _: nvidia.is_nvidia_q(text), _end_of_tree, lambda lines, _: nvidia.read_q(lines)),
    (lambda text, _: nvidia.is_nvidia_xml(text), _end_of_xml, lambda lines, _: nvidia.read_xml(lines)),
    (lambda text, _: _table(text), _end_of_table, _reader_of_table),
    (lambda text, _: _json(text), _never, lambda lines, _: amd.read_json(lines)),
    *(_of_amd(form) for form in amd.FORMS),
    (
        lambda text, _: nvidia_tables.is_list(text),
        _end_of(nvidia_tables.is_list),
        lambda lines, _: nvidia_tables.read_list(lines),
    ),
    (
        lambda text, _: nvidia_tables.is_monitor(text),
        _end_of(nvidia_tables.is_monitor),
        lambda lines, _: nvidia_tables.read_monitor(lines),
    ),
    (
        lambda text, context: nvidia_tables.columns(text) is not None or nvidia_tables.asked(context) is not None,
        _end_of_rows,
        nvidia_tables.read_csv,
    ),
    (
        lambda text, _: npu_smi.is_watch(text),
        _end_of(npu_smi.is_watch),
        lambda lines, _: npu_smi.read_watch(lines),
    ),
    (lambda text, _: npu_smi.is_mapping(text), _end_of_rows, lambda lines, _: npu_smi.read_mapping(lines)),
    (
        lambda text, _: topology.is_topology(text),
        _end_of_rows,
        lambda lines, context: topology.read_topology(lines, _tool(context, lines[0].text)),
    ),
    (
        lambda text, _: topology.is_device_file(text),
        _end_of(topology.is_device_file),
        lambda lines, _: topology.read_device_files(lines),
    ),
    (
        lambda text, _: hccn.is_conf(text),
        lambda text, _: not hccn.is_conf(text),
        lambda lines, _: hccn.read_conf(lines),
    ),
    (
        lambda text, _: _PROBLEM.search(text) is not None,
        lambda text, _: _PROBLEM.search(text) is None,
        _problem,
    ),
    (_of_hccn, _end_of_ports, hccn.read_hccn),
    (_named, _end_of_fields, _read_fields),
)


def read_file(text: str, name: str) -> list[Reading]:
    """`read`, with the file's name in what is wrong."""
    try:
        return [replace(reading, tool=reading.tool or "unknown tool") for reading in read(text)]
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}, {error.message}", code=error.code) from None

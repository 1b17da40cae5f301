"""What `hccn_tool` prints about a die's own network port, and `/etc/hccn.conf`.

Several outputs may follow each other without a word of which device they are about: the command lines say it, or a
`[devid N]` does; without either the port belongs to a device whose number is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, Final

from daulat.core.accelerator import Accelerator, Port, merged
from daulat.fleet.outputs.lines import MAX_DEVICES, Context, Line, Reading, decimal, integer, known, malformed

_DEVICE: Final = re.compile(r"^\s*\[dev(?:id|ice)?\s*(\d{1,6})\]\s*")
_SPEED: Final = re.compile(r"(\d{1,9})\s*(Mb/s|Gb/s|G)?", re.IGNORECASE)
_RATE: Final = re.compile(r"Bandwidth (TX|RX)\s*:\s*(\d{1,9}(?:\.\d{1,6})?)\s*MB/sec", re.IGNORECASE)
_OPTICAL: Final = re.compile(
    r"(temperature|vcc|[tr]x ?power ?\d)\s*:\s*(-?\d{1,9}(?:\.\d{1,6})?)\s*(C|mV|mW)", re.IGNORECASE
)
_COUNTER: Final = re.compile(r"((?:roce|mac|nic|hccs|rocee|llc)_[a-z0-9_]{1,60})\s*:\s*(\S*)", re.IGNORECASE)
_RECORD: Final = re.compile(r"\w{3} \w{3}\s+\d{1,2} [\d:]{8} \d{4}\s+LINK (UP|DOWN)", re.IGNORECASE)
_CONF: Final = re.compile(r"([a-z0-9_]+?)_(\d{1,6})=(.*)")
_TLV: Final = re.compile(r"(.+) TLV$")
_STATES: Final[dict[str, Any]] = {
    "up": "up",
    "down": "down",
    "partial link": "up",
    "link up": "up",
    "link down": "down",
}
_GIGA: Final = 1000
_MOST_LINES: Final = 10_000
_BEGINNINGS: Final = (
    *("ipaddr:", "netmask:", "gateway:", "default gateway", "link status:", "net health status:", "optical info:"),
    *(
        "fec mode:",
        "packet statistics:",
        "speed:",
        "bandwidth tx:",
        "bandwidth rx:",
        "link up count",
        "link change records",
    ),
    *("chassis id tlv", "port id tlv", "lldp information"),
)
_PHRASES: Final = frozenset({"no lldp neighbor", "control link unreachable"})
_NAMES: Final = ("ipaddr", "netmask", "link status", "net health", "speed", "bandwidth", "link up count", "present")
_NONE: Final = Port()
_MASKED: Final = re.compile(r"(?=.*[xX*])[0-9xX*]{1,3}(?:\.[0-9xX*]{1,3}){3}")


def is_conf(text: str) -> bool:
    return _CONF.fullmatch(text.strip()) is not None and text.strip().startswith(
        (
            "address_",
            "netmask_",
            "gateway_",
            "netdetect_",
            "IPv6address_",
            "arp_",
            "send_arp",
            "tls_",
            "route_",
            "roce_",
        )
    )


def is_hccn(text: str) -> bool:
    """Whether a line is one that only `hccn_tool` prints."""
    bare = _DEVICE.sub("", text).strip().lower()
    return _DEVICE.match(text) is not None or bare.startswith(_BEGINNINGS) or bare in _PHRASES


def read_hccn(lines: list[Line], context: Context) -> Reading:
    """The port that these lines are about, or several where they name their devices.

    Raises:
        InvalidRequest: a value of a kind that is known cannot be read; quotes it.
    """
    if len(lines) > _MOST_LINES:
        raise malformed(lines[0], f"more than {_MOST_LINES} lines of hccn_tool follow")
    ports: dict[tuple[int | None, int], Port] = {}  # by number, and by turn where no number is told
    tlv, neighbours, turn = "", False, 0
    for line in lines:
        device = _DEVICE.match(line.text)
        number = context.device if device is None else int(device[1])
        text = _DEVICE.sub("", line.text).strip()
        header = _TLV.match(text)
        neighbours |= header is not None
        said = _lldp(tlv, text) if header is None else {}
        tlv = header[1].lower() if header is not None else "" if said else tlv
        if ":" not in text and not neighbours and text.lower().startswith(_NAMES):
            raise malformed(line, "this is not `name: value`")
        said = said or _said(text, line)
        if number is None and any(getattr(ports.get((None, turn), _NONE), name) not in {None, ()} for name in said):
            turn += 1  # the same is said again: of the next device
        port = ports.setdefault((number, turn if number is None else 0), Port())
        changed: dict[str, Any] = {
            name: (*getattr(port, name), *value) if isinstance(value, tuple) else value for name, value in said.items()
        }
        ports[number, turn if number is None else 0] = replace(port, **changed)
    numbers = dict(enumerate(context.loop))
    found = tuple(
        Accelerator("ascend", physical_id=numbers.get(at) if number is None else number, port=port)
        for (number, at), port in ports.items()
        if port != Port()
    )
    problems = tuple(f"{_whose(part)}: {word}" for part in found for word in _wrong(part.port))
    return Reading("hccn_tool", context.what, lines[0].number, found, problems=problems)


def _whose(part: Accelerator) -> str:
    return "NPU of unknown number" if part.physical_id is None else f"NPU physical {part.physical_id}"


def _wrong(port: Port) -> Iterator[str]:
    if port.state == "down":
        yield "its link is down"
    if port.health is not None and port.health.lower() not in {"success", "init", "healthy"}:
        yield f"net health is {port.health}"
    if port.optical_present is False:
        yield "its optical module is not present"


def _lldp(tlv: str, text: str) -> dict[str, Any]:
    """The line under a TLV's name: who is at the other end of the cable."""
    if not text:
        return {}
    if tlv == "port id":
        return {"peer_port": text.partition(":")[2].strip() or text}
    if tlv == "system name":
        return {"peer": text}
    return {}  # of the others nothing is kept


def _said(text: str, line: Line) -> dict[str, Any]:
    name, _, value = text.partition(":")
    key, value = name.strip().lower(), value.strip()
    optical, counter, rate = _OPTICAL.match(text), _COUNTER.fullmatch(text), _RATE.match(text)
    if rate is not None:
        return {f"{rate[1].lower()}_mb_s": float(rate[2])}
    if counter is not None:
        number = integer(counter[2], line)
        return {} if number is None else {"counters": ((counter[1].lower(), number),)}
    if optical is not None:
        return {"optical": ((optical[1].lower().replace(" ", ""), float(optical[2])),)}
    if key in {"ipaddr", "netmask", "gateway", "default gateway"} and known(value):
        return {
            {"ipaddr": "address"}.get(key, key.removeprefix("default ")): _address(
                value.partition(",")[0].strip(), line
            )
        }
    return _named(key, value, line)


def _named(key: str, value: str, line: Line) -> dict[str, Any]:
    if key == "link status":
        state = _STATES.get(value.lower())
        if state is None and known(value) is not None:
            raise malformed(line, "a link is UP or DOWN")
        return {"state": state} | ({"health": "partial link"} if value.lower() == "partial link" else {})
    if key == "net health status":
        return {"health": known(value)}
    if key == "present":
        return {"optical_present": value.lower() == "present"}
    if key == "link up count":
        return {"link_ups": integer(value, line)}
    if key == "speed" and known(value.rstrip("!")) is not None:
        match = _SPEED.fullmatch(value)
        if match is None:
            raise malformed(line, "a speed is a number of Mb/s")
        if match[2] is None and not line.ended:
            raise malformed(line, "this speed has no unit, and no newline behind it: it may be cut off")
        return {"speed_mbps": int(match[1]) * (1 if (match[2] or "Mb/s").lower() == "mb/s" else _GIGA)}
    return {}


def _address(text: str, line: Line) -> str | None:
    """An address; `None` where somebody has masked it: `10.xx.xx.10`."""
    if _MASKED.fullmatch(text) is not None:
        return None
    try:
        return str(ip_address(text.partition("/")[0]))
    except ValueError:
        raise malformed(line, f"{text[:60]!r} is not an address") from None


def read_conf(lines: list[Line]) -> Reading:
    """`/etc/hccn.conf`: the addresses that the ports are given at boot. The number behind a name is the physical id."""
    found: dict[int, Accelerator] = {}
    for line in lines:
        text = line.text.strip()
        if not text or text.startswith("#"):
            continue
        match = _CONF.fullmatch(text)
        if match is None:
            raise malformed(line, "this is not `name_N=value`")
        fields = {"address": "address", "netmask": "netmask", "gateway": "gateway"}
        number = int(match[2])
        if len(found) >= MAX_DEVICES:
            raise malformed(line, f"more than {MAX_DEVICES} devices")
        said: dict[str, Any] = {}
        if match[1] in fields and known(match[3]) is not None:
            said[fields[match[1]]] = _address(match[3], line)
        part = Accelerator("ascend", physical_id=number, port=Port(**said))
        found[number] = merged([found[number], part]) if number in found else part
    return Reading("hccn.conf", "", lines[0].number, tuple(found.values()))


_UB: Final = re.compile(r"\|\s*Udie ?ID\s*\|\s*Port ?ID\s*\|", re.IGNORECASE)


def is_ports(text: str) -> bool:
    """Whether a row heads the table of `hccn_tool -g -dev_info` (950)."""
    return _UB.match(text.strip()) is not None


def read_ports(lines: list[Line], context: Context) -> Reading:
    """`hccn_tool -g -dev_info -i N`: the ports of a 950's dies. Up where any is up; each link that is down is named."""
    up, speeds = 0, []
    problems: list[str] = []
    head: list[str] = []
    for line in lines:
        text = line.text.strip()
        if not text or set(text) <= set("+-=|"):
            continue
        cells = [cell.strip() for cell in text.strip("|").split("|")]
        if is_ports(text):
            head = [cell.lower().replace(" ", "").partition("(")[0] for cell in cells]
            continue
        if len(cells) != len(head) and cells[0].lower() in {"interface name", "name"}:
            break  # its network interfaces: other tables
        if len(cells) != len(head):
            raise malformed(line, f"{len(cells)} of {len(head)} values")
        row = dict(zip(head, cells, strict=True))
        die, port = integer(row["udieid"], line), integer(row["portid"], line)
        state = _STATES.get(row.get("linkstatus", "").lower())
        if state is None or die is None or port is None:
            raise malformed(line, "a port has the number of its die, its own, and is UP or DOWN")
        up += state == "up"
        if state == "down":
            problems.append(f"port {port} of die {die} ({row.get('porttype', '?')}) is down")
        speed = decimal(row.get("speed", row.get("speedability", "")), line)
        speeds += [] if speed is None else [speed]
    ports = Port(state="up" if up else "down", speed_mbps=int(max(speeds) * _GIGA) if speeds else None)
    part = Accelerator("ascend", physical_id=context.device, port=ports, architecture="A5")
    return Reading("hccn_tool", "-dev_info", lines[0].number, (part,), problems=tuple(problems))

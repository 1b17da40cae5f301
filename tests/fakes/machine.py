"""Described machines, and what can be wrong with them. Plain dictionaries: the fake tools read them as JSON."""

from __future__ import annotations

from typing import Any

KINDS: dict[str, dict[str, Any]] = {
    # Atlas 800I A3: eight packages of two dies, sixteen devices
    "a3": {"vendor": "ascend", "cards": 8, "dies": 2, "name": "Ascend910", "chip": "Ascend910", "hbm": 65536},
    # Atlas 800I A2: eight 910B3
    "a2": {"vendor": "ascend", "cards": 8, "dies": 1, "name": "910B3", "chip": "Ascend 910B3", "hbm": 65536},
    "8xh200": {"vendor": "nvidia", "cards": 8, "dies": 1, "name": "NVIDIA H200", "hbm": 143771},
}
_MULTI_BIT = ("80E01801", "node type=HBM, sensor type=Memory, event state=Multi Bit Ecc Error")
FAULTS = {
    "die-lost": "the device's file is there, the driver no longer lists it",
    "ecc": "double bit errors of its memory, with its alarm and their error code",
    "ecc-quiet": "double bit errors of its memory, while its health says OK",
    "ecc-code": "the error code of a double bit error alone, while its health says OK",
    "pages": "pages of its memory are isolated for errors of earlier days, and nothing is wrong now",
    "hot": "it is too hot and slows down",
    "critical": "it says that it is broken",
    "link-down": "its network port has no link",
    "process-stuck": "a process that does nothing holds its memory",
    "driver-gone": "no driver: every tool fails",
    "hang": "every tool hangs",
}


def describe(kind: str, faults: tuple[str, ...] = ()) -> dict[str, Any]:
    """A machine, as the fake tools read it."""
    base = KINDS[kind]
    machine: dict[str, Any] = {**base, "kind": kind, "version": "25.5.1", "faults": [], "devices": [], "files": []}
    for card in range(base["cards"]):
        for die in range(base["dies"]):
            machine["devices"].append(_device(card, die, card * base["dies"] + die, base))
    for fault in faults:
        name, _, number = fault.partition(":")
        if name not in FAULTS:
            raise ValueError(f"{name!r} is no fault: {', '.join(FAULTS)}")
        if not number:
            machine["faults"].append(name)
            continue
        _break(machine["devices"][int(number)], name)
    if base["vendor"] == "ascend":
        machine["files"] = [device["phy"] for device in machine["devices"]]
        machine["devices"] = [device for device in machine["devices"] if not device["lost"]]
    return machine


def _device(card: int, die: int, phy: int, base: dict[str, Any]) -> dict[str, Any]:
    return {
        "card": card,
        "die": die,
        "phy": phy,
        "bus": f"0000:{0x9D - 4 * card + 2 * die:02X}:00.0",
        "power": 172.5 + 1.5 * card,
        "temp": 35 + (card + die) % 4,
        "used": (3402 if die == 0 else 3200) if base["vendor"] == "ascend" else 4,
        "aicore": 0,
        "health": "OK",
        "single": 0,
        "double": 0,
        "pages": 0,
        "sram": 0,
        "link": "UP",
        "lost": False,
        "codes": "NA",
        "words": "NA",
        "processes": [],
    }


def _break(device: dict[str, Any], fault: str) -> None:
    if fault == "die-lost":
        device["lost"] = True
    elif fault in {"ecc", "ecc-quiet"}:
        device.update(single=14, double=3, pages=3)
        if fault == "ecc":
            device.update(health="Alarm", codes=_MULTI_BIT[0], words=_MULTI_BIT[1])
    elif fault == "ecc-code":
        device.update(codes=_MULTI_BIT[0], words=_MULTI_BIT[1], sram=12)
    elif fault == "pages":
        device.update(pages=2)
    elif fault == "hot":
        device.update(temp=101, health="Warning", codes="80CF8009")
        device.update(words="node type=SoC, sensor type=Temperature, event state=Over Temperature")
    elif fault == "critical":
        device.update(health="Critical", codes="80E18005")
        device.update(words="node type=SoC, sensor type=Hardware, event state=Fatal Error")
    elif fault == "link-down":
        device["link"] = "DOWN"
    elif fault == "process-stuck":
        device["processes"].append({"pid": 31337, "name": "", "memory": 57344})
        device["used"] += 57344

"""What `npu-smi` and `hccn_tool` print: the shapes of releases 24.1 to 25.5, filled from a described machine."""

from __future__ import annotations

from typing import Any

Machine = dict[str, Any]
NO_DRIVER = "DrvMngGetConsoleLogLevel failed. (ret=4)\ndcmi module initialize failed. ret is -8005\n"
LINE = "+" + "-" * 96 + "+\n"
RULE = "+---------------------------+---------------+----------------------------------------------------+\n"
DOUBLE = RULE.replace("-", "=")
LEGEND = """
Legend:

  X    = Self
  SYS  = Path traversing PCIe and NUMA nodes. Nodes are connected through SMP, such as QPI, UPI.
  PHB  = Path traversing PCIe and the PCIe host bridge of a CPU.
  PIX  = Path traversing a single PCIe switch
  PXB  = Path traversing multiple PCIe switches
  HCCS = Connection traversing HCCS.
  SIO  = Connection between the two dies of a package.
  NA   = Unknown relationship.
"""


def options(arguments: list[str]) -> dict[str, str]:
    pairs = dict(zip(arguments, [*arguments[1:], ""], strict=True))
    return {name: value for name, value in pairs.items() if name.startswith("-")}


def npu_smi(machine: Machine, arguments: list[str]) -> tuple[str, int]:
    if "driver-gone" in machine["faults"]:
        return NO_DRIVER, 1
    said = options(arguments)
    whole = {"info": info, "info -m": mapping, "info -l": listing, "info -t topo": topo}.get(" ".join(arguments))
    if whole is not None:
        return whole(machine), 0
    found = [one for one in machine["devices"] if str(one["card"]) == said.get("-i")]
    if "-c" in said:
        found = [one for one in found if str(one["die"]) == said["-c"]]
    if not found:
        return "Invalid card id.\nError parameter of -i\n", 1
    types = {
        "board": board,
        "usages": usages,
        "health": health,
        "ecc": ecc,
        "memory": memory,
        "common": common,
        "temp": temp,
        "power": power,
    }
    answer = types.get(said.get("-t", ""))
    if answer is None:
        return f"This device does not support querying {said.get('-t')}.\n", 1
    return answer(machine, found, "-c" in said), 0


def info(machine: Machine) -> str:
    second = "Chip  Phy-ID             " if machine["dies"] > 1 else "Chip                     "
    version = f"npu-smi {machine['version']}"
    out = [
        LINE,
        f"| {version:<32} Version: {machine['version']:<52} |\n",
        RULE,
        "| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|\n",
        f"| {second} | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |\n",
        DOUBLE,
    ]
    for one in machine["devices"]:
        power = "-" if one["die"] else f"{one['power']:.1f}"
        number = f"{one['die']:<5} {one['phy']:<19}" if machine["dies"] > 1 else f"{one['die']:<25}"
        first = f"{power:<11} {one['temp']:<17} 0    / 0            "
        second = f"{one['aicore']:<11} 0    / 0          {one['used']:<5}/ {machine['hbm']:<12}"
        out += [
            f"| {one['card']:<5} {machine['name']:<19} | {one['health']:<13} | {first} |\n",
            f"| {number} | {one['bus']:<13} | {second} |\n",
            LINE if one["die"] + 1 < machine["dies"] else DOUBLE,
        ]
    return "".join(out) + users(machine)


def users(machine: Machine) -> str:
    out = [
        RULE,
        "| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |\n",
        DOUBLE,
    ]
    for card in sorted({one["card"] for one in machine["devices"]}):
        rows = [
            f"| {card:<7} {one['die']:<17} | {user['pid']:<13} | {user['name']:<24} | {user['memory']:<23} |\n"
            for one in machine["devices"]
            if one["card"] == card
            for user in one["processes"]
        ]
        out += [*(rows or [f"| No running processes found in NPU {card:<61}|\n"]), DOUBLE]
    return "".join(out)


def mapping(machine: Machine) -> str:
    out = ["\tNPU ID                         Chip ID                        Chip Logic ID                  Chip Name\n"]
    for logic, one in enumerate(machine["devices"]):
        out.append(f"\t{one['card']:<30} {one['die']:<30} {logic:<30} {machine['chip']}\n")
        if one["die"] + 1 == machine["dies"]:
            out.append(f"\t{one['card']:<30} {machine['dies']:<30} {'-':<30} Mcu\n")
    return "".join(out)


def listing(machine: Machine) -> str:
    cards = sorted({one["card"] for one in machine["devices"]})
    out = [f"\tTotal Count                    : {len(cards)}\n"]
    for card in cards:
        dies = sum(one["card"] == card for one in machine["devices"])
        out.append(f"\n\tNPU ID                         : {card}\n\tChip Count                     : {dies}\n")
    return "".join(out)


def topo(machine: Machine) -> str:
    many = machine["dies"] > 1
    names = [f"Phy-ID{one['phy']}" if many else f"NPU{one['card']}" for one in machine["devices"]]
    out = ["\t   " + "".join(f"{name:<11}" for name in names) + "CPU Affinity\n"]
    for name, one in zip(names, machine["devices"], strict=True):
        cells = [
            "X" if one is other else "SIO" if one["card"] == other["card"] else "HCCS_SW" if many else "HCCS"
            for other in machine["devices"]
        ]
        first = 40 * (one["card"] // 2)
        out.append(f"{name:<11}" + "".join(f"{cell:<11}" for cell in cells) + f"{first}-{first + 39}\n")
    return "".join(out) + LEGEND


def _pairs(*rows: tuple[str, object], width: int = 31) -> str:
    return "".join(f"\t{name:<{width}}: {value}\n" for name, value in rows)


def _head(found: list[dict[str, Any]]) -> str:
    return _pairs(("NPU ID", found[0]["card"]), ("Chip Count", len(found))) + "\n"


def board(machine: Machine, found: list[dict[str, Any]], _one: bool) -> str:
    first = found[0]
    return _pairs(
        ("NPU ID", first["card"]),
        ("Product Name", "IT22SMMB" if machine["dies"] > 1 else "IT21HMDC_Bin5"),
        ("Model", "NA"),
        ("Manufacturer", "Huawei"),
        ("Serial Number", f"10FAKE{first['card']:06d}"),
        ("Software Version", machine["version"]),
        ("Firmware Version", "7.8.0.6.201"),
        ("Compatibility", "OK"),
        ("Board ID", "0x60"),
        ("PCIe Bus Info", first["bus"]),
        ("Slot ID", first["card"]),
        ("Class ID", "NA"),
        ("Chip Count", len(found)),
    )


def usages(machine: Machine, found: list[dict[str, Any]], _one: bool) -> str:
    out = _head(found)
    for one in found:
        share = one["used"] * 100 // machine["hbm"]
        out += _pairs(
            ("DDR Capacity(MB)", 0),
            ("DDR Usage Rate(%)", 0),
            ("HBM Capacity(MB)", machine["hbm"]),
            ("HBM Usage Rate(%)", share),
            ("Aicore Usage Rate(%)", one["aicore"]),
            ("Aivector Usage Rate(%)", 0),
            ("Aicpu Usage Rate(%)", 0),
            ("Ctrlcpu Usage Rate(%)", 5),
            ("HBM Bandwidth Usage Rate(%)", 0),
            ("NPU Utilization(%)", one["aicore"]),
            ("Aicube Usage Rate(%)", 0),
            ("Chip ID", one["die"]),
        )
        out += "\n"
    return out


def health(_machine: Machine, found: list[dict[str, Any]], _one: bool) -> str:
    one = found[0]
    return _pairs(("Health Status", one["health"]), ("Error Code", one["codes"]), ("Error Information", one["words"]))


def ecc(_machine: Machine, found: list[dict[str, Any]], chosen: bool) -> str:
    """Of one die where it was chosen, else of each die of the card, closed by its number."""
    out = _pairs(("NPU ID", found[0]["card"]), width=41)
    if not chosen:
        out += _pairs(("Chip Count", len(found)), width=41) + "\n"
    for one in found:
        out += _pairs(
            ("HBM Single Bit Error Count", one["single"]),
            ("HBM Double Bit Error Count", one["double"]),
            ("HBM Single Bit Aggregate Total Err Cnt", one["single"]),
            ("HBM Double Bit Aggregate Total Err Cnt", one["double"]),
            ("HBM Single Bit Isolated Pages Count", 0),
            ("HBM Double Bit Isolated Pages Count", one["pages"]),
            ("HBM Single Bit Next-Isolated Pages Count", 0),
            ("HBM Double Bit Next-Isolated Pages Count", 0),
            width=41,
        )
        out += "" if chosen else _pairs(("Chip ID", one["die"]), width=41) + "\n"
    return out


def common(machine: Machine, found: list[dict[str, Any]], _one: bool) -> str:
    out = _head(found)
    for one in found:
        out += _pairs(
            ("Chip ID", one["die"]),
            ("Memory Usage Rate(%)", 0),
            ("HBM Usage Rate(%)", one["used"] * 100 // machine["hbm"]),
            ("Aicore Usage Rate(%)", one["aicore"]),
            ("Aicore Freq(MHZ)", 1800),
            ("Aicore curFreq(MHZ)", 800),
            ("Aicore Count", 20),
            ("Temperature(C)", one["temp"]),
            ("NPU Real-time Power(W)", "NA" if one["die"] else one["power"]),
        )
        out += "\n"
    return out + _pairs(("Chip Name", "mcu"), ("Temperature(C)", 36))


def memory(machine: Machine, found: list[dict[str, Any]], _one: bool) -> str:
    one = found[0]
    return _pairs(
        ("DDR Capacity(MB)", 0),
        ("DDR Clock Speed(MHz)", 0),
        ("HBM Capacity(MB)", machine["hbm"]),
        ("HBM Clock Speed(MHz)", 1600),
        ("HBM Temperature(C)", one["temp"] + 4),
        ("HBM Manufacturer ID", "0x56"),
    )


def temp(_machine: Machine, found: list[dict[str, Any]], _one: bool) -> str:
    blocks = [_pairs(("NPU Temperature (C)", one["temp"]), ("Chip ID", one["die"])) for one in found]
    mcu = _pairs(("LM75A_TE (C)", 36), ("LM75B_TE (C)", 36), ("Chip Name", "MCU"))
    return _head(found) + "\n".join([*blocks, mcu])


def power(_machine: Machine, found: list[dict[str, Any]], _one: bool) -> str:
    first = found[0]
    return _head(found) + _pairs(("NPU Real-time Power(W)", first["power"]), ("Chip ID", first["die"]))


def hccn_tool(machine: Machine, arguments: list[str]) -> tuple[str, int]:
    said = options(arguments)
    if "driver-gone" in machine["faults"]:
        return "hccn_tool: failed to open device, the driver is not loaded\n", 1
    one = next((one for one in machine["devices"] if str(one["phy"]) == said.get("-i")), None)
    if one is None:
        return "Invalid device id.\nCmd executed failed!\n", 1
    up = one["link"] == "UP"
    answers = {
        "-link": f"link status: {one['link']}\n",
        "-ip": f"ipaddr:10.20.{one['card']}.{10 + one['die']}\nnetmask:255.255.0.0\n",
        "-net_health": f"net health status: {'Success' if up else 'Receive timeout'}\n",
        "-speed": f"Speed: {'200000 Mb/s' if up else 'Unknown!'}\n",
        "-link_stat": (
            f"[devid {one['phy']}]current time        : Wed Aug  2 03:36:43 2026\n"
            f"[devid {one['phy']}]link up count       : {1 if up else 2}\n"
            f"[devid {one['phy']}]link change records :\n"
            f"[devid {one['phy']}]    Tue Aug  1 14:43:26 2026    LINK {one['link']}\n"
        ),
        "-stat": "packet statistics:\nmac_tx_total_pkt_num:7\nmac_rx_total_pkt_num:8\nroce_rx_err_pkt_num:0\n"
        "roce_tx_err_pkt_num:0\n",
        "-optical": "optical info:\npresent              : present\ntemperature          : 41 C\n"
        "Vcc                  : 3301.00 mV\nTx Power0            : 1.4035 mW\nRx Power0            : 1.0189 mW\n",
    }
    text = next((text for name, text in answers.items() if name in arguments), None)
    return ("Cmd executed failed!\n", 1) if text is None else (text, 0)

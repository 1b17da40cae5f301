"""What `nvidia-smi` prints: `-q`, `topo -m`, `--query-gpu` and `-L`, in the shape of driver 550."""

from __future__ import annotations

from typing import Any

Machine = dict[str, Any]
DRIVER = "550.144.03"
GONE = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.\n\n"
)


def nvidia_smi(machine: Machine, arguments: list[str]) -> tuple[str, int]:
    if "driver-gone" in machine["faults"]:
        return GONE, 9
    gpus = [one for one in machine["devices"] if not one["lost"]]
    if arguments == ["-q"]:
        head = (
            "\n==============NVSMI LOG==============\n\n"
            "Timestamp                                 : Mon Mar 31 10:11:18 2025\n"
            f"Driver Version                            : {DRIVER}\n"
            "CUDA Version                              : 12.4\n\n"
            f"Attached GPUs                             : {len(gpus)}\n"
        )
        return head + "".join(_branch(one, machine) for one in gpus), 0
    if arguments == ["-L"]:
        return "".join(f"GPU {one['card']}: {machine['name']} (UUID: {_uuid(one)})\n" for one in gpus), 0
    if arguments == ["topo", "-m"]:
        return _topo(gpus), 0
    asked = next((word.partition("=")[2].split(",") for word in arguments if word.startswith("--query-gpu=")), None)
    if asked is None:
        return "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n", 2
    return ", ".join(asked) + "\n" + "".join(_row(one, machine, asked) for one in gpus), 0


def _uuid(one: dict[str, Any]) -> str:
    return f"GPU-6b1d0869-fb77-7f91-fcea-0073{one['card']:08x}"


def _row(one: dict[str, Any], machine: Machine, asked: list[str]) -> str:
    values = {
        "index": one["card"],
        "name": machine["name"],
        "uuid": _uuid(one),
        "pci.bus_id": f"0000{one['bus']}",
        "driver_version": DRIVER,
        "memory.total": f"{machine['hbm']} MiB",
        "memory.used": f"{one['used']} MiB",
        "utilization.gpu": f"{one['aicore']} %",
        "temperature.gpu": one["temp"],
        "power.draw": f"{one['power']:.2f} W",
    }
    return ", ".join(str(values.get(name, "[Not Supported]")) for name in asked) + "\n"


def _recovery(one: dict[str, Any]) -> str:
    return "Drain and Reset" if one["double"] else "Reset" if one["health"] == "Critical" else "None"


def _branch(one: dict[str, Any], machine: Machine) -> str:
    hot = "Active" if one["temp"] > 90 else "Not Active"
    users = "".join(
        f"        GPU instance ID                   : N/A\n        Compute instance ID               : N/A\n"
        f"        Process ID                        : {user['pid']}\n"
        f"            Type                          : C\n            Name                          : {user['name']}\n"
        f"            Used GPU Memory               : {user['memory']} MiB\n"
        for user in one["processes"]
    )
    return f"""
GPU 0000{one["bus"]}
    Product Name                          : {machine["name"]}
    Product Brand                         : NVIDIA
    Product Architecture                  : Hopper
    MIG Mode
        Current                           : Disabled
        Pending                           : Disabled
    Serial Number                         : 16418240{one["card"]:05d}
    GPU UUID                              : {_uuid(one)}
    Minor Number                          : {one["card"]}
    VBIOS Version                         : 96.00.A0.00.03
    Board Part Number                     : 699-2G520-0280-RC3
    GPU Recovery Action                   : {_recovery(one)}
    GPU Reset Status
        Reset Required                    : No
        Drain and Reset Recommended       : No
    PCI
        Bus Id                            : 0000{one["bus"]}
    Clocks Event Reasons
        Idle                              : Active
        HW Slowdown                       : Not Active
            HW Thermal Slowdown           : {hot}
            HW Power Brake Slowdown       : Not Active
    FB Memory Usage
        Total                             : {machine["hbm"]} MiB
        Reserved                          : 575 MiB
        Used                              : {one["used"]} MiB
        Free                              : {machine["hbm"] - 575 - one["used"]} MiB
    Utilization
        Gpu                               : {one["aicore"]} %
        Memory                            : 0 %
    ECC Mode
        Current                           : Enabled
        Pending                           : Enabled
    ECC Errors
        Volatile
            SRAM Correctable              : 0
            SRAM Uncorrectable            : {one["sram"]}
            DRAM Correctable              : {one["single"]}
            DRAM Uncorrectable            : {one["double"]}
        Aggregate
            SRAM Correctable              : 0
            SRAM Uncorrectable            : {one["sram"]}
            DRAM Correctable              : {one["single"]}
            DRAM Uncorrectable            : {one["double"]}
    Remapped Rows
        Correctable Error                 : 0
        Uncorrectable Error               : 0
        Pending                           : No
        Remapping Failure Occurred        : No
    Temperature
        GPU Current Temp                  : {one["temp"]} C
        GPU T.Limit Temp                  : 50 C
        Memory Current Temp               : {one["temp"] + 5} C
    GPU Power Readings
        Power Draw                        : {one["power"]:.2f} W
        Current Power Limit               : 700.00 W
    Processes{(users and chr(10) + users.rstrip(chr(10))) or "                             : None"}
"""


def _topo(gpus: list[dict[str, Any]]) -> str:
    names = [f"GPU{one['card']}" for one in gpus]
    out = ["\t" + "\t".join(names) + "\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"]
    for at, (name, one) in enumerate(zip(names, gpus, strict=True)):
        cells = [" X " if at == other else "NV18" for other in range(len(gpus))]
        node = one["card"] // 4
        out.append(f"{name}\t" + "\t".join(cells) + f"\t{56 * node}-{56 * node + 55}\t{node}\t\tN/A\n")
    legend = "\nLegend:\n\n  X    = Self\n  SYS  = Connection traversing PCIe as well as the SMP interconnect\n"
    return "".join(out) + legend + "  NV#  = Connection traversing a bonded set of # NVLinks\n"

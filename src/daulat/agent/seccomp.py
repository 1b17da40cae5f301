"""The engine's system call filter: classic BPF, written by hand, handed to bubblewrap and to the canary.

A deny list under a ceiling: what an inference engine needs is allowed, what would lead out of the sandbox, around this
filter or into the kernel's rarely tested corners is refused, and calls newer than those known here do not exist
(`ENOSYS`). Of sockets, only the families that the engine is known to need, AF_UNIX for most: an empty network namespace
alone still has AF_VSOCK and netlink, and io_uring would create and connect sockets without a `socket` call. Arguments
are judged by their low 32 bits where the kernel itself reads an `int`. See seccomp(2), and linux/filter.h for the
instructions' layout.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from daulat.errors import ConfigError

ALLOW: Final = 0x7FFF0000
KILL_PROCESS: Final = 0x80000000
ERRNO: Final = 0x00050000
REFUSED: Final = ERRNO | errno.EPERM
NO_FAMILY: Final = ERRNO | errno.EAFNOSUPPORT
NO_CALL: Final = ERRNO | errno.ENOSYS

AUDIT_ARCH: Final[Mapping[str, int]] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT: Final = 0x40000000
NEWEST_KNOWN: Final = 467  # open_tree_attr, Linux 6.15; numbers from 424 on are the same on both machines
AF_UNIX: Final = 1
AF_NETLINK: Final = 16
NETLINK_ROUTE: Final = 0
# By the name in which an engine's facts state them. `inet` is IPv4, in a network namespace whose one interface is its
# own loopback: engines of several processes rendezvous there. `netlink` is its routing protocol alone, by which
# getifaddrs(3) names that interface; changing anything by it takes a capability that nothing inside has.
FAMILIES: Final[Mapping[str, int]] = {"unix": AF_UNIX, "inet": 2, "netlink": AF_NETLINK}
TIOCSTI: Final = 0x5412  # would type into the terminal that started us
TIOCLINUX: Final = 0x541C
CLONE_NEW: Final = 0x7E020000  # every CLONE_NEW* that clone(2) takes: user, pid, net, ipc, uts, cgroup, mount

_LD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JEQ: Final = 0x15
_JGE: Final = 0x35
_JSET: Final = 0x45
_RET: Final = 0x06
_NR, _ARCH, _ARG0, _ARG1, _ARG2 = 0, 4, 16, 24, 32  # offsets in struct seccomp_data; both machines are little-endian

# name: (x86_64, aarch64); None where the machine has no such call.
DENIED: Final[Mapping[str, tuple[int | None, int]]] = {
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "personality": (135, 92),
    "vhangup": (153, 58),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
}
# Calls that x86_64 alone still carries: raw port access, segments, and relics.
_X86_ONLY: Final[Mapping[str, int]] = {
    "modify_ldt": 154,
    "_sysctl": 156,
    "iopl": 172,
    "ioperm": 173,
    "create_module": 174,
    "get_kernel_syms": 177,
    "query_module": 178,
    "uselib": 134,
    "ustat": 136,
    "sysfs": 139,
}


@dataclass(frozen=True, slots=True)
class Calls:
    """The numbers of the calls whose arguments are judged."""

    socket: int
    socketpair: int
    clone: int
    clone3: int
    ioctl: int


CALLS: Final[Mapping[str, Calls]] = {
    "x86_64": Calls(41, 53, 56, 435, 16),
    "aarch64": Calls(198, 199, 220, 435, 29),
}


def numbers(machine: str) -> dict[str, int]:
    """The unconditionally denied calls of `machine`, by name."""
    column = 0 if machine == "x86_64" else 1
    found = {name: row[column] for name, row in DENIED.items()}
    named = {name: number for name, number in found.items() if number is not None}
    return named | (dict(_X86_ONLY) if machine == "x86_64" else {})


def build(machine: str | None = None, families: Sequence[str] = ("unix",)) -> bytes:
    """The filter for `machine` (default: this one), as an array of `struct sock_filter`.

    Raises:
        ConfigError: no filter is known for this machine, or `families` names one that no engine may have.
    """
    if unknown := sorted(set(families) - set(FAMILIES)):
        raise ConfigError(f"no engine may open {', '.join(unknown)} sockets; {', '.join(FAMILIES)} are known")
    machine = machine or platform.machine()
    if machine not in AUDIT_ARCH:
        known = ", ".join(sorted(AUDIT_ARCH))
        raise ConfigError(f"no system call filter is known for {machine}; engines are sandboxed on {known}")
    calls = CALLS[machine]
    code = _Assembler()
    code.load(_ARCH).jump(_JEQ, AUDIT_ARCH[machine], otherwise="kill")
    code.load(_NR)
    if machine == "x86_64":
        code.jump(_JGE, X32_BIT, then="absent")
    code.jump(_JGE, NEWEST_KNOWN + 1, then="absent")
    for number in sorted(numbers(machine).values()):
        code.jump(_JEQ, number, then="refused")
    code.jump(_JEQ, calls.clone3, then="absent")  # its flags are behind a pointer; libraries fall back to clone
    code.jump(_JEQ, calls.clone, then="clone")
    code.jump(_JEQ, calls.ioctl, then="ioctl")
    code.jump(_JEQ, calls.socket, then="family")
    code.jump(_JEQ, calls.socketpair, then="family")
    code.ret(ALLOW)
    code.label("clone").load(_ARG0).jump(_JSET, CLONE_NEW, then="refused").ret(ALLOW)
    code.label("ioctl").load(_ARG1).jump(_JEQ, TIOCSTI, then="refused").jump(_JEQ, TIOCLINUX, then="refused")
    code.ret(ALLOW)
    code.label("family").load(_ARG0)
    for family in sorted({FAMILIES[name] for name in families}):
        code.jump(_JEQ, family, then="netlink" if family == AF_NETLINK else "allowed")
    code.ret(NO_FAMILY)
    code.label("netlink").load(_ARG2).jump(_JEQ, NETLINK_ROUTE, then="allowed").ret(NO_FAMILY)
    code.label("allowed").ret(ALLOW)
    code.label("refused").ret(REFUSED)
    code.label("absent").ret(NO_CALL)
    code.label("kill").ret(KILL_PROCESS)
    return code.assemble()


class _Assembler:
    """Just enough of one: forward labels, fall through otherwise."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, int, str, str]] = []
        self._labels: dict[str, int] = {}

    def load(self, offset: int) -> _Assembler:
        self._lines.append((_LD, offset, "", ""))
        return self

    def jump(self, code: int, value: int, *, then: str = "", otherwise: str = "") -> _Assembler:
        self._lines.append((code, value, then, otherwise))
        return self

    def ret(self, value: int) -> _Assembler:
        self._lines.append((_RET, value, "", ""))
        return self

    def label(self, name: str) -> _Assembler:
        self._labels[name] = len(self._lines)
        return self

    def assemble(self) -> bytes:
        program = bytearray()
        for at, (code, value, then, otherwise) in enumerate(self._lines):
            distances = [self._labels[name] - at - 1 if name else 0 for name in (then, otherwise)]
            program += struct.pack("<HBBI", code, *distances, value)  # refuses what does not fit 8 bits
        return bytes(program)

"""The canary itself: a program for `python -I -S -c`, run in the engine's own namespaces by the supervisor.

It imports the standard library alone, installs the engine's filter on itself before anything else, tries what an engine
that wants out would try, and prints one JSON line with the nonce it was given. It decides nothing: an `outcome` of
"reached" is bad, of "refused" good, and `agent.canary` judges. It talks only to the listeners named on its stdin, which
the supervisor opened on this host for it; never to a real address.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_IO_URING_SETUP = 425
_TIMEOUT = 1.0
_AF_NETLINK = 16
_AF_PACKET = 17
_AF_VSOCK = 40
_NETLINK_SOCK_DIAG = 4


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine(libc: ctypes.CDLL, program: bytes) -> None:
    """Nobody may read this process's memory, nothing executed gains privileges, and the engine's filter holds.

    Root keeps its capabilities where it joins a sandbox that has no uid of its own; the engine has none, so they go.
    """
    if libc.capset((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    calls = [
        (_PR_SET_DUMPABLE, 0, 0, 0, 0),
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(program) // 8, program)), 0, 0),
    ]
    for call in calls:
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def attempt(kind: str, target: str, action: Callable[[], object]) -> dict[str, str]:
    """Do it; success is what must not happen."""
    try:
        said = action()
    except OSError as error:
        detail = errno.errorcode.get(error.errno or 0, str(error))
        return {"kind": kind, "target": target, "outcome": "refused", "detail": detail}
    return {"kind": kind, "target": target, "outcome": "reached", "detail": str(said or "")[:80]}


def send(family: int, kind: int, address: Any, nonce: bytes, *, echoed: bool) -> None:
    with socket.socket(family, kind) as connection:
        connection.settimeout(_TIMEOUT)
        connection.connect(address)
        if echoed and connection.getsockname() == connection.getpeername():
            # The kernel has given it the very port that it asks for, one of 28,000: it would hear itself.
            raise OSError(errno.EADDRINUSE, "nobody is there but this socket")
        connection.sendall(nonce)
        if echoed and connection.recv(len(nonce)) != nonce:
            raise OSError(errno.ENOMSG, "it was not the supervisor's listener")


def reach(target: dict[str, Any], nonce: bytes, families: Sequence[str]) -> dict[str, str]:
    """Try one of the supervisor's listeners, which send the nonce back.

    An engine that may use IPv4 has a loopback of its own, where one of its own ports may happen to have the number of
    the listener's, and where a datagram can be sent to nobody: there only the echo means that this host was reached.
    """
    address: Any = target["address"]
    if target["kind"] == "abstract":
        address = b"\0" + address.encode()
    family, kind = {
        "tcp": (socket.AF_INET, socket.SOCK_STREAM),
        "udp": (socket.AF_INET, socket.SOCK_DGRAM),
        "unix": (socket.AF_UNIX, socket.SOCK_STREAM),
        "abstract": (socket.AF_UNIX, socket.SOCK_STREAM),
        "vsock": (_AF_VSOCK, socket.SOCK_STREAM),
    }[target["kind"]]
    address = tuple(address) if isinstance(address, list) else address
    echoed = family == socket.AF_INET and "inet" in families
    return attempt("connect", target["label"], lambda: send(family, kind, address, nonce, echoed=echoed))


def opened(family: int, kind: int, protocol: int) -> None:
    socket.socket(family, kind, protocol).close()


def sockets(families: Sequence[str]) -> Iterator[dict[str, str]]:
    """Opening a socket of a family that the engine's filter does not allow is already a hole. Where IPv4 is allowed,
    the listeners on this host and the tables of interfaces and routes show that it leads nowhere."""
    stream, datagram, raw = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
    for allowed_as, name, family, kind, protocol in (
        ("inet", "AF_INET", socket.AF_INET, stream, 0),
        ("inet", "AF_INET udp", socket.AF_INET, datagram, 0),
        ("", "AF_INET raw", socket.AF_INET, raw, socket.IPPROTO_ICMP),
        ("", "AF_INET6", socket.AF_INET6, stream, 0),
        ("netlink", "AF_NETLINK", _AF_NETLINK, raw, 0),
        ("", "AF_NETLINK sock_diag", _AF_NETLINK, raw, _NETLINK_SOCK_DIAG),
        ("", "AF_PACKET", _AF_PACKET, raw, 0),
        ("", "AF_VSOCK", _AF_VSOCK, stream, 0),
    ):
        if allowed_as not in families:
            yield attempt("socket", name, partial(opened, family, kind, protocol))


def io_uring(libc: ctypes.CDLL) -> object:
    """A ring could open and connect sockets without a `socket` call."""
    descriptor = libc.syscall(_IO_URING_SETUP, 1, ctypes.create_string_buffer(120))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")
    os.close(descriptor)
    return None


def foreign(path: str, column: int, heading: int) -> dict[str, str]:
    """Lines of a /proc/net table that name any interface but the private loopback."""
    try:
        with open(path, encoding="ascii") as table:  # noqa: PTH123  pathlib would be another import
            rows = [line.split() for line in table.read().splitlines()[heading:]]
    except OSError as error:
        return {
            "kind": "table",
            "target": path,
            "outcome": "refused",
            "detail": errno.errorcode.get(error.errno or 0, ""),
        }
    names = sorted({row[column].rstrip(":") for row in rows if row} - {"lo"})
    outcome = "reached" if names else "refused"
    return {"kind": "table", "target": path, "outcome": outcome, "detail": " ".join(names)[:80] or "loopback only"}


def files() -> Iterator[dict[str, str]]:
    """Nothing of the host's accounts is visible, and nothing but the one folder takes a byte."""
    for path in ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/var", "/home", "/run"):
        yield attempt("read", path, partial(os.stat, path))
    for path in ("/", "/usr/lib", "/model", "/daulat", "/dev", "/tmp"):  # noqa: S108  that is the question
        yield attempt("write", path, partial(write, f"{path}/canary"))


def write(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    os.unlink(path)  # noqa: PTH108


def privileges() -> Iterator[dict[str, str]]:
    """What the kernel says this process still may."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123
        held = dict(line.split(":\t", 1) for line in status.read().splitlines() if ":\t" in line)
    for name, good in (("CapEff", "0" * 16), ("CapPrm", "0" * 16), ("Seccomp", "2"), ("NoNewPrivs", "1")):
        outcome = "refused" if held.get(name) == good else "reached"
        yield {"kind": "privilege", "target": name, "outcome": outcome, "detail": held.get(name, "unknown")}


def main() -> None:
    order = json.loads(sys.stdin.readline())
    libc = ctypes.CDLL(None, use_errno=True)
    confine(libc, base64.b64decode(order["filter"]))
    nonce, families = order["nonce"].encode(), order["families"]
    probes = [reach(target, nonce, families) for target in order["targets"]]
    probes += sockets(families)
    probes.append(attempt("call", "io_uring_setup", lambda: io_uring(libc)))
    probes += [foreign("/proc/net/route", 0, 1), foreign("/proc/net/ipv6_route", 9, 0), foreign("/proc/net/dev", 0, 2)]
    probes += files()
    probes += privileges()
    sys.stdout.write(json.dumps({"nonce": order["nonce"], "probes": probes}) + "\n")


if __name__ == "__main__":
    main()

"""What the canary takes for an echo of this host."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from daulat.agent import probe

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class Unlucky(socket.socket):
    """Gets the port that it connects to, where nobody has it: the kernel may give it that one as well as another."""

    def connect(self, address: Any) -> None:
        self.bind(address)
        super().connect(address)


@pytest.mark.parametrize("kind", KINDS)
def test_who_hears_only_itself_has_reached_nobody(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, KINDS[kind]) as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    monkeypatch.setattr(probe.socket, "socket", Unlucky)
    target = {"kind": kind, "label": kind, "address": list(address)}
    found = probe.reach(target, b"nonce", ("unix", "inet"))
    assert (found["outcome"], found["detail"]) == ("refused", errno.errorcode[errno.EADDRINUSE])


def test_who_is_answered_has_reached_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))

        class Heard(socket.socket):
            """What it sends is answered before it listens."""

            def sendall(self, data: Any, *flags: int) -> None:
                super().sendall(data, *flags)
                listener.sendto(*listener.recvfrom(100))

        monkeypatch.setattr(probe.socket, "socket", Heard)
        target = {"kind": "udp", "label": "udp", "address": list(listener.getsockname())}
        assert probe.reach(target, b"nonce", ("unix", "inet"))["outcome"] == "reached"

"""The filter, the canary's judge, and when an engine is given up on."""

from __future__ import annotations

import errno
import json
import struct

import pytest

from daulat.agent import canary, seccomp
from daulat.agent.supervise import Backoff, HangWatch, loading_progress, memory_overrun
from daulat.errors import ConfigError

MACHINES = list(seccomp.AUDIT_ARCH)


def run(program: bytes, *, arch: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """A classic BPF interpreter, written against linux/filter.h and independent of the assembler."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(arguments + (0,) * (6 - len(arguments))))
    lines = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator = position = 0
    while True:
        code, yes, no, value = lines[position]
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return int(value)
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            position += yes if holds else no


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_says_what_it_should_of_every_call(machine: str) -> None:
    program, arch = seccomp.build(machine), seccomp.AUDIT_ARCH[machine]
    denied, judged = set(seccomp.numbers(machine).values()), seccomp.CALLS[machine]
    special = {judged.socket, judged.socketpair, judged.clone, judged.clone3, judged.ioctl}
    for number in range(700):
        said = run(program, arch=arch, number=number)
        if number in special:
            continue
        if number > seccomp.NEWEST_KNOWN:
            assert said == seccomp.NO_CALL
        else:
            assert said == (seccomp.REFUSED if number in denied else seccomp.ALLOW), number


@pytest.mark.parametrize("machine", MACHINES)
def test_sockets_clones_and_terminals_are_judged_by_their_arguments(machine: str) -> None:
    program, arch, calls = seccomp.build(machine), seccomp.AUDIT_ARCH[machine], seccomp.CALLS[machine]

    def said(number: int, *arguments: int) -> int:
        return run(program, arch=arch, number=number, arguments=arguments)

    for call in (calls.socket, calls.socketpair):
        assert said(call, seccomp.AF_UNIX) == seccomp.ALLOW
        for family in (0, 2, 10, 16, 17, 31, 38, 40, 44, 2**31):  # inet, inet6, netlink, packet, bluetooth, alg, vsock
            assert said(call, family) == seccomp.NO_FAMILY
        assert said(call, 2 + 2**32) == seccomp.NO_FAMILY  # the kernel reads an int
        assert said(call, 1 + 2**32) == seccomp.ALLOW
    assert said(calls.clone, 0x3D0F00) == seccomp.ALLOW  # a thread
    for flag in (0x10000000, 0x20000000, 0x40000000, 0x00020000):
        assert said(calls.clone, 0x3D0F00 | flag) == seccomp.REFUSED
    assert said(calls.clone3) == seccomp.NO_CALL
    assert said(calls.ioctl, 0, seccomp.TIOCSTI) == seccomp.REFUSED
    assert said(calls.ioctl, 0, 0x5401) == seccomp.ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_a_family_that_an_engine_needs_is_allowed_and_no_other(machine: str) -> None:
    calls, arch = seccomp.CALLS[machine], seccomp.AUDIT_ARCH[machine]
    inet, routing, diagnosing = (2, 1, 6), (16, 3, 0), (16, 3, 4)  # family, type, protocol
    for families, allowed in (
        (("unix",), []),
        (("unix", "inet"), [inet]),
        (("unix", "inet", "netlink"), [inet, routing]),
    ):
        program = seccomp.build(machine, families)
        said = {
            sort: run(program, arch=arch, number=calls.socket, arguments=sort)
            for sort in (inet, routing, diagnosing, (10, 1, 0), (40, 1, 0))
        }
        assert [sort for sort, verdict in said.items() if verdict == seccomp.ALLOW] == allowed
        assert set(said.values()) <= {seccomp.ALLOW, seccomp.NO_FAMILY}
        assert run(program, arch=arch, number=calls.socketpair, arguments=(1, 1, 0)) == seccomp.ALLOW
    with pytest.raises(ConfigError, match="no engine may open vsock sockets"):
        seccomp.build(machine, ("unix", "vsock"))


def test_other_machines_calls_end_the_process() -> None:
    program = seccomp.build("x86_64")
    assert run(program, arch=0x40000003, number=1) == seccomp.KILL_PROCESS  # i386
    assert run(program, arch=seccomp.AUDIT_ARCH["x86_64"], number=seccomp.X32_BIT | 1) == seccomp.NO_CALL
    with pytest.raises(ConfigError, match="riscv64"):
        seccomp.build("riscv64")


NONCE = "ab" * 16
FINE = {"kind": "socket", "target": "AF_INET", "outcome": "refused", "detail": "EAFNOSUPPORT"}
BAD = {**FINE, "outcome": "reached"}


def answer(*probes: dict[str, str], nonce: str = NONCE) -> bytes:
    return json.dumps({"nonce": nonce, "probes": list(probes)}).encode()


@pytest.mark.parametrize(
    ("said", "heard", "kernel", "outcome"),
    [
        (answer(FINE), (), [FINE], "contained"),
        (answer(FINE, BAD), (), [FINE], "escaped"),
        (answer(FINE), ("tcp",), [FINE], "escaped"),
        (answer(FINE), (), [BAD], "escaped"),
        (answer({**FINE, "outcome": "perhaps"}), (), [], "escaped"),
        (None, (), [FINE], "silent"),
        (b"", (), [FINE], "silent"),
        (answer(FINE, nonce="0" * 32), (), [FINE], "silent"),  # yesterday's answer
        (answer(), (), [FINE], "silent"),
        (b'{"nonce":"' + NONCE.encode() + b'","probes":[{"kind":1}]}', (), [], "silent"),
        (answer(*[FINE] * 65), (), [], "silent"),
        (b"[" * 50_000, (), [], "silent"),
        (None, ("udp",), [], "escaped"),  # what was heard counts even when the canary says nothing
    ],
)
def test_one_success_is_an_escape_and_no_valid_answer_is_silence(
    said: bytes | None, heard: tuple[str, ...], kernel: list[dict[str, str]], outcome: str
) -> None:
    assert canary.judge(NONCE, said, frozenset(heard), kernel).outcome == outcome


def test_two_silent_rounds_in_a_row_count_as_an_escape() -> None:
    silent, fine = canary.judge(NONCE, None, frozenset(), []), canary.judge(NONCE, answer(FINE), frozenset(), [])
    counting = canary.Silence()
    assert [counting.broken_out(round_) for round_ in (silent, fine, silent, silent)] == [False, False, False, True]
    assert canary.Silence().broken_out(canary.judge(NONCE, answer(BAD), frozenset(), []))


def test_summaries_name_every_target_once() -> None:
    probes = [{**FINE, "target": name} for name in ("a", "b")] + [BAD]
    found = canary.summary(probes)
    assert [probe["target"] for probe in found] == ["a, b", "AF_INET"]


def test_back_off_doubles_and_a_steady_engine_starts_it_anew() -> None:
    backoff = Backoff()
    assert [backoff.after(1.0) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff.after(301.0) == 0.5


def test_a_busy_engine_is_not_hung_and_an_idle_silent_one_is() -> None:
    watch = HangWatch(0.0, 0.0)
    assert watch.see(now=10.0, healthy=False, cpu=0.0) is None
    assert "no health answer for 13 s, and it computes nothing" in str(watch.see(now=13.0, healthy=False, cpu=0.05))
    assert watch.see(now=15.0, healthy=False, cpu=2.0) is None  # a long prefill
    assert watch.see(now=20.0, healthy=False, cpu=7.0) is None
    assert "hung" in str(watch.see(now=91.0, healthy=False, cpu=78.0))
    assert watch.see(now=92.0, healthy=True, cpu=78.0) is None
    assert watch.see(now=100.0, healthy=False, cpu=78.0) is None


def test_what_an_engine_computed_before_it_stopped_does_not_speak_for_it() -> None:
    watch = HangWatch(0.0, 0.0)
    assert watch.see(now=2.0, healthy=True, cpu=3.0) is None
    assert watch.see(now=9.0, healthy=False, cpu=5.9) is None  # it stopped in between, after three busy seconds
    assert watch.see(now=16.0, healthy=False, cpu=5.9) is None  # silent for 14 s, of which it computed some
    assert "hung: no health answer for 21 s, and it" in str(watch.see(now=23.0, healthy=False, cpu=5.9))


def test_memory_and_loading() -> None:
    assert memory_overrun(101, 100) == "memory: 101 MiB resident, 100 allowed"
    assert memory_overrun(101, 0) is None
    assert memory_overrun(99, 100) is None
    assert [loading_progress(part, 100) for part in (0, 50, 100, 200)] == [0.0, 0.5, 0.99, 0.99]
    assert loading_progress(5, 0) == 0.0
    assert errno.EAFNOSUPPORT == seccomp.NO_FAMILY & 0xFFFF

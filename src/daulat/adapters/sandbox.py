"""bubblewrap: a process with namespaces of its own, no network, one writable folder, and a system call filter.

As an ordinary user bubblewrap makes a user namespace. As root it makes none: the program inside takes a uid of its own
(`Jail.uid`) and only the capabilities for that step are left to it, which the step itself ends. `--dev` is never used:
it makes a second, nested user namespace that `nsenter` may not enter, so devices are bound one by one. bubblewrap
gives a mount point's missing parents mode 0700, so every parent is made explicitly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import shutil
import signal
import stat
import sys
import sysconfig
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from daulat.errors import EngineDead

WRITABLE: Final = "/engine"  # where the one writable folder stands inside
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/urandom")
_UIDS: Final = range(61_000, 61_184)  # between systemd-homed's and systemd's DynamicUser ranges
_NAMESPACES: Final = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
_START_SECONDS: Final = 10.0
_CHECK_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.002
_ENDED_SECONDS: Final = 0.05
_PIPES_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Jail:
    """What a sandboxed program sees. `uid`: its own, taken by the program itself; None: the caller's."""

    program: tuple[str, ...]
    read_only: tuple[tuple[Path, str], ...]  # (here, inside)
    writable: Path | None
    uid: int | None
    unshare: tuple[str, ...] = _NAMESPACES
    hidden: tuple[str, ...] = ()  # folders inside that are covered by empty ones
    devices: tuple[str, ...] = ()  # beside the harmless ones: an accelerator's
    environment: tuple[tuple[str, str], ...] = ()  # all of it
    shared_memory: bool = False  # a private /dev/shm, for engines of several processes
    families: tuple[str, ...] = ("unix",)  # of sockets, as the filter allows (agent.seccomp.FAMILIES)


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """Whether engines can be sandboxed here: the grade, what was seen, and what to do when it is G1."""

    grade: str
    detail: str
    advice: str = ""


@dataclass(slots=True)
class Sandboxed:
    """A running sandbox. `first` is its pid 1, seen from here; the program is that process's child."""

    process: asyncio.subprocess.Process
    first: int
    uid: int | None
    facts: dict[str, Any] = field(default_factory=dict)
    _tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Hold on to a task that must live as long as the sandbox."""
        self._tasks.append(task)

    def program_pid(self) -> int | None:
        """The host's pid of the program, once it runs."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/{self.first}/task/{self.first}/children").read_text().split()[0])
        return None

    def status(self) -> dict[str, str]:
        """The program's `/proc/<pid>/status`, as this host's kernel states it."""
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{self.program_pid()}/status").read_text().splitlines()
            return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return {}

    def namespaces(self) -> dict[str, bool]:
        """By kind, whether the sandbox's namespace differs from this process's."""
        found = {}
        for kind in ("ipc", "mnt", "net", "pid", "uts"):
            with contextlib.suppress(OSError):
                here, there = (Path(f"/proc/{pid}/ns/{kind}").readlink() for pid in ("self", self.first))
                found[kind] = here != there
        return found

    def joined(self, program: Sequence[str]) -> list[str]:
        """The command that runs `program` in every namespace of this sandbox, without capabilities."""
        return joined(self.first, program, root=os.getuid() == 0, uid=self.uid)

    def kernel(self) -> list[dict[str, str]]:
        """What this host's kernel says of the program itself; nothing when it is gone."""
        status = self.status()
        if not status:
            return []
        held = [("CapEff", "0" * 16), ("Seccomp", "2"), ("NoNewPrivs", "1")]
        seen = [(name, status.get(name) == good, status.get(name, "unknown")) for name, good in held]
        seen += [(f"{kind} namespace", apart, "") for kind, apart in self.namespaces().items()]
        return [
            {"kind": "kernel", "target": name, "outcome": "refused" if good else "reached", "detail": detail}
            for name, good, detail in seen
        ]

    def pids(self) -> list[int]:
        """The host's pids of everything inside but pid 1: the program, and whatever processes it has started."""
        found, parents = list[int](), [self.first]
        while parents:
            children = _children(parents.pop())
            found += children
            parents += children
        return found

    def resident_bytes(self) -> int:
        """Memory in RAM of everything inside, the mapped model included; what processes may share counts once."""
        own = shared = 0
        for pid in self.pids():
            kib = _memory(pid)
            own += kib.get("RssAnon", 0)
            shared = max(shared, kib.get("RssFile", 0) + kib.get("RssShmem", 0))
        return (own + shared) * 1024

    def cpu_seconds(self) -> float:
        """Processor time that everything inside has used; what has ended counts with whoever waited for it."""
        return sum(_ticks(pid) for pid in self.pids()) / os.sysconf("SC_CLK_TCK")

    async def ended(self) -> int:
        """The exit code, as soon as there is one.

        `process.wait` also waits until the pipes are closed (CPython 3.11), and whatever the program has started holds
        them open for seconds after a crash.
        """
        while self.process.returncode is None:  # noqa: ASYNC110  asyncio tells of it only with the pipes
            await asyncio.sleep(_ENDED_SECONDS)
        return self.process.returncode

    async def stop(self, seconds: float) -> None:
        """End the program politely, and everything inside after `seconds`."""
        if (pid := self.program_pid()) is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                await self._over()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End everything inside at once: the kernel ends a pid namespace with its pid 1."""
        for pid in (self.first, self.process.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        await self._over()

    async def _over(self) -> None:
        """Ended, and its pipes closed as well if that does not take long: open ones complain when the loop ends."""
        await self.ended()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PIPES_SECONDS):
                await self.process.wait()


def _children(pid: int) -> list[int]:
    found = list[int]()
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, thread.read_text().split())
    return found


def _memory(pid: int) -> dict[str, int]:
    """The `Rss...` lines of `/proc/<pid>/status`, in KiB."""
    with contextlib.suppress(OSError):
        pairs = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return {name: int(value.split()[0]) for name, _, value in pairs if name.startswith("Rss")}
    return {}


def _ticks(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15]))  # utime, stime, and those of children that were waited for
    return 0


def interpreter() -> str:
    """The real interpreter behind a virtual environment: nothing of the environment is needed inside."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    return os.path.realpath(base)


def system_files() -> tuple[tuple[Path, str], ...]:
    """Shared libraries, the loader's cache, the interpreter and its standard library, each at its own path."""
    wanted = [Path("/usr/lib"), Path("/usr/lib64"), Path("/lib"), Path("/lib64"), Path("/etc/ld.so.cache")]
    base = {"platbase": sys.base_exec_prefix, "base": sys.base_prefix}  # not a virtual environment's
    wanted += [Path(sysconfig.get_path(name, vars=base)).parent for name in ("stdlib", "platstdlib")]
    wanted.append(Path(interpreter()))
    kept: list[Path] = []
    for path in wanted:
        inside_another = any(path.is_relative_to(other) for other in kept if not other.is_symlink())
        if path.exists() and not inside_another:
            kept.append(path)
    return tuple((path, str(path)) for path in kept)


def covered() -> tuple[str, ...]:
    """Folders of other people's packages beside the standard library."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    return tuple(str(path) for name in ("site-packages", "dist-packages") if (path := stdlib / name).is_dir())


def own_uid(name: str, needs: Iterable[Path]) -> int | None:
    """A uid that only the sandbox `name` has, the same each time; None where none can be had.

    It needs root, and files that everybody may read: the program inside is nobody's user.
    """
    if os.getuid() != 0 or not all(_readable_by_all(path) for path in needs):
        return None
    start = zlib.crc32(name.encode()) % len(_UIDS)
    for step in range(len(_UIDS)):
        uid = _UIDS[(start + step) % len(_UIDS)]
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid
    return None


def _readable_by_all(path: Path) -> bool:
    mode = path.stat().st_mode
    needed = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
    return mode & needed == needed


def arguments(jail: Jail, *, root: bool, info: int, seccomp: int | None) -> list[str]:
    """bubblewrap's command line. Pure but for looking at which host paths are symbolic links."""
    line = ["bwrap", *jail.unshare]
    if root:
        line += ["--cap-drop", "ALL"]
        if jail.uid is not None:
            line += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        line += ["--unshare-user"]
    line += ["--die-with-parent", "--new-session", "--clearenv"]
    if "--unshare-uts" in jail.unshare:
        line += ["--hostname", "engine"]
    for name, value in jail.environment:
        line += ["--setenv", name, value]
    line += _mounts(jail)
    line += ["--proc", "/proc"]
    if jail.writable is not None:
        line += ["--bind", str(jail.writable), WRITABLE]
    line += ["--remount-ro", "/", "--chdir", "/", "--info-fd", str(info)]
    if seccomp is not None:
        line += ["--seccomp", str(seccomp)]
    return [*line, "--", *jail.program]


def _mounts(jail: Jail) -> Iterator[str]:
    """The read-only file system, every parent explicit, and the devices."""
    devices = (*_DEVICES, *jail.devices)
    targets = [inside for _, inside in jail.read_only] + [*devices]
    for folder in sorted({str(parent) for target in targets for parent in Path(target).parents} - {"/"}):
        yield from ("--perms", "0755", "--dir", folder)
    for here, inside in jail.read_only:
        if here.is_symlink() and str(here) == inside:
            yield from ("--symlink", str(here.readlink()), inside)
        else:
            yield from ("--ro-bind", str(here), inside)
    for folder in jail.hidden:
        yield from ("--tmpfs", folder, "--remount-ro", folder)
    for device in devices:
        yield from ("--dev-bind", device, device)
    if jail.shared_memory:
        yield from ("--perms", "1777", "--tmpfs", "/dev/shm")  # noqa: S108  inside, and nobody else's


def joined(first: int, program: Sequence[str], *, root: bool, uid: int | None) -> list[str]:
    """The command that runs `program` in every namespace of the sandbox whose pid 1 is `first`."""
    line = ["nsenter", "--target", str(first), "--mount", "--uts", "--ipc", "--net", "--pid"]
    if not root:
        line += ["--user", "--preserve-credentials"]
    elif uid is not None:
        line += ["--setuid", str(uid), "--setgid", str(uid)]
    return [*line, "--", *program]


async def start(jail: Jail, *, bpf: bytes | None, **streams: Any) -> Sandboxed:
    """Start a sandbox and wait until its namespaces exist.

    Raises:
        EngineDead: bubblewrap could not; its own words are in the message.
    """
    root = os.getuid() == 0
    if jail.writable is not None:
        prepare_folder(jail.writable, jail.uid)
    # A file, not a pipe: when we are gone, nothing that bubblewrap writes may end it before it has set its child going.
    info = _as_file(b"")
    program = _as_file(bpf) if bpf is not None else None
    handed = [info] if program is None else [info, program]
    spawning = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *arguments(jail, root=root, info=info, seccomp=program),
            pass_fds=handed,
            start_new_session=True,  # a Ctrl-C at our terminal is ours to handle, not the engine's
            **streams,
        )
    )
    try:
        process = await asyncio.shield(spawning)
        async with asyncio.timeout(_START_SECONDS):
            first = await _first(process, info)
    except FileNotFoundError:
        raise EngineDead(f"bubblewrap is missing: {_install()}") from None
    except (TimeoutError, ValueError, KeyError):
        _abandon(process)
        said = await process.stderr.read() if process.stderr is not None else b""
        await process.wait()
        raise EngineDead(f"bubblewrap failed: {said.decode(errors='replace').strip() or 'without a word'}") from None
    except BaseException:
        _abandon(await spawning)
        raise
    finally:
        for descriptor in handed:
            os.close(descriptor)
    facts = {
        "tool": "bubblewrap",
        "namespaces": sorted(kind.removeprefix("--unshare-").removesuffix("-try") for kind in jail.unshare)
        + ([] if root else ["user"]),
        "own_uid": jail.uid is not None,
        "seccomp": bpf is not None,
        "capabilities": "none",
        "network": "none" if "--unshare-net" in jail.unshare else "host",
        "socket_families": list(jail.families),
        "file_system": "read-only",
    }
    sandboxed = Sandboxed(process, first, jail.uid, facts)
    try:
        await _set_up(sandboxed)
    except BaseException:
        await sandboxed.kill()
        raise
    return sandboxed


async def _first(process: asyncio.subprocess.Process, info: int) -> int:
    """The host's pid of the sandbox's pid 1, as soon as bubblewrap has written it."""
    while True:
        said = os.pread(info, 65_536, 0)
        if said.rstrip().endswith(b"}") or process.returncode is not None:
            return int(json.loads(said)["child-pid"])
        await asyncio.sleep(_POLL_SECONDS)


def _abandon(process: asyncio.subprocess.Process) -> None:
    """End a bubblewrap that is still setting up, and what it has forked, which dies with it only later.

    Stopped, it forks no other meanwhile.
    """
    pid = process.pid
    with contextlib.suppress(ProcessLookupError, PermissionError, ChildProcessError):
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    for each in (*_children(pid), pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()


async def _set_up(sandboxed: Sandboxed) -> None:
    """Wait for the program itself: bubblewrap names its pid 1 before the mounts are made, and who joins then sees none.

    A sandbox that ends meanwhile is for whoever watches the process.
    """
    deadline = time.monotonic() + _START_SECONDS
    while sandboxed.program_pid() is None and sandboxed.process.returncode is None:
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(_POLL_SECONDS)


def prepare_folder(folder: Path, uid: int | None) -> None:
    """Make the one writable folder, empty, for the sandbox's uid alone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    if uid is not None:
        os.chown(folder, uid, uid)


def _as_file(data: bytes) -> int:
    """An unlinked file holding `data`, read from its start by whoever inherits it."""
    descriptor = os.memfd_create("bubblewrap")
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def check() -> SandboxReport:
    """Try it: start a sandbox here and join it, as an engine and its canary would be."""
    if missing := [tool for tool in ("bwrap", "nsenter") if shutil.which(tool) is None]:
        return SandboxReport("G1", f"{' and '.join(missing)} not found", _install())
    return asyncio.run(_try())


async def _try() -> SandboxReport:
    root = os.getuid() == 0
    inside = "import sys; sys.stdin.read()"
    jail = Jail((interpreter(), "-I", "-S", "-c", inside), system_files(), None, None)
    pipe = asyncio.subprocess.PIPE
    try:
        sandboxed = await start(jail, bpf=None, stdin=pipe, stdout=pipe, stderr=pipe)
    except EngineDead as error:
        return SandboxReport("G1", error.message, _allow())
    try:
        line = joined(sandboxed.first, (interpreter(), "-I", "-S", "-c", "print('joined')"), root=root, uid=None)
        canary = await asyncio.create_subprocess_exec(*line, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe)
        async with asyncio.timeout(_CHECK_SECONDS):
            said, complained = await canary.communicate()
        apart = sandboxed.namespaces()
    except TimeoutError:
        return SandboxReport("G1", "the sandbox did not answer", _allow())
    finally:
        await sandboxed.kill()
    if said != b"joined\n" or not all(apart.values()):
        return SandboxReport("G1", f"cannot join the sandbox: {complained.decode(errors='replace').strip()}", _allow())
    how = "as root: engines get a uid of their own" if root else "as an ordinary user, by a user namespace"
    return SandboxReport("G2", f"bubblewrap works {how}")


def _install() -> str:
    commands = {
        "apt-get": "apt-get install -y --no-install-recommends bubblewrap util-linux",
        "dnf": "dnf install -y bubblewrap util-linux",
        "pacman": "pacman -S --noconfirm bubblewrap util-linux",
        "zypper": "zypper install -y bubblewrap util-linux",
    }
    prefix = "" if os.getuid() == 0 else "sudo "
    found = next((line for tool, line in commands.items() if shutil.which(tool)), None)
    return prefix + found if found else "install bubblewrap and util-linux with your package manager"


def _allow() -> str:
    return (
        " and ".join(_obstacles())
        or "run Daulat as root, or where user namespaces are allowed (not in a locked container)"
    )


def _obstacles() -> Iterator[str]:
    for name, bad in (
        ("kernel.unprivileged_userns_clone", "0"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
        ("user.max_user_namespaces", "0"),
    ):
        path = Path("/proc/sys") / name.replace(".", "/")
        with contextlib.suppress(OSError):
            if path.read_text().strip() == bad:
                yield f"sudo sysctl {name}={'15000' if name.startswith('user.') else str(1 - int(bad))}"

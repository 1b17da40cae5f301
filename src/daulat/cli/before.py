"""What must be in order before anything is started: each failure is one line that says what to do."""

from __future__ import annotations

import shutil
import socket

from daulat.adapters import log_files
from daulat.adapters.log_files import LogFolder
from daulat.core import charter as charter_core
from daulat.core.files import text_of
from daulat.errors import ConfigError
from daulat.policy import bundle
from daulat.processes.starting import write_starter_charter
from daulat.settings import Home, Settings


def charter_and_rules(home: Home) -> bool:
    """Check both; whether the charter was written here and now, by this first start.

    Raises:
        ConfigError: one of them is wrong, or the charter is not that of the log in this home.
    """
    there = published(home)
    if there and not home.charter.exists():
        said = "is missing, and a log stands here: put it back (its text is in the log: `daulat log show 0`)"
        raise ConfigError(said, location=str(home.charter))
    first = write_starter_charter(home)
    charter = charter_core.parse(text_of(home.charter), location=str(home.charter))
    name = there.rpartition("/")[0]
    if name not in {"", charter.name}:
        said = f"name is {charter.name!r}, and the log here is called {name!r}: a log's name never changes, put it back"
        raise ConfigError(said, location=f"{home.charter}, [log]")
    bundle.load(home.policies)
    return first


def published(home: Home) -> str:
    """The origin of the log in force; empty where there is none yet. Whether it can be trusted is others' business."""
    period = log_files.current_period(home.log)
    checkpoint = LogFolder(home.log / period).published() if period else b""
    return checkpoint.partition(b"\n")[0].decode(errors="replace")


def port(settings: Settings) -> None:
    """It must be free.

    Raises:
        ConfigError: it is not, or this user may not have it.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); "
                "choose another port: daulat up --port N"
            ) from None


def bubblewrap() -> None:
    """It must be there.

    Raises:
        ConfigError: it is not; with the command that installs it.
    """
    if shutil.which("bwrap") is None:
        raise ConfigError(
            "bubblewrap is not installed, and the starter charter serves only from sandboxed engines. "
            "Install it: sudo apt-get install -y --no-install-recommends bubblewrap"
        )

"""What may be set from outside, read once: `settings.toml` in the home, `DAULAT_*` in the environment, flags on top."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from daulat.errors import ConfigError

_SOCKET_PATH_MAX: Final = 107  # sun_path less its NUL
_LONGEST_NAME: Final = len("/engine-0123456789abcdef/e.sock")


@dataclass(frozen=True, slots=True)
class Home:
    """Where everything of one installation lives. Nothing else on the machine is written."""

    path: Path

    @property
    def run(self) -> Path:
        """Sockets and the snapshot; under /tmp when the home's path is too long for a socket address."""
        inside = self.path / "run"
        if len(os.fsencode(inside)) + _LONGEST_NAME <= _SOCKET_PATH_MAX:
            return inside
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return Path(f"/tmp/daulat-{os.getuid()}-{digest}")  # noqa: S108  made 0700 and owner-checked by `prepare`

    @property
    def charter(self) -> Path:
        return self.path / "charter.toml"

    @property
    def settings(self) -> Path:
        return self.path / "settings.toml"

    @property
    def policies(self) -> Path:
        """The operator's own `.cedar` files, added to those shipped."""
        return self.path / "policies"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def keys(self) -> Path:
        """Private keys, mode 0700. Only the sequencer reads `log.key`."""
        return self.path / "keys"

    @property
    def vkey(self) -> Path:
        """The log's public key, a C2SP vkey line."""
        return self.path / "log.vkey"

    @property
    def control_db(self) -> Path:
        return self.path / "control.db"

    @property
    def sequencer_db(self) -> Path:
        """The checkpoint's second place."""
        return self.path / "sequencer.db"

    @property
    def index_db(self) -> Path:
        """request id -> log index: a projection of the log that can be dropped."""
        return self.path / "index.db"

    @property
    def snapshot(self) -> Path:
        return self.run / "snapshot"

    @property
    def control_socket(self) -> Path:
        return self.run / "control.sock"

    @property
    def sequencer_socket(self) -> Path:
        return self.run / "sequencer.sock"

    @property
    def pages_socket(self) -> Path:
        return self.run / "pages.sock"

    def engine(self, replica: str) -> Path:
        """The one folder an engine may write: its socket and saved slots."""
        return self.run / f"engine-{replica}"

    def prepare(self) -> None:
        """Create the folders, private to this user.

        Raises:
            ConfigError: the home or run folder belongs to another user.
        """
        for path in (self.path, self.run, self.keys, self.log, self.journal, self.models, self.policies):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.stat().st_uid != os.getuid():
                raise ConfigError("belongs to another user; choose another --home", location=str(path))
        for path in (self.path, self.run, self.keys):
            path.chmod(0o700)


@dataclass(frozen=True, slots=True)
class Settings:
    """How the machine runs the service; what it promises is the charter's. 0 means: choose by the machine."""

    host: str = "127.0.0.1"
    port: int = 8470
    url: str = ""  # how clients reach the service, when not http://host:port
    workers: int = 0
    model: str = ""  # path of a GGUF file; empty: the starter model
    threads: int = 0  # engine compute threads
    slots: int = 4
    context: int = 0  # tokens per slot
    engine_memory_mib: int = 0  # the engine is restarted beyond this
    canary_seconds: int = 60
    log_period: str = ""  # name of the log's shard; empty: the year of the first start


def default_home() -> Path:
    """`$DAULAT_HOME`, else `daulat` under `$XDG_DATA_HOME` (XDG Base Directory Specification)."""
    if named := os.environ.get("DAULAT_HOME"):
        return Path(named).absolute()
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base).absolute() / "daulat"


def load(home: Home, flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Settings:
    """Defaults, then `settings.toml`, then `DAULAT_<NAME>`, then flags that are not None.

    Raises:
        ConfigError: an unknown key or variable, or a value of the wrong type; says which are known.
    """
    fields = {field.name: type(field.default) for field in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    if home.settings.exists():
        try:
            values.update(tomllib.loads(home.settings.read_text()))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"not valid TOML: {error}", location=str(home.settings)) from None
    for name, text in environ.items():
        if name.startswith("DAULAT_") and name != "DAULAT_HOME":
            values[name.removeprefix("DAULAT_").lower()] = text
    values.update({name: value for name, value in flags.items() if value is not None})
    if unknown := sorted(set(values) - set(fields)):
        raise ConfigError(f"unknown settings {unknown}; known are {sorted(fields)}", location=str(home.settings))
    return Settings(**{name: _typed(name, value, fields[name]) for name, value in values.items()})


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind is int and isinstance(value, str) and value.isdecimal():
        return int(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ConfigError(f"setting {name} is {value!r}, expected a {kind.__name__}")
    return value

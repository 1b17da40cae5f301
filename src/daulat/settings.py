"""What may be set from outside, read once: `settings.toml` in the home, `DAULAT_*` in the environment, flags on top."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final

from daulat.errors import ConfigError

_SOCKET_PATH_MAX: Final = 107  # sun_path less its NUL
_LONGEST_NAME: Final = len("/engine-0123456789abcdef/e.sock")
_NOT_SETTINGS: Final = frozenset({"DAULAT_HOME", "DAULAT_API_KEY"})  # where the home is; what clients' verbs send


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
    def ceremony(self) -> Path:
        """The key ceremony, once it was finished: the names of those in the room stand here alone."""
        return self.path / "ceremony.json"

    @property
    def notices(self) -> Path:
        """What people were told at once, a JSON object a line."""
        return self.path / "notices.jsonl"

    @property
    def settings(self) -> Path:
        return self.path / "settings.toml"

    @property
    def signin(self) -> Path:
        """Where people sign in (`identity.providers`). Without it, nobody does."""
        return self.path / "signin.toml"

    @property
    def identity_key(self) -> Path:
        """The key of the hashes by which people are found again."""
        return self.keys / "identity.key"

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
    def control_elsewhere(self) -> Path:
        """There once the control database is no file of the home: nobody starts with an empty one by mistake."""
        return self.path / "control.elsewhere"

    @property
    def sequencer_db(self) -> Path:
        """The checkpoint's second place."""
        return self.path / "sequencer.db"

    @property
    def index_db(self) -> Path:
        """request id -> log index: a projection of the log that can be dropped."""
        return self.path / "index.db"

    @property
    def usage_db(self) -> Path:
        """Use by day, tenant, key and model: a projection of the log that can be dropped."""
        return self.path / "usage.db"

    @property
    def prices(self) -> Path:
        """What tokens cost; absent: nothing."""
        return self.path / "prices.toml"

    @property
    def vault(self) -> Path:
        """What is kept for people, sealed, and the wrapped keys. Only the vault process goes there."""
        return self.path / "vault"

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
    def signin_socket(self) -> Path:
        return self.run / "signin.sock"

    @property
    def pages_socket(self) -> Path:
        return self.run / "pages.sock"

    @property
    def vault_socket(self) -> Path:
        return self.run / "vault.sock"

    @property
    def vault_pages_socket(self) -> Path:
        return self.run / "kept.sock"

    @property
    def vault_beat(self) -> Path:
        """Touched every second while the vault can keep something."""
        return self.run / "vault-open"

    def engine(self, replica: str) -> Path:
        """The one folder an engine may write: its socket and saved slots."""
        return self.run / f"engine-{replica}"

    def prepare(self) -> None:
        """Create the folders, private to this user.

        Raises:
            ConfigError: a folder belongs to another user or cannot be made; says which and why.
        """
        path = self.path
        try:
            inside = (self.keys, self.log, self.journal, self.models, self.policies, self.vault)
            for path in (self.path, self.run, *inside):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                if path.stat().st_uid != os.getuid():
                    raise ConfigError("belongs to another user; choose another --home", location=str(path))
            for path in (self.path, self.run, self.keys, self.vault):
                path.chmod(0o700)
        except OSError as error:
            said = f"cannot be made ({error.strerror}); choose another --home, or make it yours"
            raise ConfigError(said, location=str(path)) from None

    def clear_run(self) -> None:
        """Remove sockets and engines' folders of the last run. Only for whoever holds the home's lock."""
        for path in self.run.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


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
    verify_seconds: int = 3600  # between two checks of a running model's files
    answer_seconds: int = 600  # how often a replica's answers are checked
    device_seconds: int = 30  # how often the health of accelerators is read
    trusted_proxies: str = ""  # networks of the proxies in front, comma between: whose X-Forwarded-For is believed
    notice_url: str = ""  # a web hook that is told at once when glass was broken
    notice_command: str = ""  # a command that is, on its standard input
    vault_root: str = ""  # what seals the vault's keys; empty: a key in a file, under a passphrase
    vault_secret_file: str = ""  # the root's passphrase, PIN or token; empty: a passphrase that the first start makes
    vault_storage: str = ""  # where sealed objects lie; empty: a folder of the home
    vault_storage_country: str = ""  # where that is, for a bucket whose region says no country that is known
    vault_storage_secret_file: str = ""  # a bucket's access key id and secret, on one line
    vault_person_mib: int = 1024  # what one person may keep
    vault_file_mib: int = 512  # how large a file may be
    database: str = ""  # URL of the control database in PostgreSQL, without a password; empty: `control.db` in the home
    log_period: str = ""  # name of the log's shard; empty: the year of the first start


_MANY: Final = 2**31 - 1
_BOUNDS: Final = {
    "port": (1, 65_535),
    "workers": (0, 256),
    "threads": (0, 1024),
    "slots": (1, 256),
    "canary_seconds": (1, 1200),
    "verify_seconds": (1, 86_400),
    "answer_seconds": (1, 86_400),
    "device_seconds": (1, 3600),
    "vault_person_mib": (1, 1_048_576),
    "vault_file_mib": (1, 1_048_576),
}


def networks(words: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Networks with commas between them.

    Raises:
        ConfigError: one is none; says which, and how it is written.
    """
    try:
        return tuple(ip_network(word.strip()) for word in words.split(",") if word.strip())
    except ValueError as error:
        raise ConfigError(f"trusted_proxies is {words!r}, expected such as '10.0.0.0/8, ::1': {error}") from None


def default_home() -> Path:
    """`$DAULAT_HOME`, else `daulat` under `$XDG_DATA_HOME` (XDG Base Directory Specification)."""
    if named := os.environ.get("DAULAT_HOME"):
        return Path(named).absolute()
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base).absolute() / "daulat"


def load(home: Home, flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Settings:
    """Defaults, then `settings.toml`, then `DAULAT_<NAME>`, then flags that are not None.

    Raises:
        ConfigError: an unknown key or variable, or a value of the wrong type or size; says where, and what is right.
    """
    named = {name: text for name, text in environ.items() if name.startswith("DAULAT_") and name not in _NOT_SETTINGS}
    given = [
        *((name, value, str(home.settings)) for name, value in _file(home.settings).items()),
        *((name.removeprefix("DAULAT_").lower(), text, f"environment, {name}") for name, text in named.items()),
        *((name, value, f"--{name}") for name, value in flags.items() if value is not None),
    ]
    settings = Settings(**{name: _checked(name, value, location) for name, value, location in given})
    networks(settings.trusted_proxies)
    return settings


def _file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # ValueError: not TOML, or not UTF-8
        raise ConfigError(f"cannot be read as TOML: {error}", location=str(path)) from None


def _checked(name: str, value: Any, location: str) -> Any:
    kinds = {field.name: type(field.default) for field in dataclasses.fields(Settings)}
    kind = kinds.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, kinds, 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"unknown setting {name!r}: {meant}known are {', '.join(sorted(kinds))}", location=location)
    if kind is int and isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = "a whole number" if kind is int else "a text"
        raise ConfigError(f"{name} is {value!r}, expected {expected}", location=location)
    low, high = _BOUNDS.get(name, (0, _MANY))
    if isinstance(value, int) and not low <= value <= high:
        raise ConfigError(f"{name} is {value}, expected a whole number from {low} to {high}", location=location)
    return value

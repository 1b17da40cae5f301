"""Settings: whence they come, what is refused, and the folders of a home."""

from __future__ import annotations

from pathlib import Path

import pytest

from daulat import settings
from daulat.errors import ConfigError
from daulat.settings import Home, Settings


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.settings.write_text("port = 1\nslots = 2\nworkers = 3\n")
    loaded = settings.load(home, {"port": 9, "host": None}, {"DAULAT_PORT": "8", "DAULAT_SLOTS": "7", "OTHER": "x"})
    assert (loaded.port, loaded.slots, loaded.workers, loaded.host) == (9, 7, 3, Settings().host)


@pytest.mark.parametrize(
    ("text", "environ", "flags", "said"),
    [
        (
            "prot = 1",
            {},
            {},
            r"settings\.toml: unknown setting 'prot': did you mean 'port'\? known are answer_seconds, canary_seconds,",
        ),
        ("zzz = 1", {}, {}, r"unknown setting 'zzz': known are"),
        ("", {"DAULAT_PROT": "1"}, {}, "environment, DAULAT_PROT: unknown setting 'prot'"),
        ('port = "x"', {}, {}, r"settings\.toml: port is 'x', expected a whole number"),
        ("port = true", {}, {}, "port is True, expected a whole number"),
        ("host = 1", {}, {}, "host is 1, expected a text"),
        ("port = 0", {}, {}, "from 1 to 65535"),
        ("slots = 0", {}, {}, "from 1 to 256"),
        ("threads = -1", {}, {}, "from 0 to"),
        ("", {"DAULAT_PORT": "-1"}, {}, "environment, DAULAT_PORT: port is '-1', expected a whole number"),
        ("", {}, {"workers": 1000}, "--workers: workers is 1000"),
        ("port =", {}, {}, r"settings\.toml: cannot be read as TOML"),
    ],
)
def test_what_is_unknown_or_wrong_is_refused_with_its_place_and_what_is_right(
    tmp_path: Path, text: str, environ: dict[str, str], flags: dict[str, object], said: str
) -> None:
    home = Home(tmp_path)
    home.settings.write_text(text)
    with pytest.raises(ConfigError, match=said):
        settings.load(home, flags, environ)


def test_a_settings_file_that_is_no_text_or_no_file_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.settings.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"settings\.toml"):
        settings.load(home, {}, {})
    home.settings.unlink()
    home.settings.mkdir()
    with pytest.raises(ConfigError, match=r"settings\.toml"):
        settings.load(home, {}, {})


def test_a_clients_variables_are_no_settings(tmp_path: Path) -> None:
    environ = {"DAULAT_API_KEY": "sk-x", "DAULAT_HOME": "/x"}
    assert settings.load(Home(tmp_path), {}, environ) == Settings()


def test_the_run_folder_moves_when_a_socket_path_would_be_too_long(tmp_path: Path) -> None:
    assert Home(Path("/srv/daulat")).run == Path("/srv/daulat/run")
    long = Home(tmp_path / ("x" * 90))
    assert long.run.parent == Path("/tmp")
    assert len(str(long.engine("0" * 16) / "e.sock")) <= 107


def test_prepare_makes_private_folders(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    for path in (home.path, home.run, home.keys):
        assert path.stat().st_mode & 0o777 == 0o700


def test_what_the_last_run_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    home.snapshot.write_text("{}")
    home.engine("0123").mkdir()
    (home.engine("0123") / "e.sock").touch()
    home.vkey.write_text("kept")
    home.clear_run()
    assert list(home.run.iterdir()) == []
    assert home.vkey.exists()


def test_prepare_says_which_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/home: cannot be made \(Not a directory\); choose another --home"):
        Home(tmp_path / "file" / "home").prepare()


def test_the_default_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAULAT_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert settings.default_home() == Path("/data/daulat")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert settings.default_home() == Path("/home/someone/.local/share/daulat")
    monkeypatch.setenv("DAULAT_HOME", "/srv/daulat")
    assert settings.default_home() == Path("/srv/daulat")

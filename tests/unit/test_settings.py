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
    ("text", "environ"),
    [("prot = 1", {}), ("", {"DAULAT_PROT": "1"}), ('port = "x"', {}), ("port = true", {}), ("port =", {})],
)
def test_what_is_unknown_or_wrong_is_refused(tmp_path: Path, text: str, environ: dict[str, str]) -> None:
    home = Home(tmp_path)
    home.settings.write_text(text)
    with pytest.raises(ConfigError):
        settings.load(home, {}, environ)


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

"""Files that people write, read or refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from daulat.core.files import text_of
from daulat.errors import ConfigError


def test_a_text_is_what_stands_there(tmp_path: Path) -> None:
    path = tmp_path / "charter.toml"
    path.write_bytes("Wilayah – Perlis\n".encode())
    assert text_of(path) == "Wilayah – Perlis\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "is missing"), (b"one\ntwo\n\xff\n", "is not a text file: line 3 is not UTF-8")],
)
def test_what_is_none_is_said_with_its_place(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "charter.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        text_of(path)
    assert refused.value.message == f"{path}: {words}"


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        text_of(tmp_path)

"""Files that people write."""

from __future__ import annotations

from pathlib import Path

from daulat.errors import ConfigError


def text_of(path: Path) -> str:
    """What stands in a file.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8; says where.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("is missing", location=str(path)) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", location=str(path)) from None
    except UnicodeDecodeError as error:
        at = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"is not a text file: line {at} is not UTF-8", location=str(path)) from None

"""Secrets that are shown once and kept as SHA-256: keys, tokens, sessions and invitations."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import Final

KEY_PREFIX: Final = "sk-"
SESSION_PREFIX: Final = "ss-"
INVITATION_PREFIX: Final = "in-"
TOKEN_PREFIX: Final = "at-"  # noqa: S105  a prefix, not a token
ADMIN_PREFIX: Final = "ak-"
DIRECTORY_PREFIX: Final = "dt-"


def new_key() -> str:
    """An API key: `sk-` and 256 random bits in base64url."""
    return KEY_PREFIX + _random()


def new_token() -> str:
    """An auditor's token: `at-` and 256 random bits."""
    return TOKEN_PREFIX + _random()


def new_session() -> str:
    """What a browser's cookie holds: `ss-` and 256 random bits."""
    return SESSION_PREFIX + _random()


def new_invitation() -> str:
    """What a link to a first sign-in holds: `in-` and 256 random bits."""
    return INVITATION_PREFIX + _random()


def new_admin_key() -> str:
    """A credential for the admin API: `ak-` and 256 random bits."""
    return ADMIN_PREFIX + _random()


def new_directory_token() -> str:
    """What a tenant's directory comes with: `dt-` and 256 random bits."""
    return DIRECTORY_PREFIX + _random()


def digest(secret: str) -> str:
    """Hex SHA-256. With 256 random bits there is nothing that a slow hash would protect."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _random() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()

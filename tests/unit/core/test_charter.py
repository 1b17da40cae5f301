from __future__ import annotations

import tomllib

import pytest

from daulat.core import charter
from daulat.errors import ConfigError

TEXT = """
profile = "evaluation"
approvals = 0
strict = false
[jurisdiction]
country = "MY"
site = "Cyberjaya"
[people]
operators = ["MY"]
users = ["MY"]
assurance = "substantial"
[models]
formats = ["gguf"]
licences = ["apache-2.0"]
[nodes]
sandbox = "G2"
canary = "G2"
lease_seconds = 300
[log]
name = "ai.agency.gov.my"
margin_seconds = 10
"""


def test_a_charter_is_read_field_by_field() -> None:
    read = charter.parse(TEXT)
    assert (read.country, read.users, read.origin("2026")) == ("MY", ("MY",), "ai.agency.gov.my/2026")
    assert read.context()["assurance"] == 1
    assert read.context()["sandbox"] == 2


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('country = "MY"', 'country = "my"', "ISO 3166-1"),
        ('country = "MY"', 'country = "MYS"', "ISO 3166-1"),
        ('users = ["MY"]', "users = []", "at least one"),
        ('users = ["MY"]', 'users = ["Malaysia"]', "ISO 3166-1"),
        ('sandbox = "G2"', 'sandbox = "G9"', "one of G1, G2"),
        ("strict = false", 'strict = "no"', "expected true or false"),
        ("approvals = 0", "approvals = true", "expected a whole number"),
        ("approvals = 0", "approvals = -1", "from 0 to 16"),
        ("lease_seconds = 300", "lease_seconds = 999999", "from 30 to 3600"),
        ('name = "ai.agency.gov.my"', 'name = "AI Agency"', "lower-case"),
        ("strict = false", "stricht = false", "'strict' is missing"),
        ("strict = false", "strict = false\nstricht = 1", r"unknown keys \['stricht'\]"),
        ('profile = "evaluation"', 'profile = "production"', "approvals of at least 1"),
        ("[log]", "[log", "not valid TOML"),
    ],
)
def test_a_wrong_charter_says_where_and_what_would_be_right(old: str, new: str, reason: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError, match=reason):
        charter.parse(TEXT.replace(old, new))


def test_every_key_is_needed() -> None:
    tables = tomllib.loads(TEXT)
    keys = [key for key, value in tables.items() if not isinstance(value, dict)]
    keys += [key for value in tables.values() if isinstance(value, dict) for key in value]
    for key in keys:
        without = "\n".join(line for line in TEXT.splitlines() if not line.startswith(f"{key} ="))
        with pytest.raises(ConfigError, match=f"'{key}' is missing"):
            charter.parse(without)


def test_a_charter_from_before_there_were_signatures_says_nothing_of_them() -> None:
    assert "signed" not in charter.parse(TEXT).context()
    for written, meant in (("true", True), ("false", False)):
        read = charter.parse(TEXT.replace("[nodes]", f"signed = {written}\n[nodes]"))
        assert read.context()["signed"] is meant
    with pytest.raises(ConfigError, match="expected true or false"):
        charter.parse(TEXT.replace("[nodes]", "signed = 1\n[nodes]"))

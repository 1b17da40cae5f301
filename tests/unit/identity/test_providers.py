"""Where people sign in, as the operator writes it down, and what a token's claims become."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.support import oidc
from tests.support.oidc import KEY, NUMBER

from daulat.core.principal import Attributes
from daulat.errors import ConfigError, PermissionDenied
from daulat.identity import claims, providers

NOW = oidc.NOW * 1000
DAY = 86_400_000
UNREADABLE: list[Any] = [
    *(0, -1, -0.5, 0.0001, float("nan"), float("inf"), 10**40, NOW + 3_600_000, 253_402_300_801),
    *(True, False, "", " ", "soon", "0", "-1", "+5", "1e9", "1795000000.5", f" {oidc.NOW}", "1" * 13, "\u0661\u0662"),
    *("2026-13-01", "2026-02-30", "2026-1-1", "20261231T", "2026-12-31T00:00:00Z", "1969-12-30", "0000-01-01"),
    *([], {}, [oidc.NOW + 60], {"at": oidc.NOW + 60}),
]


def read(**changes: Any) -> claims.Seen:
    return claims.read(oidc.provider(), oidc.claims(**changes), KEY, NOW)


def test_settings_are_read_into_what_they_say() -> None:
    found = providers.parse(oidc.settings())
    assert found.session_minutes == 30
    provider = found.provider["test"]
    assert (provider.title, provider.issuer, provider.scopes) == ("Test ID", oidc.ISSUER, ("openid",))
    assert provider.claims.number == ("nric", "preferred_username")
    assert provider.assurance["level:3"] == "high"


@pytest.mark.parametrize(
    ("line", "instead", "words"),
    [
        ('client_id = "daulat"', 'client = "daulat"', "unknown keys ['client']"),
        ('client_id = "daulat"', "", "key 'client_id' is missing"),
        ("session_minutes = 30", "session_minutes = 0", "from 1 to 720"),
        ("session_minutes = 30", "session_hours = 1", "unknown keys ['session_hours']"),
        ("https://id.example/realms/test", "http://id.example/realms/test", "expected an https address"),
        ("https://id.example/realms/test", "https://id.example/?a", "without '?' and '#'"),
        ('provision = "invited"', 'provision = "anybody"', "expected 'invited' or 'mapped'"),
        ('inspector = "auditor"', 'inspector = "god"', "expected one of user, tenant-admin, auditor, operator"),
        ('"level:3" = "high"', '"level:3" = "certain"', "expected one of low, substantial, high"),
        ('Malaysian = "MY"', 'Malaysian = "Malaysia"', "alpha-2"),
        ("[provider.test]", "[provider.Test]", "unknown"),
        ("[provider.test]", "[provider.out]", "expected"),
        ("acr_values", "skew_seconds = 1000\nacr_values", "from 0 to 300"),
        ("acr_values", "scopes = ['profile']\nacr_values", "lack 'openid'"),
        ("session_minutes = 30", "session_minutes = ", "not valid TOML"),
    ],
)
def test_what_is_wrong_in_them_is_said_with_what_would_be_right(line: str, instead: str, words: str) -> None:
    assert line in oidc.settings()
    with pytest.raises(ConfigError) as refused:
        providers.parse(oidc.settings().replace(line, instead))
    if words not in {"unknown", "expected"}:
        assert words in refused.value.message
    assert "signin.toml" in refused.value.message


def test_two_providers_of_one_issuer_are_one_too_many() -> None:
    twice = oidc.settings() + oidc.settings().replace("session_minutes = 30", "").replace(
        "provider.test", "provider.two"
    )
    with pytest.raises(ConfigError, match="different issuers"):
        providers.parse(twice)
    with pytest.raises(ConfigError, match="one or more"):
        providers.parse("session_minutes = 5\n[provider]\n")
    with pytest.raises(ConfigError, match="no tenants are"):
        providers.parse(oidc.settings(provision="mapped", tenants=""))


def test_a_token_says_a_citizenship_its_level_and_its_end() -> None:
    seen = read(citizenship_expires=oidc.NOW + 3600)
    assert (seen.citizenship, seen.assurance, seen.until) == ("MY", "substantial", NOW + 3_600_000)
    assert read().until == NOW + 30 * DAY
    assert read(citizenship_expires=oidc.NOW + 10**9).until == NOW + 30 * DAY  # no longer than we were told to believe
    assert read(citizenship_expires=oidc.NOW - 1).until == NOW - 1000  # over already
    assert (read(acr="level:9").assurance, read(acr=None).assurance, read(acr=["level:3"]).assurance) == ("low",) * 3


@pytest.mark.parametrize(
    ("said", "until"),
    [
        (oidc.NOW + 3600, NOW + 3_600_000),
        (oidc.NOW + 0.5, NOW + 500),
        (str(oidc.NOW + 3600), NOW + 3_600_000),  # as Keycloak's mappers write it
        ("2026-11-28", 1_795_910_400_000),  # to its end, in UTC
        ("2026-01-01", 1_767_312_000_000),  # over already
        (oidc.NOW - 1, NOW - 1000),
        (1, 1000),
        ("1", 1000),
        ("9999-12-31", NOW + 30 * DAY),
        ("20271231", 20_271_231_000),  # seconds of 1970, so over already
    ],
)
def test_an_end_is_seconds_in_digits_too_or_a_day(said: Any, until: int) -> None:
    seen = read(citizenship_expires=said)
    assert (seen.citizenship, seen.until) == ("MY", until)


@pytest.mark.parametrize("said", UNREADABLE, ids=repr)
def test_an_end_that_nobody_can_read_leaves_no_citizenship(said: Any) -> None:
    seen = read(citizenship_expires=said)
    assert (seen.citizenship, seen.until) == ("", 0)
    known = Attributes("MY", "high", ("user",), oidc.ISSUER, NOW + DAY)
    assert claims.merged(oidc.provider(), seen, known, NOW).citizenship == "", "nor the one that was known of it"


def test_an_end_that_is_null_is_none_that_can_be_read() -> None:
    said = {**oidc.claims(), "citizenship_expires": None}  # OpenID Connect leaves out what it does not say
    assert claims.read(oidc.provider(), said, KEY, NOW).citizenship == ""
    nested = replace(
        oidc.provider(), claims=providers.Claims(citizenship=("nationality",), until=("card.ends", "ends"))
    )
    for more, until in (({}, NOW + 30 * DAY), ({"card": 7}, NOW + 30 * DAY), ({"ends": oidc.NOW + 60}, NOW + 60_000)):
        assert claims.read(nested, {**oidc.claims(), **more}, KEY, NOW).until == until
    for more in ({"card": {"ends": "soon"}, "ends": oidc.NOW + 60}, {"card": {"ends": None}}):
        assert claims.read(nested, {**oidc.claims(), **more}, KEY, NOW).citizenship == ""


def test_an_identity_number_is_no_citizenship() -> None:
    """Permanent residents have an identity card too."""
    seen = read(nationality=None)
    assert (seen.citizenship, seen.until) == ("", 0)
    assert len(seen.hashes) == 2
    for said in ("Indonesian", "MY", "malaysian", ["Malaysian"], {"code": "MY"}, 458):
        assert read(nationality=said).citizenship == ""


def test_without_a_table_of_countries_only_a_code_is_one() -> None:
    provider = replace(oidc.provider(), countries={})
    for said, country in (("MY", "MY"), ("my", ""), ("Malaysian", ""), ("MYS", ""), (None, "")):
        assert claims.read(provider, oidc.claims(nationality=said), KEY, NOW).citizenship == country


def test_the_number_is_kept_as_a_keyed_hash_that_is_the_same_however_it_is_written() -> None:
    seen, plain = read(), NUMBER.replace("-", "")
    assert read(nric=plain).hashes == seen.hashes == read(nric=None, preferred_username=f" {plain} ").hashes
    assert plain not in str(seen)
    assert NUMBER not in str(seen)
    assert claims.read(oidc.provider(), oidc.claims(), bytes(32), NOW).hashes != seen.hashes
    assert read(sub="another").hashes[1] == seen.hashes[1]
    assert read(nric="900101145679").hashes[1] != seen.hashes[1]
    assert len(read(nric=None).hashes) == 1


def test_a_number_counts_only_on_the_word_of_a_provider_that_has_checked_it() -> None:
    open_to_all = replace(oidc.provider(), issuer="https://open.example", number_verified=False)
    assert len(claims.read(open_to_all, oidc.claims(), KEY, NOW).hashes) == 1
    other = replace(open_to_all, number_verified=True)
    assert claims.read(other, oidc.claims(), KEY, NOW).hashes[1] == read().hashes[1]
    text = oidc.settings().replace("number_verified = true\n", "")
    assert providers.parse(text).provider["test"].number_verified is False
    with pytest.raises(ConfigError, match="number_verified"):
        providers.parse(oidc.settings().replace("number_verified = true", 'number_verified = "yes"'))


def test_a_number_has_the_form_that_a_card_of_the_country_has() -> None:
    for said in ("1", "aminah", "901301145678", "90010114567", "A12345678"):
        assert len(read(nric=said).hashes) == 1
        assert len(claims.read(oidc.provider(), oidc.claims(nric=said), KEY, NOW, "SG").hashes) == 2


def test_roles_and_tenants_are_what_the_operator_has_mapped() -> None:
    assert read().roles == ("user",)
    assert read(realm_access={"roles": ["staff", "head", "unknown"]}).roles == ("tenant-admin", "user")
    assert read(realm_access=None).roles == ()
    assert read(agency="health").tenant == "first-agency"
    assert read(agency="other").tenant == read().tenant == ""
    anybody = replace(oidc.provider(), tenants={"*": "citizens"}, claims=providers.Claims())
    seen = claims.read(anybody, oidc.claims(), KEY, NOW)
    assert (seen.tenant, seen.roles, seen.citizenship) == ("citizens", None, "")


def test_a_token_makes_nobody_operator_and_auditor() -> None:
    with pytest.raises(PermissionDenied, match="exclude each other"):
        read(realm_access={"roles": ["inspector", "root"]})


def test_a_sign_in_replaces_what_its_provider_said_and_leaves_what_others_vouch_for() -> None:
    provider, none = oidc.provider(), read(nationality=None)
    vouched = Attributes("MY", "high", ("user",), "operator", NOW + DAY)
    assert claims.merged(provider, none, vouched, NOW) == vouched
    assert claims.merged(provider, none, vouched, NOW + DAY).citizenship == ""
    said = Attributes("MY", "high", ("user",), provider.issuer, NOW + DAY)
    assert claims.merged(provider, none, said, NOW).citizenship == ""
    now = claims.merged(provider, read(), vouched, NOW)
    assert (now.citizenship, now.assurance, now.issuer, now.until) == ("MY", "substantial", oidc.ISSUER, NOW + 30 * DAY)

"""A place is leased where the charter keeps data, by what is known of it and who says so."""

from __future__ import annotations

import pytest

from daulat.errors import PermissionDenied
from daulat.vault import residency

PLACE = "a" * 64


def test_a_folder_lies_where_the_machine_is_said_to_stand() -> None:
    site = residency.folder(PLACE, "MY")
    residency.must_be_in(site, "MY")
    assert site.evidence["site"]["grade"] == "G1"
    with pytest.raises(PermissionDenied, match="lies in MY"):
        residency.must_be_in(site, "SG")


@pytest.mark.parametrize(
    ("region", "stated", "lies", "grade"),
    [
        ("ap-southeast-5", "", "MY", "G3"),
        ("ap-southeast-5", "MY", "MY", "G3"),
        ("ap-southeast-1", "", "SG", "G3"),
        ("kl-1", "MY", "MY", "G1"),
        ("kl-1", "", "", "G1"),
    ],
)
def test_a_bucket_lies_where_its_region_does_or_else_where_it_is_stated(
    region: str, stated: str, lies: str, grade: str
) -> None:
    site = residency.bucket(PLACE, region, "s3.example", stated)
    assert (site.jurisdiction, site.evidence["site"]["grade"]) == (lies, grade)
    assert site.evidence["region"] == {"grade": "G3", "vouched_by": "s3.example", "region": region}
    if lies == "MY":
        residency.must_be_in(site, "MY")
    else:
        with pytest.raises(PermissionDenied, match="keeps data in MY"):
            residency.must_be_in(site, "MY")


def test_a_statement_against_the_region_is_refused() -> None:
    with pytest.raises(PermissionDenied, match="lies in SG, not in MY"):
        residency.bucket(PLACE, "ap-southeast-1", "s3.example", "MY")

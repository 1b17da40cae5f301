"""Where stored bytes lie, as evidence: a place is written to only while it holds a lease, as a node serves only then.

A folder of this machine lies where the charter says that the machine stands: the operator's statement, G1. Of a bucket
its provider tells the region, which is another organisation's word, G3; in which country a region lies is public where
it is one of `REGIONS`, else the operator's statement again, G1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from daulat.errors import PermissionDenied

LEASE_MS: Final = 3_600_000
REGIONS: Final = {
    "ap-southeast-1": "SG",
    "ap-southeast-2": "AU",
    "ap-southeast-3": "ID",
    "ap-southeast-5": "MY",
    "ap-southeast-7": "TH",
    "us-east-1": "US",
    "eu-central-1": "DE",
}
"""By the names that AWS gives its regions (https://docs.aws.amazon.com/global-infrastructure/latest/regions/)."""


@dataclass(frozen=True, slots=True)
class Site:
    """A place, for whoever leases it."""

    kind: str  # "folder" or "s3"
    place: str  # its address's SHA-256 in hex: the log tells places apart and shows none
    jurisdiction: str  # ISO 3166-1 alpha-2; "" where nobody says
    evidence: dict[str, Any]


def folder(place: str, country: str) -> Site:
    """This machine, which the charter says to stand in `country`."""
    return Site("folder", place, country, {"site": {"grade": "G1", "statement": "this machine"}})


def bucket(place: str, region: str, vouched_by: str, stated: str) -> Site:
    """A bucket. `stated`: the country that the operator names for it, or "".

    Raises:
        PermissionDenied: the operator names another country than the one its region lies in.
    """
    known = REGIONS.get(region, "")
    if known and stated and known != stated:
        raise PermissionDenied(f"the bucket's region {region!r} lies in {known}, not in {stated} as the settings say")
    told = {"region": {"grade": "G3", "vouched_by": vouched_by, "region": region}}
    site = {"site": {"grade": "G3" if known else "G1", "statement": f"region {region}"}}
    return Site("s3", place, known or stated, {**told, **site})


def must_be_in(site: Site, country: str) -> None:
    """Raises PermissionDenied: the charter keeps data in `country`, and this place is not known to lie there."""
    if site.jurisdiction != country:
        where = f"lies in {site.jurisdiction}" if site.jurisdiction else "is in no country that anybody states"
        raise PermissionDenied(f"the charter keeps data in {country}, and the storage place {where}")

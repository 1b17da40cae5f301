"""Whom the log tells of as erased is found from where the control database knows it on, and erased again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import logs
from tests.support.verbs import PERIOD, publish
from tests.unit.audit.test_vault import erasure
from tests.unit.pipeline.test_consent import run
from tests.unit.processes.test_storing import Site

from daulat.processes import erased
from daulat.settings import Home


def told(home: Home, subject: str, scope: str = "person") -> int:
    """Give the home a log that ends with an erasure; the index of that."""
    home.prepare()
    step = logs.Step("erasure", "erasure/v1", erasure(60, subject=subject, scope=scope))
    return len(publish(home, logs.write(None, [*logs.story(), step])).entries) - 1


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    home = Home(tmp_path)
    last = told(home, "d" * 22)
    now = erased.heads(home)
    assert now == {PERIOD: last + 1}
    for known in ({}, {PERIOD: 1}, {PERIOD: last}, {"2025": 9}):
        assert erased.between(home, known, now) == {("person", "d" * 22)}
    assert erased.between(home, now, now) == set()


def test_a_person_who_is_here_again_is_erased_again_and_the_database_knows_how_far_it_looked(tmp_path: Path) -> None:
    site = Site(tmp_path)
    run(site.house.desk.add_tenant("agency"))
    run(site.house.desk.add_person("aminah", "agency", "MY", "substantial", ["user"], days=30))
    subject = site.storing.acts()["person.erase"].prepare({"person": "aminah"}).subject
    told(site.home, subject)
    done: list[Any] = []

    async def erase(**params: Any) -> None:
        done.append(params["whom"].subject)

    run(site.storing._look_back(erase, first=False))
    assert done == [], "what comes while the service runs, it did itself"
    site.house.rows.set_meta("erasures_known", "{}")  # as it was before
    run(site.storing._look_back(erase, first=True))
    run(site.storing._look_back(erase, first=True))
    assert done == [subject]
    site.house.rows.close()

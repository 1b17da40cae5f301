"""What has to stand in the log before anything serves: charter, keys, ceremony, rules; and admitted models."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daulat.adapters.control_db import ControlDatabase
from daulat.adapters.log_files import Blobs
from daulat.adapters.models import ModelStore
from daulat.adapters.notices import Notices
from daulat.core import charter as charters
from daulat.core.charter import Charter
from daulat.core.clock import Clock
from daulat.core.snapshot import CharterRef, ModelRow, PolicyRef
from daulat.errors import ConfigError
from daulat.identity.providers import SignIn
from daulat.pipeline import establish
from daulat.pipeline.book import Book
from daulat.pipeline.enrol import Ground
from daulat.pipeline.operate import Desk
from daulat.policy.cedar import CedarDecider
from daulat.processes import identifying
from daulat.processes.consenting import Consenting, InForce, in_force
from daulat.processes.plan import Plan
from daulat.registry.model import ModelFacts
from daulat.settings import Home


@dataclass(frozen=True, slots=True)
class Terms:
    """What this start is to be under, read and found to be in order; the log may not know it yet."""

    in_force: InForce
    charter: Charter
    decider: CedarDecider
    signin: SignIn | None

    @classmethod
    def read(cls, plan: Plan, rows: ControlDatabase) -> Terms:
        """Raises ConfigError: charter, rules, settings or `signin.toml` are not in order; says what is not."""
        home, found = plan.home, in_force(rows, plan.home)
        charter = charters.parse(found.text, location=str(home.charter))
        if plan.settings.canary_seconds * 3 > charter.lease_seconds:
            raise ConfigError("a lease must outlast three canaries: lower canary_seconds or raise lease_seconds")
        return cls(found, charter, CedarDecider(found.bundle.rules, found.bundle.schema), identifying.configured(home))


@dataclass(frozen=True, slots=True)
class Established:
    """An installation that its log knows. `secrets`: of what its first start made, shown once."""

    home: Home
    rows: ControlDatabase
    clock: Clock
    book: Book
    terms: Terms
    ground: Ground
    desk: Desk
    consenting: Consenting
    secrets: dict[str, str] | None

    @property
    def charter(self) -> tuple[int, Charter]:
        """The entry of the charter in force, and what it says."""
        return self.ground.charter_index, self.ground.charter

    def references(self) -> tuple[CharterRef, PolicyRef]:
        """The charter and rules in force, as workers are told of them."""
        ground, found = self.ground, self.terms.in_force
        bundle = found.bundle
        policy = PolicyRef(ground.policy_index, bundle.version, bundle.rules, bundle.schema)
        return CharterRef(ground.charter_index, found.text), policy

    async def admit(self, facts: ModelFacts, name: str) -> ModelRow:
        """A model's row, once the rules admit it.

        Raises:
            PermissionDenied: they do not, or nobody has agreed to it; says which, and why not.
        """
        self.consenting.must_be_agreed(facts)
        operator, citizenship = self.desk.operator()
        blobs = Blobs(self.home.log / "blob")
        for paper in ModelStore(self.home.models).papers(facts.digest).values():
            blobs.put(paper)
        index = await establish.model(
            self.book,
            self.ground.decider,
            self.ground.charter,
            facts.admission(),
            charter_index=self.ground.charter_index,
            policy_index=self.ground.policy_index,
            operator=operator,
            citizenship=citizenship,
        )
        self.rows.set_live("admitted", facts.digest, self.book.origin, index, "{}")
        held = self.book.held("model.admitted/v1", facts.name)
        entry = held["entry"] if held is not None else ""
        return ModelRow(name, index, entry, int(time.time()), facts.embeds, facts.context_length)


async def established(
    plan: Plan, terms: Terms, rows: ControlDatabase, book: Book, clock: Clock, log: Mapping[str, Any]
) -> Established:
    """Have the log know all of it, in this order. `log`: the sequencer's status."""
    home, read, found = plan.home, terms.charter, terms.in_force
    index = await establish.charter(book, read, found.text)
    await establish.log_key(book, index, log["vkey"], log["rotation"])
    desk = Desk(rows, book.write, clock, index, read.approvals)
    tell = Notices(home.notices, plan.settings.notice_url, plan.settings.notice_command)
    consenting = Consenting(rows, book, clock, (index, read), desk, home, tell)
    await consenting.begin(found.ceremony)
    policy = await establish.policy(book, index, found.bundle, Blobs(home.log / "blob").put)
    secrets = await desk.begin()
    ground = Ground(read, index, policy, terms.decider)
    return Established(home, rows, clock, book, terms, ground, desk, consenting, secrets)

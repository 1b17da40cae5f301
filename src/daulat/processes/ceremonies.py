"""A key ceremony that was finished in this home: what the next start is held to."""

from __future__ import annotations

from daulat.adapters.control_db import ControlDatabase
from daulat.audit import ceremony as ceremonies
from daulat.core import charter as charters
from daulat.core.charter import Charter
from daulat.core.files import text_of
from daulat.errors import ConfigError
from daulat.pipeline.ceremony import ENTRY, Drawn, parse
from daulat.policy.bundle import Bundle
from daulat.settings import Home


def pending(rows: ControlDatabase, home: Home) -> Drawn | None:
    """The finished ceremony that is not in the log yet.

    Raises:
        ConfigError: the file is none, not everybody has signed it, or another ceremony is in the log already.
    """
    if not home.ceremony.exists():
        return None
    where = str(home.ceremony)
    drawn, held = parse(text_of(home.ceremony), where), rows.live(ENTRY)
    if held is not None:
        said, mine = held["value"], drawn.ceremony
        if (said["begun"], said["sha256"], said["roster"]) != (mine.begun, mine.charter, mine.roster):
            said = f"is another than the key ceremony that took place (entry {held['position']}): there is one for good"
            raise ConfigError(said, location=where)
        return None
    if drawn.missing():
        raise ConfigError(f"is not signed by {', '.join(drawn.missing())}", location=where)
    if wrong := list(ceremonies.unsigned(drawn.ceremony, drawn.raw())):
        raise ConfigError("; ".join(wrong), location=where)
    return drawn


def agrees(rows: ControlDatabase, home: Home, drawn: Drawn, bundle: Bundle) -> None:
    """What stands in the home is what everybody has signed, and nobody had to agree before.

    Raises:
        ConfigError: it is not.
    """
    if text_of(home.charter) != drawn.charter:
        said = f"is another than the one that was signed in the key ceremony: daulat init finish {home.ceremony}"
        raise ConfigError(said, location=str(home.charter))
    if bundle.version != drawn.ceremony.rules:
        said = "are others than those that were signed in the key ceremony: put them back, or hold it again"
        raise ConfigError(said, location=str(home.policies))
    held = rows.live("charter/v1")
    if held is not None and held["value"]["approvals"] and held["value"]["sha256"] != drawn.ceremony.charter:
        raise ConfigError(
            "operators have to agree here already, and a key ceremony would replace them: agree on a charter with "
            "approvals = 0 first (daulat operate change-charter), then hold it",
            location=str(home.ceremony),
        )


def entered(rows: ControlDatabase, new: Charter, location: str) -> None:
    """Production is entered by a key ceremony and by nothing else, and never left.

    Raises:
        ConfigError: this charter would do otherwise.
    """
    held = rows.live("charter/v1")
    old = None if held is None else charters.parse(held["value"]["text"], location="the charter in force")
    if new.profile == "production" and (old is None or old.profile != "production"):
        said = "profile 'production' is entered by a key ceremony: daulat init draft (docs/key-ceremony.md)"
        raise ConfigError(said, location=location)
    if old is not None and (words := charters.irreversible(old, new)) is not None:
        raise ConfigError(f"{words}: no consent changes that", location=location)

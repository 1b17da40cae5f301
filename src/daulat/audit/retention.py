"""What the log says was deleted by rule: under a rule that was set, of what that rule speaks of, and counted once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from daulat.audit import facts
from daulat.audit.finding import Finding
from daulat.core.retention import FIELDS, Rule
from daulat.errors import InvalidRequest, VerificationFailed


class Retention:
    """Rules by tenant's pseudonym, all that were ever set: what was deleted may be told of under a later one."""

    def __init__(self) -> None:
        self._rules: dict[str, set[Rule]] = {}
        self._batches: dict[str, tuple[Any, ...]] = {}

    def set(self, entry: Mapping[str, Any]) -> None:
        """Operators have agreed to a rule.

        Raises:
            VerificationFailed: its entry does not say which.
        """
        detail = entry["detail"] if isinstance(entry["detail"], dict) else {}
        rule = _rule({name: value for name, value in detail.items() if name != "before"})
        self._rules.setdefault(str(entry["subject"]), set()).add(rule)

    def deleted(self, index: int, entry: Mapping[str, Any], *, carried: bool) -> Iterator[Finding]:
        """A `retention/v1`. `carried`: an older shard, or what is not shown here, may have its rule.

        Raises:
            VerificationFailed: a value has a wrong type.
        """
        rule, tenant, batch = _rule(entry["rule"]), entry["tenant"], entry["batch"]
        if not isinstance(batch, str) or not (tenant is None or isinstance(tenant, str)):
            raise VerificationFailed("a retention/v1 names its batch, and its tenant or none")
        if not isinstance(entry["deleted"], dict) or set(entry["deleted"]) != set(FIELDS.values()):
            raise VerificationFailed("a retention/v1 counts files and completions")
        counts = {field: facts.natural(entry["deleted"], field) for field in FIELDS.values()}
        for kind, field in FIELDS.items():
            if counts[field] and rule.days(kind) is None:
                yield Finding("retention", f"{field} were deleted by a rule that keeps them", index)
        if tenant is not None and not carried and rule not in self._rules.get(tenant, ()):
            yield Finding("retention", "something was deleted by a rule that nobody has set", index)
        said = (rule, *counts.values())
        if self._batches.setdefault(batch, said) != said:
            yield Finding("retention", f"batch {batch[:40]} is told of twice, and differently", index)


def _rule(value: Any) -> Rule:
    try:
        return Rule.read(value)
    except InvalidRequest as error:
        raise VerificationFailed(error.message) from None

"""`daulat policy`: look at the rules before they decide, and at what they decided."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click

from daulat.adapters import request_index
from daulat.adapters.log_files import Blobs, LogFolder
from daulat.catalog import charters
from daulat.cli import emit
from daulat.cli.options import home_option, json_option
from daulat.core import charter as charter_core
from daulat.core import entries
from daulat.core.charter import Charter
from daulat.core.decision import Decision, inference_question
from daulat.core.files import text_of
from daulat.errors import ConfigError, NotFound, SealBroken
from daulat.ledger import receipts
from daulat.policy import bundle, cases
from daulat.policy.cedar import CedarDecider
from daulat.settings import Home
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog.note import Verifier


def _charter(home: Home) -> Charter:
    """The home's charter, or the starter's where there is no home yet."""
    if home.charter.exists():
        return charter_core.parse(text_of(home.charter), location=str(home.charter))
    return charter_core.parse(charters.starter())


def _decider(home: Home) -> CedarDecider:
    found = bundle.load(home.policies)
    return CedarDecider(found.rules, found.schema)


@click.group()
def policy() -> None:
    """Check, test and explain the rules."""


@policy.command("check")
@home_option
@json_option
def check(home: Home, as_json: bool) -> None:
    """Parse and validate the shipped rules and the home's own (policies/*.cedar), against the schema.

    \b
    Example:
        daulat policy check
    """
    found = bundle.load(home.policies)
    reasons = CedarDecider(found.rules, found.schema).reasons
    own = sorted(path.name for path in home.policies.glob("*.cedar")) if home.policies.is_dir() else []
    value = {"version": found.version, "files": sorted(found.files), "own": own, "rules": reasons}
    width = max(map(len, reasons))
    lines = [f"{id_:<{width}}  {reason}" for id_, reason in reasons.items()]
    lines.append(f"\n{len(reasons)} rules in {len(found.files) - 1} files hold; version {found.version[:16]}.")
    emit(value, as_json=as_json, text="\n".join(lines))


@policy.command("test")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@home_option
@json_option
def test(files: tuple[Path, ...], home: Home, as_json: bool) -> None:
    """Ask example cases: the shipped ones, policies/*.toml of the home, and FILES. Exits with 1 if one goes wrong.

    \b
    Example:
        daulat policy test
        daulat policy test our-cases.toml
    """
    texts = {f"shipped {name}": text for name, text in cases.shipped().items()}
    own = sorted(home.policies.glob("*.toml")) if home.policies.is_dir() else []
    texts |= {str(path): text_of(path) for path in (*own, *files)}
    # The shipped cases are about the shipped charter; the operator's own are about the operator's.
    starter, charter = charter_core.parse(charters.starter()), _charter(home)
    asked = [
        case
        for name, text in texts.items()
        for case in cases.parse(text, starter if name.startswith("shipped ") else charter, location=name)
    ]
    outcomes = cases.run(asked, _decider(home))
    lines = [
        f"{'FAIL' if item.wrong else 'ok  '}  {item.case.name}" + (f"\n      {item.wrong}" if item.wrong else "")
        for item in outcomes
    ]
    wrong = sum(bool(item.wrong) for item in outcomes)
    lines.append(f"\n{len(outcomes)} cases, {wrong} wrong.")
    value = [{"case": item.case.name, **item.decision.as_dict(), "wrong": item.wrong} for item in outcomes]
    emit(value, as_json=as_json, text="\n".join(lines))
    if wrong:
        raise SystemExit(1)


@policy.command("explain")
@click.argument("request_id", required=False)
@click.option("--action", default="chat.completions", show_default=True)
@click.option("--citizenship", help="Of the person; for model.admit, of the operator.")
@click.option("--assurance", help="low, substantial or high.")
@click.option("--role", "roles", multiple=True, help="May be given again.")
@click.option("--jurisdiction", help="Where the node stands.")
@click.option("--licence", help="The model's, as an SPDX identifier in small letters.")
@home_option
@json_option
def explain(request_id: str | None, home: Home, as_json: bool, **given: Any) -> None:
    """Say why a request was, or would be, allowed or refused.

    With a REQUEST_ID, that request is decided again from its log entry, under the rules of its time; exits with 1 when
    the log says otherwise. Without one, a usual question is asked under the rules of now, with what the options change.

    \b
    Example:
        daulat policy explain --citizenship SG
        daulat policy explain req_0198c0a1b2c3d4e5f60718293a4b5c6d
    """
    if request_id is None:
        decision = _hypothetical(home, given)
        emit(_value(decision), as_json=as_json, text=_words(decision))
        return
    decision, logged = _past(home, request_id)
    same = logged == decision.as_dict()
    text = _words(decision)
    if not same:
        text += f"\nBut the log says: {logged['effect']} by {', '.join(logged['policies'])}"
    emit({**_value(decision), "logged": logged}, as_json=as_json, text=text)
    if not same:
        raise SystemExit(1)


def _value(decision: Decision) -> dict[str, Any]:
    return {**decision.as_dict(), "reason": decision.reason}


def _words(decision: Decision) -> str:
    rules = "\n".join(f"  by {rule}" for rule in decision.policies)
    return f"{decision.effect}\n{rules}\n  because {decision.reason}"


def _hypothetical(home: Home, given: dict[str, Any]) -> Decision:
    person = {name: given[name] for name in ("citizenship", "assurance") if given[name] is not None}
    changes = {
        "person": person | ({"roles": list(given["roles"])} if given["roles"] else {}),
        "operator": {} if given["citizenship"] is None else {"citizenship": given["citizenship"]},
        "lease": {} if given["jurisdiction"] is None else {"jurisdiction": given["jurisdiction"]},
        "model": {} if given["licence"] is None else {"licence": given["licence"]},
    }
    asked = cases.question(_charter(home), given["action"], changes, location="explain")
    return _decider(home).decide(asked)


def _past(home: Home, request_id: str) -> tuple[Decision, dict[str, Any]]:
    """A logged request decided again, and what its entry says."""
    found = request_index.find(home.index_db, request_id)
    if found is None:
        raise NotFound(f"the log of {home.path} has no entry for {request_id}; entries follow answers within a second")
    origin, index = found
    folder = LogFolder(home.log / origin.rpartition("/")[2])
    size = checkpoints.open_checkpoint(folder.published(), Verifier(folder.vkey())).size
    gathered = {at: entries.decode(entry) for at, entry in receipts.gather(folder, size, index).items()}
    admission = gathered[index].get("admission", {})
    if admission.get("request_id") != request_id:
        raise SealBroken(f"the index says that entry {index} is of {request_id}, and it is not: `daulat log reindex`")
    logged = {name: admission[name] for name in ("effect", "policies")}
    if admission["lease"] is None or any(rule.startswith("gateway.") for rule in admission["policies"]):
        completion = gathered[index]["completion"]
        reason = f"the gateway refused it: {completion['error']}"
        return Decision("deny", tuple(admission["policies"]), reason), logged
    policy_entry = gathered[admission["policy"]]
    texts = {item["name"]: _text(home, item) for item in policy_entry["files"]}
    past = bundle.from_files(texts)
    asked = inference_question(
        charter_core.parse(gathered[policy_entry["charter"]]["text"]),
        admission["action"],
        tenant=admission["tenant"],
        person=admission["principal"],
        attributes=admission["attributes"],
        model=gathered[admission["model"]],
        lease=gathered[admission["lease"]],
    )
    return CedarDecider(past.rules, past.schema).decide(asked), logged


def _text(home: Home, item: dict[str, Any]) -> str:
    text = item["text"]
    if text is None:
        text = Blobs(home.log / "blob").get(item["sha256"]).decode()
    if hashlib.sha256(text.encode()).hexdigest() != item["sha256"]:
        raise ConfigError("its text has another SHA-256 than the log says", location=item["name"])
    return str(text)

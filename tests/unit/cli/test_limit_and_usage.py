"""`daulat limit` and `daulat usage` against the real use cases: what is printed, refused, and written to the log."""

from __future__ import annotations

import contextlib
import csv
import json
import sqlite3
from pathlib import Path

from tests.support.log_server import TOKEN, serve
from tests.support.logs import SIGNER
from tests.support.verbs import FakeControl, Shell, publish

from daulat.metering.focus import COLUMNS

PRICES = 'currency = "MYR"\n[[price]]\nsince = 2020-01-01\nprompt = "1"\ncompletion = "2"\n'


def test_a_limit_is_set_shown_changed_and_removed(run: Shell, control: FakeControl) -> None:
    assert "No limits" in run("limit", "list").out
    said = run("limit", "set", "tenant", "first-agency", "--tpm", 60000, "--budget", "12.5", "--weight", 2)
    assert said.out == "The tenant first-agency: tokens per minute 60000, budget 12.50, weight 2.\n"
    run("limit", "set", "tenant", "first-agency", "--rpd", 10, "--tpm", 0)
    run("limit", "set", "key", "first-key", "--rpm", 6, "--priority", -1)
    run("limit", "set", "model", "small", "--streams", 3)
    rows = {row["scope"]: row for row in run("limit", "list", "--json").value}
    assert {name: rows["tenant"][name] for name in ("name", "requests_per_day", "budget", "weight")} == {
        "name": "first-agency",
        "requests_per_day": 10,
        "budget": "12.50",
        "weight": 2,
    }
    assert "tokens_per_minute" not in rows["tenant"]
    assert rows["tenant"]["used"] == {"requests_per_day": 0, "budget": "0.00"}
    assert (rows["key"]["name"], rows["key"]["priority"]) == ("first-key", -1)
    table = run("limit", "list").out
    assert "10 (0)" in table
    assert "first-key" in table
    assert "has no limit any more" in run("limit", "remove", "model", "small").out
    assert [row["scope"] for row in run("limit", "list", "--json").value] == ["tenant", "key"]


def test_every_change_is_in_the_log_without_names(run: Shell, control: FakeControl) -> None:
    run("limit", "set", "tenant", "first-agency", "--rpm", 5)
    run("limit", "remove", "tenant", "first-agency")
    run("key", "create", "--person", "first-person", "--label", "batch", "--tpd", 500, "--budget", "3")
    changes = [fields for type_, fields in control.entries if type_ == "operator.action/v1"][-3:]
    assert [change["action"] for change in changes] == ["limit.set", "limit.remove", "key.create"]
    assert changes[0]["detail"] == {"scope": "tenant", "requests_per_minute": 5}
    assert changes[0]["subject"] == changes[1]["subject"]
    assert (changes[2]["detail"]["tokens_per_day"], changes[2]["detail"]["budget"]) == (500, 3 * 10**12)
    assert not any(name in json.dumps(changes) for name in ("first-agency", "batch", "tenant_"))
    (row,) = run("limit", "list", "--json").value
    assert (row["name"], row["tokens_per_day"], row["budget"]) == ("batch", 500, "3.00")


def test_a_keys_own_requests_a_minute_are_a_limit_like_any_other(run: Shell, control: FakeControl) -> None:
    run("key", "create", "--person", "first-person", "--label", "laptop", "--rpm", 60)
    (row,) = run("limit", "list", "--json").value
    assert (row["scope"], row["name"], row["requests_per_minute"]) == ("key", "laptop", 60)
    run("limit", "set", "key", "laptop", "--rpm", 0)
    run("limit", "set", "key", "laptop", "--rpd", 9)
    (row,) = run("limit", "list", "--json").value
    assert "requests_per_minute" not in row
    run("limit", "remove", "key", "laptop")
    assert run("limit", "list", "--json").value == []


def test_what_is_wrong_is_said(run: Shell, control: FakeControl) -> None:
    assert run("limit", "set", "tenant", "first-agency").code == 2
    assert run("limit", "set", "person", "first-person", "--rpm", 1).code == 2
    for arguments, code in (
        (("set", "tenant", "nobody", "--rpm", 1), "not_found"),
        (("set", "key", "first-key", "--weight", 2), "invalid_request"),
        (("set", "key", "first-key", "--budget", "much"), "invalid_request"),
        (("remove", "tenant", "first-agency"), "not_found"),
    ):
        said = run("limit", *arguments, "--json")
        assert (said.code, said.value["error"]["code"]) == (1, code), arguments
    said = run("key", "create", "--person", "first-person", "--tpm", -1, "--json")
    assert said.value["error"]["code"] == "invalid_request"
    assert run("usage", "show", "--by", "person", "--json").value["error"]["code"] == "invalid_request"
    assert run("usage", "show", "--since", "yesterday").code == 2


def test_use_is_what_the_log_has(run: Shell, control: FakeControl, tmp_path: Path) -> None:
    assert "Nothing was used" in run("usage", "show").out
    log = publish(run.home)
    entries = [json.loads(entry) for entry in log.entries]
    asked = [
        entry["completion"]["usage"]
        for entry in entries
        if entry["type"] == "inference/v1" and entry["completion"]["attempts"]
    ]
    assert asked
    for by in ("tenant", "day,model", "day,tenant,key,model"):
        rows = run("usage", "show", "--by", by, "--json").value
        assert sum(row["requests"] for row in rows) == len(asked)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
            assert sum(row[name] for row in rows) == sum(usage[name] for usage in asked)
    before = run("usage", "show", "--by", "day,tenant,key,model", "--json").value
    assert str(len(entries)) in run("usage", "rebuild").out
    assert run("usage", "show", "--by", "day,tenant,key,model", "--json").value == before
    assert run("usage", "--by", "day,tenant,key,model", "--json").value == before
    assert run("usage").out == run("usage", "show").out != ""
    assert "export" in run("usage", "--help").out
    assert "the sums are the log's" in run("usage", "check").out
    with contextlib.closing(sqlite3.connect(run.home.usage_db)) as database, database:
        database.execute("UPDATE used SET requests = requests + 5")
    said = run("usage", "check")
    assert (said.code, "Somebody has changed the sums" in said.out, "the log has" in said.out) == (1, True, True)
    assert run("usage", "check").code == 0
    assert run("usage", "--by", "day,tenant,key,model", "--json").value == before
    assert [fields["action"] for type_, fields in control.entries if type_ == "operator.action/v1"][
        -1
    ] == "usage.differs"
    printed = run("usage", "show", "--by", "day,tenant", "--csv").out.splitlines()
    assert printed[0] == "day,tenant,tenant_name,requests,prompt_tokens,cached_tokens,completion_tokens,cost,currency"
    assert "MYR" in run("usage", "show").out
    file = tmp_path / "focus.csv"
    run("usage", "export", file)
    with file.open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert tuple(written[0]) == COLUMNS
    tokens = sum(usage["prompt_tokens"] + usage["completion_tokens"] for usage in asked)
    assert sum(int(row["ConsumedQuantity"]) for row in written) == tokens
    assert run("usage", "show", "--until", "2001-01-01", "--json").value == []


def test_an_auditor_counts_the_same_from_the_log_alone(run: Shell, control: FakeControl, tmp_path: Path) -> None:
    log = publish(run.home)
    token, file = tmp_path / "token", tmp_path / "usage.csv"
    token.write_text(TOKEN)
    with serve({"2026": log}) as url:
        arguments = ("--vkey", SIGNER.vkey, "--token-file", token)
        assert run("audit", url, *arguments, "--usage", file).code == 0
        assert run("audit", url, *arguments, "--usage", tmp_path).code == 1, "a folder is no file"
    with file.open(newline="") as stream:
        audited = list(csv.DictReader(stream))
    operators = run("usage", "show", "--by", "day,tenant,key,model", "--json").value
    assert audited
    assert audited == [{name: str(row[name]) for name in audited[0]} for row in operators]


def test_without_a_price_table_everything_costs_nothing(run: Shell, control: FakeControl) -> None:
    assert "No prices" in run("usage", "prices").out
    assert run("usage", "prices", "--json").value == {"currency": "MYR", "prices": []}

"""`daulat verify` and `daulat audit` as people and scripts use them: words, JSON, exit codes, the auditor's memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support import lies, logs
from tests.support.log_server import TOKEN, serve
from tests.support.logs import REQUEST, RESPONSE, SIGNER, STRANGER, VERIFIER, Published, write
from tests.support.verbs import Run, Said

from daulat.audit import state
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog.note import Signer


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A receipt, the bodies, the promise, the key and a token."""
    log = write()
    (tmp_path / "receipt.json").write_text(json.dumps(log.receipt("answer")))
    (tmp_path / "request").write_bytes(REQUEST)
    (tmp_path / "response").write_bytes(RESPONSE)
    (tmp_path / "promise").write_text(log.promise("denied", of="answer").header() + "\n")
    (tmp_path / "vkey").write_text(SIGNER.vkey + "\n")
    (tmp_path / "token").write_text(TOKEN + "\n")
    return tmp_path


def bodies(files: Path) -> list[object]:
    return ["--request", files / "request", "--response", files / "response", "--promise", files / "promise"]


def test_verify_says_what_is_proven_by_whom_it_is_vouched_and_what_is_not(run: Run, files: Path) -> None:
    said = run("verify", files / "receipt.json", "--vkey", files / "vkey", *bodies(files))
    assert said.code == 0
    proven, vouched, unproven, short = (
        said.out.partition(f"{title}:\n")[2].partition("\n\n")[0]
        for title in ("Proven, whoever the operator is", "Vouched for", "Not proven", "Falls short")
    )
    assert "is, byte for byte, the one that the entry commits to" in proven
    assert "whose key the log certifies had promised this very admission" in proven
    assert "run again here" in proven
    assert "the operator: every time in the log" in vouched
    assert "an operator: that the caller is of citizenship MY" in vouched
    assert "root on the machine" in unproven
    assert "omits nothing else" in unproven
    assert 'profile "evaluation"' in short
    assert "unwitnessed: the operator could have shown others another log" in short


def test_verify_says_what_it_was_not_given(run: Run, files: Path) -> None:
    value = run("verify", files / "receipt.json", "--vkey", SIGNER.vkey, "--json").value
    assert value["holds"] is True
    assert (value["request_id"], value["effect"], value["outcome"]) == (logs.request_id(1), "allow", "ok")
    assert any("--request" in words for words in value["unproven"])
    assert any("--promise" in words for words in value["unproven"])
    assert not any("byte for byte" in words for words in value["proven"])


@pytest.mark.parametrize(
    ("name", "change", "step"),
    [
        ("receipt.json", lambda data: data.replace(b'\\"snapshot\\":3', b'\\"snapshot\\":4', 1), "step 3 (inclusion)"),
        ("receipt.json", lambda data: data[:-1], "step 1 (format)"),
        ("receipt.json", lambda _: b"\xff", "step 1 (format)"),
        ("request", lambda data: data + b"\n", "step 7 (bodies)"),
        ("response", lambda data: data[:-1], "step 7 (bodies)"),
        ("promise", lambda data: data.replace(b"batch=7", b"batch=8"), "step 8 (promise)"),
        ("promise", lambda _: b"nothing", "step 8 (promise)"),
        ("vkey", lambda _: STRANGER.vkey.encode(), "step 2 (checkpoint)"),
        ("vkey", lambda _: b"a+b", "vkey"),
        ("vkey", lambda _: "ai.example+00000000+é".encode(), "vkey"),
    ],
)
def test_verify_ends_at_the_first_thing_that_does_not_hold(
    run: Run, files: Path, name: str, change: Callable[[bytes], bytes], step: str
) -> None:
    (files / name).write_bytes(change((files / name).read_bytes()))
    arguments = ["verify", files / "receipt.json", "--vkey", files / "vkey", *bodies(files)]
    said = run(*arguments)
    assert (said.code, said.out) == (1, "")
    assert step in said.err
    assert "Traceback" not in said.err
    machine = run(*arguments, "--json")
    assert machine.code == 1
    assert json.loads(machine.err)["error"]["code"] == "verification_failed"


@pytest.mark.parametrize("name", ["vkey", "promise", "token"])
def test_files_that_are_no_text_end_in_one_line(run: Run, files: Path, name: str) -> None:
    (files / name).write_bytes(b"\xff\xfe\x00")
    if name == "token":
        with serve({"2026": write()}) as url:
            said = run("audit", url, "--vkey", files / "vkey", "--token-file", files / "token")
    else:
        said = run("verify", files / "receipt.json", "--vkey", files / "vkey", *bodies(files))
    assert said.code == 1
    assert said.err.startswith("daulat: ")
    assert "Traceback" not in said.err


def test_wrong_usage_is_told_from_a_lie(run: Run, files: Path) -> None:
    assert run("verify", files / "receipt.json").code == 2
    assert run("verify", files / "missing", "--vkey", files / "vkey").code == 2
    said = run("verify", files / "receipt.json", "--vkey", "nothing")
    assert said.code == 1
    assert "neither a public key" in said.err


def audited(run: Run, files: Path, log: Published | dict[str, Published], *more: object) -> Said:
    shards = log if isinstance(log, dict) else {"2026": log}
    with serve(shards) as url:
        return run("audit", url, "--vkey", files / "vkey", "--token-file", files / "token", *more)


def test_audit_downloads_checks_and_says_what_falls_short(run: Run, files: Path) -> None:
    said = audited(run, files, lies.long_log())
    assert said.code == 0, said.out
    assert said.out.startswith("ai.example/2026, 600 entries: holds.")
    assert 'short profile "evaluation"' in said.out
    assert "short approvals 0" in said.out
    assert "short unwitnessed: the operator could have shown others another log" in said.out
    assert "decisions were run again" in said.out
    assert "ai.example/2026 100%" in said.err, "progress is shown, and on stderr"


def test_audit_says_by_replica_what_its_counters_do_not_prove(run: Run, files: Path) -> None:
    said = audited(run, files, write())
    words = "replica 8: 1 requests that ended early, whose tokens nobody knows: up to 1000 of each kind"
    assert f"short {words}" in said.out
    (shard,) = audited(run, files, write(), "--json").value["logs"]
    assert any(words in short for short in shard["short"])


def test_audit_names_the_lie_with_its_index_and_exits_with_1(run: Run, files: Path) -> None:
    log = write({"answer": {"admission.lease": None}})
    said = audited(run, files, log)
    assert said.code == 1
    assert "DOES NOT HOLD" in said.out
    assert f"LIE   entry {log.names['answer']}: permitted without a lease" in said.out
    machine = audited(run, files, log, "--json")
    assert machine.code == 1
    (shard,) = machine.value["logs"]
    assert machine.value["holds"] is shard["holds"] is False
    assert {name: shard["findings"][0][name] for name in ("kind", "index", "lie")} == {
        "kind": "lease",
        "index": 9,
        "lie": True,
    }
    assert machine.err == "", "with --json nothing else is written"


def test_the_auditor_remembers_and_a_cut_or_rewritten_log_is_a_split_view(run: Run, files: Path) -> None:
    memory = ["--state", files / "state.json", "--json"]
    short = write(steps=logs.story()[:14])
    first = audited(run, files, short, *memory)
    assert (first.code, first.value["logs"][0]["continues"]) == (0, None)
    grown = audited(run, files, write(), *memory)
    assert (grown.code, grown.value["logs"][0]["continues"]) == (0, 14)
    remembered = (files / "state.json").read_bytes()
    again = audited(run, files, write(), *memory)
    assert (again.code, again.value["logs"][0]["continues"]) == (0, 20)

    rolled_back = short
    rewritten = write({"log-key": {"time": logs.T0 + 11}})
    beyond = write({"log-key": {"time": logs.T0 + 11}}, [*logs.story(), lies.late_answer()])
    for log in (rolled_back, rewritten, beyond):
        said = audited(run, files, log, *memory)
        assert said.code == 1
        (split,) = [finding for finding in said.value["logs"][0]["findings"] if finding["kind"] == "split"]
        assert ("it was cut" if log is rolled_back else "the past was rewritten") in split["words"]
        assert (files / "state.json").read_bytes() == remembered, "a lie is not remembered"


def test_state_across_a_bundles_edge(run: Run, files: Path) -> None:
    memory = ["--state", files / "state.json", "--json"]
    data = lies.long_log(700).entries
    for size in (255, 256, 257, 511, 512, 600):
        said = audited(run, files, logs.publish(data[:size]), *memory)
        assert said.code == 0, said.out
    other = [*data[:100], data[100].replace(b'"snapshot":3', b'"snapshot":4'), *data[101:]]
    assert audited(run, files, logs.publish(other), *memory).code == 1


@pytest.mark.parametrize(
    "text",
    [b"{", b"[]", b'{"format":"x","logs":{}}', b'{"format":"daulat/audit-state/v1","logs":{"ai.example/2026":1}}',
     b"\xff", b'{"format":"daulat/audit-state/v1","logs":{"ai.example/2026":"\\ud800"}}', b"[" * 100_000],
)  # fmt: skip
def test_a_broken_memory_is_said_and_never_overwritten(run: Run, files: Path, text: bytes) -> None:
    (files / "state.json").write_bytes(text)
    said = audited(run, files, write(), "--state", files / "state.json")
    assert said.code == 1
    assert "Traceback" not in said.err
    assert (files / "state.json").read_bytes() == text


def test_a_memory_signed_by_another_key_is_not_believed(run: Run, files: Path) -> None:
    other = Signer(SIGNER.name, bytes(32))
    signed = checkpoints.sign(checkpoints.Checkpoint(SIGNER.name, 1, bytes(32)), [other]).decode()
    (files / "state.json").write_bytes(state.encode({SIGNER.name: signed}))
    said = audited(run, files, write(), "--state", files / "state.json")
    assert said.code == 1
    assert "remembered checkpoint" in said.err


def test_promises_that_clients_kept_are_held_against_the_log(run: Run, files: Path) -> None:
    found = lies.promises(write())
    (files / "promises").write_text("".join(f"{promise.header()}\n" for kind, promise in found.values() if not kind))
    kept = audited(run, files, write(), "--promises", files / "promises", "--json")
    assert (kept.code, kept.value["logs"][0]["promises"]) == (0, {"kept": 1, "pending": 0})
    (files / "promises").write_text("\n\n".join(promise.header() for _, promise in found.values()))
    said = audited(run, files, write(), "--promises", files / "promises", "--json")
    assert said.code == 1
    assert {item["kind"] for item in said.value["logs"][0]["findings"]} == {"promise.broken", "promise.signature"}


def older_and_newer(**older: Any) -> dict[str, Published]:
    """Two shards of one log."""
    signer = SIGNER.renamed("ai.example/2025")
    first = write({"charter": {"origin": "ai.example/2025"}, "log-key": {"vkey": signer.vkey}, **older}, signer=signer)
    second = write({"charter": {"restates": {"origin": "ai.example/2025", "index": 0}}})
    return {"2025": first, "2026": second}


def test_every_shard_is_audited_and_a_lie_in_an_old_one_counts(run: Run, files: Path) -> None:
    both = audited(run, files, older_and_newer(), "--json", "--state", files / "state.json")
    assert both.code == 0, both.out
    assert [shard["origin"] for shard in both.value["logs"]] == ["ai.example/2026", "ai.example/2025"]
    assert set(state.parse((files / "state.json").read_bytes())) == {"ai.example/2026", "ai.example/2025"}
    lying = audited(run, files, older_and_newer(lease={"jurisdiction": "SG"}), "--json")
    assert lying.code == 1
    assert [shard["holds"] for shard in lying.value["logs"]] == [True, False]
    gone = older_and_newer()
    del gone["2025"]
    assert audited(run, files, gone).code == 1


def shard(period: str, *, before: str | None = None) -> Published:
    """A shard that goes on from another, or from none."""
    origin = f"{logs.NAME}/{period}"
    signer = SIGNER.renamed(origin)
    charter = {"origin": origin, "restates": before and {"origin": f"{logs.NAME}/{before}", "index": 0}}
    return write({"charter": charter, "log-key": {"vkey": signer.vkey}}, signer=signer)


def told(run: Run, files: Path, shards: dict[str, Published], newest: str, *more: object) -> Said:
    """An audit from the shard `newest` on, with the auditor's memory."""
    (files / "vkey").write_text(SIGNER.renamed(f"{logs.NAME}/{newest}").vkey)
    return audited(run, files, shards, "--state", files / "state.json", "--json", *more)


def test_a_log_that_is_begun_anew_in_another_shard_is_a_lie_to_whoever_remembers_the_older_one(
    run: Run, files: Path
) -> None:
    past = {"2025": shard("2025"), "2026": shard("2026", before="2025")}
    assert told(run, files, past, "2026").code == 0
    remembered = (files / "state.json").read_bytes()
    for name, shards in {
        "none goes before": {"2027": shard("2027")},
        "one that nobody has seen goes before": {"2027": shard("2027", before="2024"), "2024": shard("2024")},
        "one is left out": {"2027": shard("2027", before="2025"), "2025": past["2025"]},
    }.items():
        said = told(run, files, {**past, **shards}, "2027")
        assert (said.code, said.value["holds"], said.value["logs"][-1]["holds"]) == (1, False, False), name
        (found,) = [found for found in said.value["logs"][-1]["findings"] if found["lie"]]
        assert found["kind"] == "split"
        assert "it was begun anew" in found["words"]
        assert (files / "state.json").read_bytes() == remembered, "what was seen is not forgotten"
    assert told(run, files, {**past, "2027": shard("2027", before="2026")}, "2027").code == 0
    assert set(state.parse((files / "state.json").read_bytes())) == {
        f"ai.example/{year}" for year in (2025, 2026, 2027)
    }


def test_an_audit_from_an_older_shard_does_not_hold_for_the_later_ones_that_are_remembered(
    run: Run, files: Path
) -> None:
    both = {"2025": shard("2025"), "2026": shard("2026", before="2025")}
    assert told(run, files, both, "2026").code == 0
    remembered = (files / "state.json").read_bytes()
    said = told(run, files, both, "2025")
    assert (said.code, said.value["holds"], said.value["unreached"]) == (1, False, ["ai.example/2026"])
    assert said.value["logs"][0]["holds"], "that the later one was not reached is no lie of this one"
    assert (files / "state.json").read_bytes() == remembered
    spoken = audited(run, files, both, "--state", files / "state.json")
    assert spoken.code == 1
    assert "Audited before, and not led to from here: ai.example/2026" in spoken.out


def test_a_model_that_only_an_older_shard_shows_to_be_another_than_was_asked_for_is_a_lie(
    run: Run, files: Path
) -> None:
    shards = older_and_newer(action={"subject": "d" * 64, "detail": {"deployment": "tiny"}})
    assert audited(run, files, shards).code == 0
    silent = write({"charter": {"restates": {"origin": "ai.example/2025", "index": 0}}, "action": {"detail": {}}})
    said = audited(run, files, {**shards, "2026": silent}, "--json")
    assert (said.code, said.value["logs"][0]["findings"]) == (0, [])
    others = older_and_newer(action={"subject": "e" * 64, "detail": {"deployment": "tiny"}}, answer={})
    said = audited(run, files, {**others, "2026": silent}, "--json")
    assert said.code == 1
    assert "never deployed under that name" in said.value["logs"][0]["findings"][0]["words"]
    alone = audited(run, files, write({"action": {"detail": {}}}))
    assert alone.code == 0
    assert "weak  entry 9: nothing here says who deployed 'tiny'" in alone.out


def test_another_log_that_is_remembered_beside_this_one_is_no_matter(run: Run, files: Path) -> None:
    other = SIGNER.renamed("other.example/2025")
    signed = checkpoints.sign(checkpoints.Checkpoint(other.name, 1, bytes(32)), [other]).decode()
    (files / "state.json").write_bytes(state.encode({other.name: signed}))
    assert told(run, files, {"2026": write()}, "2026").code == 0
    assert set(state.parse((files / "state.json").read_bytes())) == {other.name, logs.ORIGIN}


def test_a_promise_of_a_shard_that_was_not_audited_is_found_and_not_passed_over(run: Run, files: Path) -> None:
    shards = older_and_newer()
    elsewhere = shards["2026"].promise(of="answer", origin="ai.example/2031")
    (files / "promises").write_text(f"{shards['2026'].promise(of='answer').header()}\n{elsewhere.header()}\n")
    said = told(run, files, shards, "2026", "--promises", files / "promises")
    assert said.code == 1
    (found,) = [found for report in said.value["logs"] for found in report["findings"] if found["lie"]]
    assert found["kind"] == "promise.origin"
    assert "'ai.example/2031', which was not audited here" in found["words"]


def test_texts_too_long_for_an_entry_are_fetched_and_checked(run: Run, files: Path) -> None:
    rules = logs.rules()
    longest = rules[-1]
    log = write({"policy": {"files": [*rules[:-1], {**longest, "text": None}]}})
    log.blobs[longest["sha256"]] = longest["text"].encode()
    assert audited(run, files, log).code == 0
    log.blobs[longest["sha256"]] += b"\n"
    assert hashlib.sha256(log.blobs[longest["sha256"]]).hexdigest() != longest["sha256"]
    assert audited(run, files, log).code == 1


def test_what_is_not_there_or_not_allowed_ends_in_one_line(run: Run, files: Path) -> None:
    (files / "token").write_text("another")
    said = audited(run, files, write())
    assert said.code == 1
    assert "token is not accepted" in said.err
    for url in ("http://127.0.0.1:9/log", "http://[::bad/log", "gopher://x", "/log"):
        said = run("audit", url, "--vkey", files / "vkey", "--token-file", files / "token")
        assert said.code == 1, url
        assert ("cannot be had" if url.startswith("http://127.") else "is no address") in said.err, url
    (files / "vkey").write_text(VERIFIER.renamed("ai.example/2031").vkey)
    assert audited(run, files, write()).code == 1


def test_what_a_log_says_cannot_draw_on_the_auditors_screen(run: Run, files: Path) -> None:
    said = audited(run, files, write({"lease": {"node": "\x1b[2Jholds\r\x07\u202e"}}))
    assert said.code == 1
    assert "holds\\r\\x07\\u202e" in said.out
    assert not {"\x1b", "\r", "\x07", "\u202e"} & set(said.out)

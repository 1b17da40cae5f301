"""`daulat receipt|verify|audit`: outputs, JSON shapes and exit codes. What they check is tested with `audit/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support import logs
from tests.support.verbs import Shell, base_install, log_site, site, write_file

from daulat.cli import receipt as receipt_verb

LOG = logs.write()
TOKEN = "at-auditor"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """What a user of the API has kept of one answer."""
    promise = LOG.promise("stream", of="answer").header()
    return {
        "receipt": write_file(tmp_path, "receipt.json", json.dumps(LOG.receipt("answer"))),
        "vkey": write_file(tmp_path, "log.vkey", f"{logs.SIGNER.vkey}\n"),
        "request": write_file(tmp_path, "question.json", logs.REQUEST),
        "response": write_file(tmp_path, "answer.json", logs.RESPONSE),
        "promise": write_file(tmp_path, "promise.txt", promise),
        "headers": write_file(
            tmp_path, "headers.txt", f"HTTP/1.1 200 OK\r\nDaulat-Promise: {promise}\r\nserver: x\r\n\r\n"
        ),
        "token": write_file(tmp_path, "token", f"{TOKEN}\n"),
    }


def verify(run: Shell, files: dict[str, Path], *names: str, **changed: object) -> Any:
    options = [part for name in names for part in (f"--{name}", files[name])]
    options += [part for name, value in changed.items() for part in (f"--{name}", value)]
    return run("verify", files["receipt"], "--vkey", files["vkey"], *options)


def test_a_receipt_that_holds_is_said_in_words(run: Shell, files: dict[str, Path]) -> None:
    said = verify(run, files, "request", "response", "promise")
    assert said.code == 0
    assert said.out.startswith(f"The receipt of {logs.request_id(1)} holds (entry 9 of {logs.ORIGIN}).")
    for words in ("Proven, whoever the operator is:", "Vouched for:", "Not proven:", "Falls short:"):
        assert f"\n\n{words}\n  - " in said.out
    for words in (
        "byte for byte",
        "unwitnessed: the operator could have shown others another log",
        'profile "evaluation"',
    ):
        assert words in said.out


def test_a_receipt_that_holds_is_said_to_scripts(run: Shell, files: dict[str, Path]) -> None:
    value = run("verify", files["receipt"], "--vkey", logs.SIGNER.vkey, "--json").value
    assert value["holds"] is True
    assert {"request_id", "index", "origin", "proven", "vouched", "unproven", "short"} <= set(value)


def test_the_promise_may_be_the_header_alone_or_all_that_curl_kept(run: Shell, files: dict[str, Path]) -> None:
    for source in ("promise", "headers"):
        assert "had promised this very admission" in verify(run, files, promise=files[source]).out
    files["promise"].write_text("\n")
    assert "holds no Daulat-Promise" in verify(run, files, "promise").err


def test_the_base_install_verifies_and_audits_and_says_that_decisions_were_not_run_again(
    files: dict[str, Path],
) -> None:
    given = ["--vkey", files["vkey"], "--request", files["request"], "--promise", files["headers"]]
    said = base_install("verify", files["receipt"], *given)
    assert (said.returncode, said.stderr) == (0, "")
    assert "byte for byte" in said.stdout
    assert "run again here" not in said.stdout
    with site(log_site(LOG)) as served:
        audited = base_install("audit", served.url, "--vkey", files["vkey"], "--token-file", files["token"])
    assert audited.returncode == 0
    assert "Decisions were not run again: install daulat[serve] for that." in audited.stdout


@pytest.mark.parametrize("name", ["request", "response"])
def test_another_byte_is_a_lie_and_exit_1(run: Shell, files: dict[str, Path], name: str) -> None:
    files[name].write_bytes(files[name].read_bytes() + b" ")
    said = verify(run, files, name)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("daulat: step 7")
    scripted = run("verify", files["receipt"], "--vkey", files["vkey"], f"--{name}", files[name], "--json")
    assert scripted.value["error"]["code"] == "verification_failed"


def test_another_key_is_a_lie_and_no_key_is_said(run: Shell, files: dict[str, Path]) -> None:
    stranger = logs.Signer(logs.ORIGIN, bytes(range(1, 33))).vkey
    assert run("verify", files["receipt"], "--vkey", stranger).code == 1
    assert "neither a public key" in run("verify", files["receipt"], "--vkey", "nothing").err
    assert run("verify", files["receipt"]).code == 2, "a receipt is never checked with the key that it brings along"


def test_what_is_no_receipt_is_refused(run: Shell, files: dict[str, Path]) -> None:
    for text in ("", "{}", "[" * 5000, '{"format": "daulat/receipt/v2"}'):
        files["receipt"].write_text(text)
        said = verify(run, files)
        assert (said.code, said.err.count("\n")) == (1, 1)


def audit(run: Shell, url: str, files: dict[str, Path], *more: object) -> Any:
    return run("audit", url, "--vkey", files["vkey"], "--token-file", files["token"], *more)


def test_an_audit_that_holds_remembers_what_it_saw(run: Shell, files: dict[str, Path], tmp_path: Path) -> None:
    state = tmp_path / "audit.json"
    with site(log_site(LOG)) as served:
        first = audit(run, served.url, files, "--state", state)
        again = audit(run, f"{served.url}/log/", files, "--state", state)
        assert {authorization for _, authorization in served.asked} == {f"Bearer {TOKEN}"}
    assert (first.code, again.code) == (0, 0)
    assert f"{logs.ORIGIN}, 20 entries: holds." in first.out
    assert "7 decisions were run again" in first.out
    assert "It continues" not in first.out
    assert "It continues the 20 entries of the last audit." in again.out
    assert "short unwitnessed" in first.out


def test_an_audit_for_scripts(run: Shell, files: dict[str, Path]) -> None:
    with site(log_site(LOG)) as served:
        value = audit(run, served.url, files, "--promises", files["promise"], "--json").value
    assert value["holds"] is True
    (log,) = value["logs"]
    assert set(log) == {
        *("origin", "size", "holds", "findings", "findings_omitted", "short", "types"),
        *("ceremony", "decisions_rerun", "promises", "continues"),
    }
    assert log["promises"] == {"kept": 1, "pending": 0}
    assert log["types"]["inference/v1"] == 6


def test_an_empty_file_of_promises_is_no_promise(run: Shell, files: dict[str, Path]) -> None:
    files["promise"].write_text("")
    with site(log_site(LOG)) as served:
        assert audit(run, served.url, files, "--promises", files["promise"], "--json").value["holds"] is True


def test_a_lie_is_named_exits_with_1_and_is_not_remembered(run: Shell, files: dict[str, Path], tmp_path: Path) -> None:
    state = tmp_path / "audit.json"
    lying = logs.write({"lease": {"jurisdiction": "SG"}})
    with site(log_site(lying)) as served:
        said = audit(run, served.url, files, "--state", state)
    assert said.code == 1
    assert "DOES NOT HOLD" in said.out
    assert "LIE   " in said.out
    assert not state.exists()


def test_a_log_that_was_cut_is_a_split(run: Shell, files: dict[str, Path], tmp_path: Path) -> None:
    state = tmp_path / "audit.json"
    with site(log_site(LOG)) as served:
        assert audit(run, served.url, files, "--state", state).code == 0
    before = state.read_bytes()
    with site(log_site(logs.write(steps=logs.story()[:-2]))) as served:
        said = audit(run, served.url, files, "--state", state, "--json")
    assert said.code == 1
    assert "split" in {finding["kind"] for log in said.value["logs"] for finding in log["findings"]}
    assert state.read_bytes() == before


@pytest.mark.parametrize(("status", "code"), [(401, "invalid_api_key"), (404, "not_found"), (500, "unavailable")])
def test_a_log_that_cannot_be_had_is_no_lie_but_an_error(
    run: Shell, files: dict[str, Path], status: int, code: str
) -> None:
    with site({"/log/2026/checkpoint": (status, b"")}) as served:
        said = audit(run, served.url, files, "--json")
    assert (said.code, said.value["error"]["code"]) == (1, code)


def test_a_receipt_is_fetched_as_it_is_and_the_next_step_named(
    run: Shell, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    id_, kept = logs.request_id(1), tmp_path / "kept.json"
    key = write_file(tmp_path, "key", "sk-file\n")
    monkeypatch.setenv("DAULAT_API_KEY", "sk-env")
    with site({f"/v1/receipts/{id_}": files["receipt"].read_bytes()}) as served:
        said = run("receipt", id_, "--url", served.url, "-o", kept)
        assert (
            run("receipt", id_, "--url", f"{served.url}/", "--key-file", key).out.strip()
            == files["receipt"].read_text()
        )
        written = run("receipt", id_, "--url", served.url, "-o", kept, "--json").value
        assert [authorization for _, authorization in served.asked] == [
            "Bearer sk-env",
            "Bearer sk-file",
            "Bearer sk-env",
        ]
    assert said.code == 0
    assert f"daulat verify {kept}" in said.out
    assert kept.read_bytes() == files["receipt"].read_bytes()
    assert written == {"request_id": id_, "file": str(kept)}


def test_why_a_receipt_cannot_be_had(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = logs.request_id(1)
    assert "DAULAT_API_KEY" in run("receipt", id_).err
    monkeypatch.setenv("DAULAT_API_KEY", "sk-env")
    monkeypatch.setattr(receipt_verb, "_PATIENCE", 0.5)
    assert "is no request id" in run("receipt", "req_1").err
    with site({f"/v1/receipts/{id_}": (401, b"")}) as served:
        refused = run("receipt", id_, "--url", served.url, "--json")
        absent = run("receipt", logs.request_id(2), "--url", served.url, "--json")
    assert refused.value["error"]["code"] == "invalid_api_key"
    assert absent.value["error"]["code"] == "not_found"
    why = json.dumps({"error": {"message": "Your key is for other networks.", "code": "x"}}).encode()
    cases = ((403, why, "permission_denied"), (503, why, "unavailable"), (503, b"<html>", "unavailable"))
    for status, body, code in (*cases, (308, b"[]", "unavailable")):
        monkeypatch.setattr(receipt_verb, "_PATIENCE", 60)  # it is not asked twice
        with site({f"/v1/receipts/{id_}": (status, body)}) as served:
            error = run("receipt", id_, "--url", served.url, "--json").value["error"]
            assert len(served.asked) == 1
        assert error["code"] == code
        assert ("for other networks" if body == why else f"status {status}") in error["message"]
    monkeypatch.setattr(receipt_verb, "_PATIENCE", 0.5)
    silent = run("receipt", id_, "--url", served.url, "--json").value["error"]
    assert silent["code"] == "unavailable"
    assert "--url" in silent["message"], "the service may listen elsewhere"

"""`daulat deploy`, `deployments`, `replicas`, `logs`, `drain`, `stop`: what is asked, and what people see."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support import gguf_files
from tests.support.verbs import Shell

from daulat.cli import deploy as module
from daulat.errors import NotFound
from daulat.settings import Home

ROW: dict[str, Any] = {
    "name": "tiny",
    "model": "tiny",
    "admitted": 9,
    "generation": 2,
    "spec": {"model": "ab" * 32, "replicas": 2},
    "status": {
        "revision": 2,
        "ready_replicas": 1,
        "conditions": [
            {"type": "Available", "status": "False", "reason": "x", "message": "1 of 2 replicas answer"},
            {"type": "Progressing", "status": "True", "reason": "Rollout", "message": "1 of 2 are ready"},
        ],
    },
}
REPLICA = {
    "id": "3284e53fadf21e47",
    "deployment": "tiny",
    "revision": 2,
    "phase": "broken",
    "requests": 0,
    "slots": None,
    "threads": 1,
    "ends": 2,
    "last": "crashed: signal SIGKILL",
}


def row(status: str, reason: str, message: str = "so it is") -> dict[str, Any]:
    made = copy.deepcopy(ROW)
    made["status"]["conditions"][1] |= {"status": status, "reason": reason, "message": message}
    return made


class Answers:
    """The service: scripted answers by method, the last one again and again; what it was asked is kept."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.script: dict[str, list[Any]] = {}

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.asked]

    def __call__(self, _home: Home, method: str, **params: Any) -> Any:
        self.asked.append((method, params))
        answers = self.script[method]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Answers:
    made = Answers()
    monkeypatch.setattr(module, "ask", made)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0)
    return made


def test_only_what_is_given_is_changed(run: Shell, service: Answers) -> None:
    service.script = {"deploy": [ROW]}
    assert run("deploy", "tiny", "--replicas", 2, "--no-wait").code == 0
    ((method, asked),) = service.asked
    assert (method, asked["model"], asked["name"]) == ("deploy", "tiny", "")
    assert {key: value for key, value in asked["changes"].items() if value is not None} == {"replicas": 2}


def test_all_options_reach_the_service(run: Shell, service: Answers) -> None:
    service.script = {"deploy": [ROW]}
    said = run(
        *("deploy", "tiny", "--name", "clerk", "--engine", "vllm", "--engine-options", '{"kv_cache_gib": 1}'),
        *("--on", "npu:0,npu:1", "--slots", 8, "--context", 512, "--drain-seconds", 5, "--strategy", "recreate"),
        *("--no-wait", "--json"),
    )
    assert said.value == ROW
    assert service.asked[0][1]["name"] == "clerk"
    assert service.asked[0][1]["changes"] == {
        "engine": "vllm",
        "options": {"kv_cache_gib": 1},
        "replicas": None,
        "devices": ["npu:0", "npu:1"],
        "slots": 8,
        "context": 512,
        "strategy": "recreate",
        "drain_seconds": 5,
    }
    run("deploy", "tiny", "--on", "cpu", "--no-wait")
    assert service.asked[1][1]["changes"]["devices"] == []


def test_it_waits_until_everything_runs(run: Shell, service: Answers) -> None:
    service.script = {"deploy": [ROW], "deployments": [[ROW], [row("True", "Complete")]]}
    said = run("deploy", "tiny")
    assert said.code == 0
    assert "1 of 2 are ready ..." in said.err
    assert "Progressing  True   so it is" in said.out


@pytest.mark.parametrize("reason", ["RolledBack", "Blocked"])
def test_a_rollout_that_was_given_up_ends_with_1_and_the_reason(run: Shell, service: Answers, reason: str) -> None:
    given_up = row("False", reason, "its engine ended 3 times")
    service.script = {"deploy": [ROW], "deployments": [[ROW], [given_up]]}
    said = run("deploy", "tiny")
    assert said.code == 1
    assert "Progressing  False  its engine ended 3 times" in said.out


def test_a_deployment_that_is_stopped_meanwhile_is_not_waited_for(run: Shell, service: Answers) -> None:
    service.script = {"deploy": [ROW], "deployments": [[]]}
    said = run("deploy", "tiny")
    assert (said.code, "was stopped meanwhile" in said.err) == (1, True)


def test_a_file_is_imported_first(run: Shell, service: Answers, tmp_path: Path) -> None:
    service.script = {"deploy": [ROW]}
    path = tmp_path / "small.gguf"
    path.write_bytes(gguf_files.make(gguf_files.KEYS))
    assert run("deploy", path, "--no-wait").code == 0
    (held,) = [entry["digest"] for entry in run("model", "list", "--json").value]
    assert service.asked[0][1]["model"] == held


@pytest.mark.parametrize("text", ["{", "[]", "7"])
def test_options_that_are_no_object_are_refused(run: Shell, service: Answers, text: str) -> None:
    said = run("deploy", "tiny", "--engine-options", text)
    assert (said.code, "--engine-options" in said.err, service.asked) == (1, True, [])


def test_lists_are_tables_for_people_and_whole_for_scripts(run: Shell, service: Answers) -> None:
    service.script = {"deployments": [[ROW]], "replicas": [[REPLICA]]}
    assert run("deployments").out.splitlines()[1].split() == (
        ["tiny", "abababababab", "1", "of", "2", "2", "Rollout", "1", "of", "2", "are", "ready"]
    )
    assert "broken" in run("replicas").out
    assert "crashed: signal SIGKILL" in run("replicas").out
    assert run("deployments", "--json").value == [ROW]
    assert run("replicas", "--json").value == [REPLICA]
    service.script = {"deployments": [[]], "replicas": [[]]}
    assert "daulat deploy MODEL" in run("deployments").out
    assert "daulat deploy MODEL" in run("replicas").out


def test_acts_say_what_comes_of_them(run: Shell, service: Answers) -> None:
    service.script = {
        "logs": [["one", "two \x1b[31m"]],
        "replica.drain": [{"id": "3284", "deployment": "tiny", "draining": True}],
        "deployment.stop": [{"name": "tiny", "stopped": True}],
    }
    assert run("logs", "3284", "--lines", 2).out == "one\ntwo \\x1b[31m\n"
    assert "goes as soon as another answers" in run("drain", "3284").out
    assert "tiny is stopped" in run("stop", "tiny", "--no-wait").out
    assert [asked for _, asked in service.asked] == [
        {"replica": "3284", "lines": 2},
        {"replica": "3284"},
        {"deployment": "tiny"},
    ]
    assert run("logs", "3284", "--lines", 0).code == 2


def test_a_stop_waits_until_nothing_of_it_runs_and_every_worker_knows(run: Shell, service: Answers) -> None:
    service.script = {
        "deployment.stop": [{"name": "tiny", "stopped": True}],
        "deployments": [[]],
        "replicas": [[{**REPLICA, "phase": "draining", "requests": 2}], []],
    }
    said = run("stop", "tiny")
    assert "1 replicas end, 2 requests are still answered ..." in said.err
    assert "nothing of it runs any more" in said.out
    assert service.methods == ["deployment.stop", "deployments", "replicas", "deployments", "replicas"]


def test_a_stop_does_not_wait_for_what_was_deployed_again_meanwhile(run: Shell, service: Answers) -> None:
    service.script = {
        "deployment.stop": [{"name": "tiny", "stopped": True}],
        "deployments": [[ROW]],
        "replicas": [[REPLICA]],
    }
    assert run("stop", "tiny").code == 0


def test_what_is_stated_of_a_server_outside_reaches_the_service_and_the_store(run: Shell, service: Answers) -> None:
    service.script = {"deploy": [ROW]}
    stated = ("--licence", "MIT", "--origin", "weights of March", "--country", "MY", "--site", "hall 2")
    pin = "AB:" * 31 + "AB"
    run("deploy", "agency", "--address", f"https://llm.example.my#{pin}", *stated, "--no-wait", "--vouched-by", "NACSA")
    ((_, asked),) = service.asked
    (held,) = run("model", "list", "--json").value
    assert (held["format"], held["licence"], held["digest"]) == ("external", "mit", asked["model"])
    assert (asked["name"], asked["changes"]["engine"]) == ("agency", "external")
    assert asked["changes"]["options"] == {
        "address": f"tls:llm.example.my:443#{'ab' * 32}",
        "country": "MY",
        "site": "hall 2",
        "vouched_by": "NACSA",
        "grade": "G3",
    }
    said = run("deploy", "agency", "--address", "http://llm.example.my")
    assert "must be stated: --licence, --origin, --country, --site" in said.err


def _nothing(_home: Home, method: str, **_params: Any) -> Any:
    raise NotFound(f"nothing for {method}")


@pytest.mark.parametrize("verb", [("deploy", "x"), ("logs", "x"), ("drain", "x"), ("stop", "x"), ("replicas",)])
def test_refusals_are_one_line_and_exit_code_1(
    run: Shell, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    refuse: Callable[..., Any] = _nothing
    monkeypatch.setattr(module, "ask", refuse)
    said = run(*verb, "--json")
    assert (said.code, said.value["error"]["code"]) == (1, "not_found")

"""What operators do to each other and to themselves: two at once, a kill in the middle, one place for old and new."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.askers import Askers
from tests.support.service import LONG_SECONDS, Service, daulat, two_slots

from daulat.adapters import sandbox

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(sandbox.check().grade != "G2", reason="bubblewrap cannot make namespaces on this machine"),
]
MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with two_slots(tmp_path_factory.mktemp("operating")) as made:
        yield made


def begin(service: Service, *verb: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "daulat", *verb, "--json"]
    environment = {**os.environ, "DAULAT_HOME": str(service.home)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def deployment(service: Service) -> dict[str, Any]:
    (row,) = [row for row in daulat("deployments", home=service.home) if row["name"] == MODEL]
    return dict(row)


def contexts(service: Service) -> list[int]:
    """The context of each engine that was started, oldest first."""
    return [entry["engine"]["parameters"]["context"] for entry in service.entries("replica.started/v1")]


def test_recreating_ends_the_old_replica_first_and_cuts_no_answer(service: Service) -> None:
    with Askers(service, MODEL, count=4) as asking:
        asking.more(4)
        found = dict(daulat("deploy", MODEL, "--strategy", "recreate", "--context", "576", home=service.home))
        asking.more(4)
    assert found["status"]["conditions"][1]["reason"] == "Complete"
    assert {answer.status for answer in asking.answers} <= {200, 503}, "while none is there, clients are told"
    begun = [answer for answer in asking.answers if answer.status == 200]
    assert [answer for answer in begun if answer.error or not answer.whole or not answer.text] == []
    (stopped,) = service.entries("replica.stopped/v1")
    old, new = service.entries("replica.started/v1")
    assert stopped["replica"] == old["replica"]
    assert stopped["exact"] is True
    assert stopped["time"] <= new["time"]
    assert contexts(service) == [512, 576]


def test_of_two_deploys_at_once_one_comes_after_the_other_and_the_last_one_holds(service: Service) -> None:
    daulat("deploy", MODEL, "--strategy", "rolling", home=service.home)
    generation = deployment(service)["generation"]
    both = [begin(service, "deploy", MODEL, "--context", context) for context in ("640", "704")]
    said = [each.communicate(timeout=LONG_SECONDS) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    found = deployment(service)
    assert found["generation"] == generation + 2
    assert found["status"]["conditions"][1]["reason"] == "Complete"
    assert found["spec"]["context"] in {640, 704}
    assert contexts(service)[-1] == found["spec"]["context"]
    actions = service.entries("operator.action/v1")[-2:]
    assert [entry["action"] for entry in actions] == ["deployment.apply"] * 2
    began = {entry["engine"]["parameters"]["context"]: entry["time"] for entry in service.entries("replica.started/v1")}
    for context in {json.loads(out)["spec"]["context"] for out, _ in said} - {found["spec"]["context"]}:
        assert began[context] <= actions[-1]["time"], "each says how it is now, or was before the other one came"


def test_killed_in_the_middle_of_a_deploy_it_ends_it_after_the_next_start(service: Service, tmp_path: Path) -> None:
    deploying = begin(service, "deploy", MODEL, "--replicas", "2", "--context", "768")
    service.wait(lambda: any("--context 768" in line for line in service.left_running()))  # sooner than a verb says it
    assert service.process is not None
    service.process.send_signal(signal.SIGKILL)
    _, error = deploying.communicate(timeout=LONG_SECONDS)
    assert deploying.returncode != 0, "it cannot say that all is well"
    assert b"Traceback" not in error
    service.__exit__()
    service.wait(lambda: service.left_running() == [])
    service.start("--slots", "1")
    service.wait(lambda: deployment(service)["status"]["conditions"][1]["reason"] == "Complete")
    assert deployment(service)["status"]["ready_replicas"] == 2
    assert contexts(service)[-2:] == [768, 768], "what an operator deployed stays, beside what is new for `daulat up`"
    assert deployment(service)["spec"]["slots"] == 1
    with Askers(service, MODEL, count=2) as asking:
        asking.more(4)
    assert [answer for answer in asking.answers if answer.status != 200] == []
    (tmp_path / "token").write_text(service.facts["auditor_token"])
    asked = ("--vkey", service.facts["log_vkey"], "--token-file", str(tmp_path / "token"))
    daulat("audit", service.facts["log_url"], *asked)
    assert daulat("log", "fsck", home=service.home)["sound"]


def test_nothing_is_left_running(service: Service) -> None:
    assert service.stop() == 0
    service.wait(lambda: service.left_running() == [], 20)  # what had to be killed is gone a moment later

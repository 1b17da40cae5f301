"""A first run as the README tells it, and what every page says to type: against the real service."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.service import Service, daulat, free_port

from daulat.settings import Home

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def shell(command: str, folder: Path, service: Service, *, code: int = 0, **environment: str) -> str:
    """Run a line of a page where its files are; what it printed."""
    known = {"DAULAT_HOME": str(service.home), "DAULAT_API_KEY": service.facts["api_key"]}
    path = f"{BIN}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **known, "PATH": path, "no_proxy": "127.0.0.1", **environment},
        timeout=120,
    )
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def typed(page: str, start: str) -> Iterator[str]:
    """The commands after `$` in a page, whole over several lines, from the one that begins with `start` on."""
    lines = (ROOT / page).read_text().splitlines()
    begun = False
    for number, line in enumerate(lines):
        begun = begun or line.startswith(f"$ {start}")
        if begun and line.startswith("$ "):
            yield next(
                command
                for command in ("\n".join(lines[number : end + 1])[2:] for end in range(number, len(lines)))
                if _whole(command)
            )


def _whole(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("first") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def folder(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user types: with the log's key and an auditor's token, as the pages assume."""
    made = tmp_path_factory.mktemp("user")
    (made / "log.vkey").write_text(service.facts["log_vkey"])
    (made / "token").write_text(service.facts["auditor_token"])
    return made


@pytest.fixture(scope="module")
def walk(service: Service, folder: Path) -> list[str]:
    """What the README's commands print, from the first question on; the files they leave are in `folder`."""
    said, request_id = [], "none"
    for command in typed("README.md", "echo"):
        if command.startswith(". .venv"):
            continue
        line = command.replace("http://127.0.0.1:8470", service.facts["url"])
        line = re.sub(r"req_[0-9a-f]{32}", request_id, line)
        if " receipt req_" in line:
            line += f" --url {service.facts['url']}"
        said.append(shell(line, folder, service, code=1 if "verify" in line and "forged" in line else 0))
        if "curl" in line:
            (request_id,) = set(re.findall(r"x-request-id: (req_[0-9a-f]{32})", (folder / "headers.txt").read_text()))
    return [request_id, *said]


def test_the_readme_from_the_first_question_to_the_audit(walk: list[str]) -> None:
    request_id, everything = walk[0], "\n".join(walk[1:])
    assert "The capital of Malaysia is Kuala Lumpur." in everything
    assert f"The receipt of {request_id} holds" in everything
    assert "daulat: step 7 (bodies): the response's" in everything
    assert "entries: holds." in everything


def test_what_up_prints_can_be_pasted(service: Service, tmp_path: Path) -> None:
    """The announcement of a later start, with the first start's key in the environment."""
    assert service.stop() == 0
    command = [sys.executable, "-m", "daulat", "up", "--home", str(service.home), "--port", str(service.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        printed = ""
        while "Ctrl-C stops everything." not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        curl = printed[printed.index("  curl") : printed.index("\n\n", printed.index("  curl"))]
        answer = shell(curl, tmp_path, service)
        assert "Kuala Lumpur" in answer
        python = printed[printed.index("  import os") : printed.index("\n\nCheck it")]
        (tmp_path / "ask.py").write_text("\n".join(line[2:] for line in python.splitlines()))
        assert "Kuala Lumpur" in shell(f"{sys.executable} ask.py", tmp_path, service)
        (request_id,) = set(re.findall(r"x-request-id: (req_[0-9a-f]{32})", answer))
        for line in re.findall(r"^  (.* (?:receipt|verify) .*)$", printed, re.MULTILINE):
            if "daulat" in line:
                said = shell(line.replace("req_...", request_id), tmp_path, service)
        assert "holds" in said
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    service.wait(lambda: service.left_running() == [], 20)  # what had to be killed is gone a moment later
    service.start()


def test_the_developers_guide_keeps_and_checks_the_proof(service: Service, folder: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/developer.md").read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "Keeper" in block]
    example = example.replace("http://127.0.0.1:8470", service.facts["url"]).replace("sk-...", service.facts["api_key"])
    (folder / "keep.py").write_text(example)
    said = shell(f"{sys.executable} -W ignore::ResourceWarning keep.py", folder, service)
    assert "byte for byte" in said
    assert "had promised this very admission" in said


def test_the_operators_daily_round(service: Service, folder: Path) -> None:
    text = (ROOT / "docs/operator.md").read_text()
    daily = text[text.index("**Who may use it.**") : text.index("**Another model.**")]
    lines = re.findall(r"^    (daulat .*)$", daily, re.MULTILINE)
    assert len(lines) == 3
    printed = [shell(line, folder, service) for line in lines]
    (secret,) = re.findall(r"^(sk-\S+)$", printed[-1], re.MULTILINE)
    got = service.client()
    got.headers["authorization"] = f"Bearer {secret}"
    with got as client:
        body = {"model": "smollm2-135m-instruct", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
        assert client.post("chat/completions", json=body).status_code == 200
    for line in (
        "daulat status",
        "daulat log show",
        "daulat log key",
        "daulat log fsck",
        "daulat doctor",
        "daulat key list",
    ):
        shell(line, folder, service)
    assert "use.citizenship" in shell("daulat policy explain --citizenship SG", folder, service)


@pytest.mark.usefixtures("walk")
def test_the_auditors_commands(service: Service, folder: Path) -> None:
    lines = re.findall(r"^    (daulat .*)$", (ROOT / "docs/auditor.md").read_text(), re.MULTILINE)
    assert [shlex.split(line)[1] for line in lines] == ["verify", "audit"]
    for line in lines:
        said = shell(line.replace("https://ai.agency.gov.my/log", service.facts["log_url"]), folder, service)
        assert "holds" in said
    assert (folder / "audit.json").exists()
    assert "It continues" in shell(
        lines[1].replace("https://ai.agency.gov.my/log", service.facts["log_url"]), folder, service
    )


def test_two_starts_on_one_home_and_a_port_that_is_taken(service: Service, tmp_path: Path) -> None:
    again = daulat("up", "--home", str(service.home), "--port", str(free_port()), code=1)
    assert "is running already" in again
    other = daulat("up", "--home", str(tmp_path / "other"), "--port", str(service.port), code=1)
    assert "Address already in use" in other
    assert service.status()["not_serving_because"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["ctrl-c", "terminal closes"])
def test_make_up_in_a_process_group_that_is_told_to_end(tmp_path: Path, number: signal.Signals) -> None:
    """As in a terminal: the signal reaches make, the command and every process at once."""
    stamp = BIN.parent / "serve.stamp"
    if not stamp.exists():
        pytest.skip("this environment was not made by make")
    home, port = tmp_path / "a home", free_port()
    command = ["env", "--default-signal=INT,HUP"]  # under nohup, or behind `&`, they would be ignored
    command += ["make", "--no-print-directory", "up", f"VENV={BIN.parent}"]
    command += [f"ARGS=--json --home '{home}' --port {port}"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert f'"home": "{home}"' in process.stdout.readline()
        service = Service(home, port)
        assert service.engines()
        os.killpg(process.pid, number)
        process.wait(120)
    service.wait(lambda: not service.left_running())
    assert list(Home(home).run.iterdir()) == []


def test_a_killed_control_process_leaves_nothing_and_the_next_start_serves(service: Service) -> None:
    engines = service.engines()
    assert engines
    service.stop(signal.SIGKILL)
    service.wait(lambda: not service.left_running() and not any(Path(f"/proc/{pid}").exists() for pid in engines))
    service.start()
    assert service.status()["not_serving_because"] == []

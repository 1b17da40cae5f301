"""The real engine in trouble: hung, too big, escaped, misused, unloadable; and under an ordinary user."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.support.corrupt import Direct
from tests.support.gguf_files import KEYS, make
from tests.support.service import Service, daulat, free_port

from daulat.adapters import sandbox
from daulat.settings import Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(sandbox.check().grade != "G2", reason="bubblewrap cannot make namespaces on this machine"),
]
MODEL = "smollm2-135m-instruct"
ASK = [{"role": "user", "content": "What is the capital of Malaysia?"}]
LONG = {"model": MODEL, "messages": ASK, "stream": True, "max_tokens": 4000, "ignore_eos": True}
BECOME = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env")
HOLE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    if result:
        raise OSError(ctypes.get_errno(), "no hole could be made")
must(libc.setns(os.open(f"/proc/{sys.argv[1]}/ns/mnt", os.O_RDONLY), 0))
must(libc.mount(b"tmpfs", b"/daulat", b"tmpfs", 0, b"mode=1777"))
"""


@pytest.fixture(scope="module")
def service(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(
        tmp_path_factory.mktemp("trouble") / "home",
        environment={"DAULAT_CANARY_SECONDS": "2", "DAULAT_CONTEXT": "4096", "DAULAT_MODEL": str(starter)},
    )
    made.start("--slots", "1")
    with made.closing():
        yield made


def engine(service: Service) -> psutil.Process:
    (pid,) = service.engines()
    return psutil.Process(pid)


def answers(service: Service) -> bool:
    with service.client() as client:
        got = client.post("chat/completions", json={"model": MODEL, "messages": ASK, "max_tokens": 2})
    return got.status_code == 200


@contextlib.contextmanager
def streaming(service: Service) -> Iterator[Iterator[str]]:
    """The lines of an answer that goes on and on, once it has begun."""
    with service.client() as client, client.stream("POST", "chat/completions", json=LONG) as got:
        lines = got.iter_lines()
        next(lines)
        yield lines


def stopped(service: Service) -> str:
    """Why the engine stopped last."""
    return str(service.entries("replica.stopped/v1")[-1]["reason"])


def direct(service: Service) -> Direct:
    (path,) = Home(service.home).run.glob("engine-*/e.sock")
    return Direct(path)


def test_the_engine_listens_on_its_unix_socket_alone_and_answers_no_web_page(service: Service) -> None:
    assert [connection for connection in engine(service).net_connections() if connection.status == "LISTEN"] == []
    connection = direct(service)
    with contextlib.closing(connection):
        connection.request("OPTIONS", "/v1/chat/completions", headers={"Origin": "http://elsewhere"})
        answer = connection.getresponse()
        answer.read()
        assert not answer.getheader("Access-Control-Allow-Origin")
        assert not answer.getheader("Access-Control-Allow-Headers")
        for path, status in (("/", 404), ("/index.html", 404), ("/slots", 501), ("/metrics", 200)):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status, path


def test_browsers_of_other_origins_are_kept_out_by_the_gateway_too(service: Service) -> None:
    url = f"{service.facts['url']}/v1/chat/completions"
    asked = {"origin": "http://elsewhere", "access-control-request-method": "POST"}
    for got in (
        httpx.options(url, headers=asked, timeout=120),
        httpx.get(url.replace("v1/chat/completions", "healthz"), headers=asked, timeout=120),
    ):
        assert got.status_code == 200
        assert not any(name.startswith("access-control") for name in got.headers)


def test_an_engine_that_hangs_is_noticed_and_replaced(service: Service) -> None:
    with streaming(service) as lines:
        engine(service).send_signal(signal.SIGSTOP)
        rest = "\n".join(lines)
    assert '"error"' in rest
    assert "[DONE]" not in rest
    assert "hung: no health answer" in service.wait(lambda: service.entries("replica.stopped/v1"))[-1]["reason"]
    assert service.wait(lambda: answers(service))


@contextlib.contextmanager
def without_model(service: Service) -> Iterator[None]:
    """No engine can be started meanwhile; one that runs has it open."""
    (model,) = (service.home / "models").glob("*/model.gguf")
    away = model.rename(model.with_suffix(".away"))
    try:
        yield
    finally:
        away.rename(model)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can open a hole in a running sandbox from outside")
def test_a_hole_in_a_running_sandbox_is_found_and_nothing_is_answered_until_it_is_gone(service: Service) -> None:
    leases = len(service.entries("node.lease/v1"))
    got: list[tuple[int, str]] = []

    def told() -> bool:
        with service.client() as client:
            answer = client.post("chat/completions", json={"model": MODEL, "messages": ASK, "max_tokens": 2})
        got.append((answer.status_code, answer.text))
        return answer.status_code == 503 and "canary: escaped" in answer.text

    with streaming(service) as lines, without_model(service):  # else a new engine may be there before anybody asks
        first = engine(service).ppid()
        subprocess.run([sys.executable, "-c", HOLE, str(first)], check=True, timeout=120)
        rest = "\n".join(lines)
        service.wait(told)
    assert '"error"' in rest
    assert "[DONE]" not in rest
    assert {status for status, _ in got} <= {502, 503}  # 502: the engine is gone, the revocation on its way
    service.wait(lambda: answers(service))
    (escape,) = [entry for entry in service.entries("canary/v1") if entry["outcome"] == "escaped"]
    holes = [probe for probe in escape["probes"] if probe["outcome"] != "refused"]
    assert [(probe["kind"], probe["target"]) for probe in holes] == [("write", "/daulat")]
    (revoked,) = service.entries("node.revoked/v1")
    assert revoked["reason"] == "canary: escaped"
    assert stopped(service).startswith("canary: escaped")
    assert len(service.entries("node.lease/v1")) > leases, "it serves again in a new sandbox, under a new lease"
    assert engine(service).ppid() != first


def test_an_engine_used_behind_the_gateways_back_shows_in_the_audit(service: Service, tmp_path: Path) -> None:
    service.stop()
    fresh = Service(tmp_path / "home", environment={**service.environment, "DAULAT_CONTEXT": "256"})  # holds no more
    fresh.start("--slots", "1")
    token = tmp_path / "token"
    token.write_text(fresh.facts["auditor_token"])
    known = ["audit", fresh.facts["log_url"], "--vkey", fresh.facts["log_vkey"], "--token-file", str(token)]
    with fresh.closing():
        assert answers(fresh)

        def read_again() -> None:
            before = len(fresh.entries("canary/v1"))
            fresh.wait(lambda: len(fresh.entries("canary/v1")) > before + 1)

        read_again()
        assert daulat(*known)["logs"][0]["findings"] == []
        with contextlib.closing(direct(fresh)) as connection:
            for _ in range(3):  # more than one slot could hold unfinished
                body = {"prompt": "Once upon a time", "max_tokens": 120, "ignore_eos": True}
                connection.request("POST", "/v1/completions", json.dumps(body))
                assert json.loads(connection.getresponse().read())["usage"]["completion_tokens"] == 120
        read_again()
        found = daulat(*known, code=1)["logs"][0]
        assert found["holds"] is False
        assert "behind the gateway's back" in json.dumps(found["findings"])


def test_an_engine_that_outgrows_its_memory_is_ended_with_the_figures_in_the_log(starter: Path, tmp_path: Path) -> None:
    small = {"DAULAT_ENGINE_MEMORY_MIB": "120", "DAULAT_MODEL": str(starter), "DAULAT_CANARY_SECONDS": "2"}
    service = Service(tmp_path / "home", environment=small)
    with service.closing():
        with contextlib.suppress(AssertionError):  # it is ended so soon that nobody may see it ready in three tries
            service.start()
        reason = service.wait(lambda: service.entries("replica.stopped/v1"))[0]["reason"]
        assert reason.startswith("memory: ")
        assert reason.endswith("MiB resident, 120 allowed")


def test_a_model_that_the_engine_cannot_load_is_told_with_the_engines_own_reason(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(make(KEYS))
    command = [sys.executable, "-m", "daulat", "up", "--home", str(tmp_path / "home"), "--port", str(free_port())]
    done = subprocess.run(
        [*command, "--model", str(bad)],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode != 0
    assert "the engine does not start" in done.stderr
    assert "/model/model.gguf" in done.stderr, done.stderr


def test_an_optimised_model_is_a_derived_one_with_its_own_digest_and_reads_faster(
    starter: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    made = daulat("model", "import", str(starter), "--optimise", home=home)
    original = daulat("model", "show", MODEL, home=home)
    assert made["digest"] != original["digest"]
    assert made["derived_from"]["digest"] == original["digest"]
    assert (original["quantisation"], made["quantisation"]) == ("Q4_1", "Q8_0")
    derived, plain = Service(home), Service(tmp_path / "plain", environment={"DAULAT_MODEL": str(starter)})
    with derived.closing(), plain.closing():
        derived.start("--model", made["name"], "--slots", "1")
        plain.start("--slots", "1")
        pairs = [(reading_cost(plain, MODEL, turn), reading_cost(derived, made["name"], turn)) for turn in range(7)]
        admitted = derived.entries("model.admitted/v1")[-1]
    assert admitted["digest"] == made["digest"]
    assert admitted["derived_from"] == made["derived_from"]
    # In turn, as a core that others share is half as fast for seconds: the middle of the ratios does not see it.
    assert statistics.median(before / after for before, after in pairs) > 1.3, pairs


def reading_cost(service: Service, model: str, turn: int) -> float:
    """Processor milliseconds a prompt token; `turn` makes it a prompt that is in no cache."""
    prompt = f"{turn} " + "the officer keeps every record in order and answers with care . " * 30
    before = sum(engine(service).cpu_times()[:2])
    with service.client() as client:
        got = client.post("completions", json={"model": model, "prompt": prompt, "max_tokens": 1})
    return (sum(engine(service).cpu_times()[:2]) - before) / got.json()["timings"]["prompt_n"] * 1000


def ordinary_python() -> str | None:
    """An interpreter of our version that everybody may run."""
    for candidate in (sandbox.interpreter(), f"/usr/bin/python3.{sys.version_info.minor}"):
        command = [*BECOME, candidate, "-c", "import daulat, xllamacpp"]
        environment = {**os.environ, "PYTHONPATH": python_path()}
        done = subprocess.run(command, env=environment, cwd="/", check=False, stderr=subprocess.DEVNULL)
        if done.returncode == 0:
            return candidate
    return None


def python_path() -> str:
    return os.pathsep.join(path for path in sys.path if path.endswith("site-packages")) + f"{os.pathsep}{source()}"


def source() -> Path:
    return Path(sandbox.__file__).parents[2]


@pytest.fixture
def ordinary(starter: Path) -> Iterator[Any]:
    """A folder of an ordinary user's, with the model in it."""
    python = ordinary_python() if os.getuid() == 0 else None
    if python is None:
        pytest.skip("needs root to become somebody else, and a Python and this checkout that everybody may read")
    folder = Path(tempfile.mkdtemp(prefix="daulat-ordinary-"))
    shutil.copyfile(starter, folder / "model.gguf")
    for path in (folder, folder / "model.gguf"):
        os.chown(path, 65534, 65534)
    yield Service(
        folder / "home",
        environment={"HOME": str(folder), "PYTHONPATH": python_path(), "DAULAT_CANARY_SECONDS": "2"},
        python=(*BECOME, python),
    )
    shutil.rmtree(folder)


def test_an_ordinary_user_gets_the_same_sandbox(ordinary: Service) -> None:
    ordinary.start("--model", str(ordinary.home.parent / "model.gguf"))
    with ordinary.closing():
        with ordinary.client() as client:
            name = client.get("models").json()["data"][0]["id"]
            body = {"model": name, "messages": ASK, "max_tokens": 20, "temperature": 0}
            assert "Kuala Lumpur" in client.post("chat/completions", json=body).text
        assert engine(ordinary).uids().real == 65534
        (started,) = ordinary.entries("replica.started/v1")
        assert started["sandbox"]["grade"] == "G2"
        assert "user" in started["sandbox"]["namespaces"]
        assert started["sandbox"]["own_uid"] is False
        rounds = ordinary.wait(lambda: (found := ordinary.entries("canary/v1"))[2:] and found)
        assert {entry["outcome"] for entry in rounds} == {"contained"}
        assert ordinary.stop() == 0
        ordinary.wait(lambda: ordinary.left_running() == [], 20)

"""What an operator is told of an engine that failed: its own words at its start, and nothing that a request brought."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, cast

import pytest

from daulat.processes.launcher import Running, Wanted, jail, reason


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no reason given"),
        (["one", "two"], "one; two"),
        (
            [
                "0.00.001.000 I srv    load_model: loading",
                "0.00.001.546 E srv    load_model: failed to load model, '/model/model.gguf'",
                "0.00.045.001 E srv          init: exiting due to model loading error",
                "Failed to init server, please check the input params.",
            ],
            (
                "failed to load model, '/model/model.gguf'; exiting due to model loading error; "
                "Failed to init server, please check the input params."
            ),
        ),
        ([f"0.00.001.000 E srv  x: {number}" for number in range(9)], "5; 6; 7; 8"),
        (
            [
                "(APIServer pid=2) INFO 11-24 12:42:54 [launcher.py:186] Available routes are:",
                "(Worker pid=34) ERROR 11-24 12:43:16 [multiproc_executor.py:953] RuntimeError: no such address family",
                "(EngineCore pid=22) ERROR 11-24 12:43:17 [core.py:1512] Exception: WorkerProc initialization failed",
                "Traceback (most recent call last):",
                "RuntimeError: Engine core initialization failed.",
            ],
            "RuntimeError: no such address family; Exception: WorkerProc initialization failed",
        ),
    ],
)
def test_the_reason_is_the_lines_that_speak_of_trouble(lines: list[str], said: str) -> None:
    assert reason(deque(lines)) == said


@pytest.mark.parametrize(
    ("code", "said"), [(1, "exit code 1"), (-9, "signal SIGKILL"), (137, "signal SIGKILL"), (255, "exit code 255")]
)
def test_the_end_of_an_engine_is_named_without_its_words(code: int, said: str) -> None:
    words = deque(["GGML_ASSERT(false) failed: somebody's prompt"])
    engine = Running(cast("Any", None), {}, {}, words)
    assert engine.ended(code) == f"crashed: {said}"


def test_the_jail_shows_the_model_the_program_and_its_library_alone(tmp_path: Path) -> None:
    model = tmp_path / "secret-name.gguf"
    model.write_bytes(b"")
    wanted = Wanted("r", "m", model, tmp_path / "run", slots=4, context=512, threads=1, embeds=False, memory_mib=0)
    confined, launch = jail(wanted)
    inside = {there for here, there in confined.read_only if str(here) != there}
    assert inside - {"/daulat/xllamacpp.libs"} == {"/daulat/xllamacpp", "/daulat/engine.py", "/model/model.gguf"}
    assert confined.writable == tmp_path / "run"
    assert "secret-name" not in " ".join(confined.program)
    assert (launch.socket, launch.model) == ("/engine/e.sock", "/model/model.gguf")

"""What engines are started with, what they count, and what they say of their load."""

from __future__ import annotations

import json

import pytest

from daulat.engines.known import ENGINES, named
from daulat.engines.llamacpp.engine import LLAMACPP
from daulat.engines.port import Counters, Launch, Load, context_for, threads_for
from daulat.errors import ConfigError, EngineError

METRICS = b"""# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 1021
# TYPE llamacpp:prompt_tokens_cached_total counter
llamacpp:prompt_tokens_cached_total 7.5e+06
llamacpp:tokens_predicted_total 12
llamacpp:tokens_predicted_seconds_total 0.5
llamacpp:requests_processing 2
llamacpp:requests_deferred 1
"""


def test_counters_are_read_from_the_engines_metrics() -> None:
    found = LLAMACPP.metrics.counters(METRICS)
    assert found == Counters(1021, 7_500_000, 12)
    assert found.as_dict() == {"prompt_tokens": 1021, "cached_prompt_tokens": 7_500_000, "completion_tokens": 12}
    assert LLAMACPP.metrics.load(METRICS) == Load(2, 1)


@pytest.mark.parametrize(
    "damage",
    [
        (b"llamacpp:prompt_tokens_total 1021\n", b""),
        (b"tokens_predicted_total 12", b"tokens_predicted_total -12"),
        (b"tokens_predicted_total 12", b"tokens_predicted_total 1.2.3"),
        (b"tokens_predicted_total 12", b"tokens_predicted_total nan"),
        (METRICS, b'{"error":{"code":501}}'),
        (METRICS, b"\xff\xfe"),
    ],
)
def test_metrics_without_a_counter_are_an_error_and_never_a_zero(damage: tuple[bytes, bytes]) -> None:
    with pytest.raises(EngineError, match="llamacpp:"):
        LLAMACPP.metrics.counters(METRICS.replace(*damage))


@pytest.mark.parametrize(("cores", "wanted", "threads"), [(1, 0, 1), (2, 0, 1), (64, 0, 63), (2, 2, 2), (4, 9, 9)])
def test_a_core_is_left_to_the_gateway_unless_asked_otherwise(cores: int, wanted: int, threads: int) -> None:
    assert threads_for(cores, wanted) == threads


@pytest.mark.parametrize(
    ("wanted", "trained", "context"),
    [(0, 2048, 2048), (0, 131072, 8192), (0, 0, 8192), (4096, 2048, 2048), (512, 0, 512)],
)
def test_the_context_is_what_was_asked_for_within_what_the_model_can(wanted: int, trained: int, context: int) -> None:
    assert context_for(wanted, trained) == context


LAUNCH = Launch(
    "/model/m.gguf", "m", "/engine/e.sock", "/engine", 4, 2048, 1, embeds=False, uid=61_000, python="/usr/bin/python3"
)


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_logged_of_a_launch_has_no_path_in_it(name: str) -> None:
    parameters = ENGINES[name].parameters(LAUNCH)
    assert "/" not in json.dumps(parameters)
    assert (parameters["slots"], parameters["context"]) == (4, 2048)  # the audit bounds what may be in flight by them


def test_our_own_program_is_handed_its_launch_as_one_argument() -> None:
    assert LLAMACPP.command is not None
    assert json.loads(LLAMACPP.command(LAUNCH).argv[-1])["socket"] == "/engine/e.sock"


def test_an_unknown_engine_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"'tgi'; known are llama\.cpp, vllm, vllm-ascend, sglang, mindie, external"):
        named("tgi")

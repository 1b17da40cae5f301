"""What is counted, and how errors look on the wire."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daulat import errors
from daulat.gateway import metrics
from daulat.gateway.app import render
from daulat.pipeline.usage import Usage


def worker(number: int, folder: Path) -> Path:
    made = metrics.Metrics()
    made.finished("chat.completions", 200, "ok", Usage(10, 4, 3), 0.0, 0.02)
    made.finished("chat.completions", 403, "denied", Usage(), 0.0, 0.0001)
    made.refused("invalid_api_key")
    made.gauges["daulat_snapshot_number"] = number
    made.gauges["daulat_connections"] = 2
    path = folder / f"metrics-{number}"
    made.write(path)
    return path


def test_workers_are_added_up_and_the_oldest_snapshot_is_told(tmp_path: Path) -> None:
    files = [worker(number, tmp_path) for number in (7, 9)]
    (tmp_path / "metrics-2").write_text("{half")
    text = metrics.render(metrics.merged([*files, tmp_path / "metrics-2", tmp_path / "metrics-3"]))
    lines = text.splitlines()
    for line in (
        'daulat_requests_total{action="chat.completions",status="200",outcome="ok"} 2',
        'daulat_requests_total{action="chat.completions",status="403",outcome="denied"} 2',
        'daulat_refusals_total{reason="invalid_api_key"} 2',
        'gen_ai_client_token_usage_total{gen_ai_token_type="input"} 20',
        'gen_ai_client_token_usage_total{gen_ai_token_type="cached"} 8',
        'gen_ai_client_token_usage_total{gen_ai_token_type="output"} 6',
        'gen_ai_server_time_to_first_token_seconds_bucket{le="0.005"} 2',
        'gen_ai_server_time_to_first_token_seconds_bucket{le="0.025"} 4',
        'gen_ai_server_time_to_first_token_seconds_bucket{le="+Inf"} 4',
        "gen_ai_server_time_to_first_token_seconds_count 4",
        "daulat_snapshot_number 7",
        "daulat_connections 4",
    ):
        assert line in lines, line
    named = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert named == {line.split()[2] for line in lines if line.startswith("# HELP")}
    assert text.endswith("\n")


def test_an_answer_in_one_piece_begins_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daulat.gateway.metrics.time.monotonic", lambda: 107.0)
    made = metrics.Metrics()
    made.finished("chat.completions", 200, "ok", Usage(), 100.0, 0.0)
    made.finished("chat.completions", 200, "ok", Usage(), 100.0, 102.0)
    samples = made.samples()
    assert samples["gen_ai_server_request_duration_seconds"]["_sum"] == 14
    assert samples["gen_ai_server_time_to_first_token_seconds"]["_sum"] == 9
    assert samples["gen_ai_server_time_to_first_token_seconds"]['_bucket le="2.5"'] == 1


def test_no_label_names_a_person_a_tenant_or_a_key() -> None:
    made = metrics.Metrics()
    made.finished("completions", 200, "ok", Usage(), 0.0, 0.0)
    made.refused("unknown_url")
    names = {label.split("=")[0] for values in made.samples().values() for text in values for label in text.split(",")}
    assert names <= {"", "action", "status", "outcome", "reason", "gen_ai_token_type", "_bucket le", "_sum", "_count"}


ALL = [
    (errors.InvalidRequest("m", param="p"), 400, "invalid_request_error"),
    (errors.Unauthenticated("m"), 401, "authentication_error"),
    (errors.PermissionDenied("m"), 403, "permission_error"),
    (errors.NotFound("m"), 404, "not_found_error"),
    (errors.Conflict("m"), 409, "conflict_error"),
    (errors.InvalidRequest("m", code="unprocessable"), 422, "invalid_request_error"),
    (errors.Overloaded("m", retry_after=0.2), 429, "rate_limit_error"),
    (errors.EngineRequestFailed("m", status=500), 502, "engine_error"),
    (errors.EngineDead("m"), 502, "engine_error"),
    (errors.Unavailable("m"), 503, "service_unavailable_error"),
    (errors.EngineTimeout("m"), 504, "timeout_error"),
]


@pytest.mark.parametrize(("error", "status", "type_"), ALL, ids=[str(status) for _, status, _ in ALL])
def test_an_error_has_one_status_and_openais_envelope(error: errors.DaulatError, status: int, type_: str) -> None:
    rendered = render(error)
    body = json.loads(rendered.body)["error"]
    assert (rendered.status, body["type"], body["message"], body["code"]) == (status, type_, "m", error.code)
    assert body["param"] == ("p" if status == 400 else None)
    headers = dict(rendered.headers)
    assert (b"retry-after" in headers) == (status in {429, 503})
    assert (b"www-authenticate" in headers) == (status == 401)


@pytest.mark.parametrize(
    "error", [errors.DaulatError("the secret is x"), errors.SealBroken("at byte 7"), errors.ConfigError("in /etc/x")]
)
def test_a_defect_of_ours_says_nothing_about_itself(error: errors.DaulatError) -> None:
    rendered = render(error)
    assert rendered.status == 500
    assert error.message.encode() not in rendered.body
    assert json.loads(rendered.body)["error"]["code"] == "internal_error"

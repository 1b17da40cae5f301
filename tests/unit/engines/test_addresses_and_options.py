"""Where engines listen, and what an operator may say of one: read strictly, refused with what would be right."""

from __future__ import annotations

import contextlib
import hashlib
import json
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daulat.engines import address, options
from daulat.engines.address import Address
from daulat.engines.options import Options
from daulat.errors import ConfigError

PIN = hashlib.sha256(b"certificate").hexdigest()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("unix:/run/e.sock", Address("/run/e.sock")),
        ("unix:/a folder/with #1/e.sock", Address("/a folder/with #1/e.sock")),
        ("tcp:127.0.0.1:8000", Address(host="127.0.0.1", port=8000)),
        ("tcp:[::1]:8000", Address(host="::1", port=8000)),
        ("tls:llm.example.my:443", Address(host="llm.example.my", port=443, tls=True)),
        (f"tls:llm.example.my:443#{PIN}", Address(host="llm.example.my", port=443, tls=True, pin=PIN)),
    ],
)
def test_an_address_is_a_unix_socket_a_port_or_a_port_with_tls(text: str, found: Address) -> None:
    assert address.parse(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:relative",
        "tcp:host",
        "tcp:host:0",
        "tcp:host:65536",
        "tcp:a b:1",
        "http://host:1",
        "tls:host:1#abc",
        f"tcp:host:1#{PIN}",
        "tcp:::1:8000",
    ],
)
def test_what_is_no_address_is_refused_with_what_one_looks_like(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected unix:/path, tcp:host:port or tls:host:port"):
        address.parse(text)


def test_a_pinned_certificate_is_the_only_one_that_is_spoken_to() -> None:
    pinned = address.parse(f"tls:host:443#{PIN}")
    assert pinned.check(b"certificate")
    assert not pinned.check(b"another")
    assert not pinned.check(None)
    assert address.parse("tls:host:443").check(b"another"), "there the CAs decide"


def test_without_a_pin_the_certificate_must_be_good_for_its_name() -> None:
    assert address.parse("tcp:host:1").context() is None
    context = address.parse("tls:host:1").context()
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_options_are_read_by_name() -> None:
    said = {
        "python": "/opt/vllm/bin/python",
        "arguments": ["--dtype", "bfloat16"],
        "environment": {"OMP_NUM_THREADS": "8"},
        "devices": ["/dev/davinci0"],
        "device": {"kind": "npu", "count": 1},
        "kv_cache_gib": 8,
    }
    found = options.parse(json.dumps(said))
    assert (found.arguments, found.devices, found.kv_cache_gib) == (("--dtype", "bfloat16"), ("/dev/davinci0",), 8)
    assert options.parse("{}") == options.parse("") == Options()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "expected a JSON object"),
        ("{", "is no JSON"),
        ("[" * 60_000, "is no JSON"),
        (" " * 70_000, "at most 65536"),
        ('{"pyton": "/p"}', "did you mean 'python'"),
        ('{"python": 3}', "python is '3', expected a text"),
        ('{"arguments": "--dtype"}', "expected a list"),
        ('{"arguments": ["a", 1]}', "expected a list"),
        ('{"environment": {"A B": "c"}}', "expected an object of variables"),
        ('{"environment": {"A": 1}}', "environment.A is '1', expected a text"),
        ('{"environment": {"LD_PRELOAD": "x"}}', "environment.LD_PRELOAD is refused"),
        ('{"arguments": ["--model", "/data/other"]}', "--model is refused"),
        ('{"devices": ["/etc/passwd"]}', "expected files under /dev"),
        ('{"devices": ["/dev/../etc/shadow"]}', "absolute paths without"),
        ('{"read_only": ["relative"]}', "absolute paths without"),
        ('{"read_only": ["/daulat/files"]}', "none of the sandbox's own folders"),
        ('{"read_only": ["/model"]}', "none of the sandbox's own folders"),
        ('{"device": {"kind": []}}', "expected an object of facts"),
        ('{"kv_cache_gib": -1}', "expected a whole number"),
        ('{"kv_cache_gib": true}', "expected a whole number"),
        ('{"address": "http://host"}', "expected unix:/path"),
        ('{"grade": "G4"}', "expected G1"),
        ('{"grade": "G3"}', "say who vouches"),
        ('{"vouched_by": "the agency"}', "say who vouches"),
    ],
)
def test_wrong_options_are_refused_with_what_would_be_right(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        options.parse(text)


FILLED = st.dictionaries(st.sampled_from(list(Options.__slots__)), st.text(max_size=20)).map(json.dumps)


@given(st.text(max_size=200) | FILLED)
def test_no_options_break_the_reader(text: str) -> None:
    with contextlib.suppress(ConfigError):  # the one error that it may raise
        assert isinstance(options.parse(text), Options)


@given(st.text(max_size=100) | st.from_regex(r"(unix|tcp|tls):.{0,40}"))
def test_no_text_breaks_the_address_reader(text: str) -> None:
    try:
        found = address.parse(text)
    except ConfigError:
        return
    assert bool(found.path) != bool(found.host)
    assert 0 <= found.port <= 65_535


@pytest.mark.parametrize(
    "argument",
    [
        "--chat-template",
        "--chat-template=x.jinja",
        "--chat_template",
        "--chat-templ",
        "--trust-remote-code",
        "--trust_remote_code=True",
        "--trust",
        "--trust-request-chat-template",
    ],
)
def test_no_argument_brings_in_code_that_was_not_admitted(argument: str) -> None:
    with pytest.raises(ConfigError, match="code that nobody admitted; import the model"):
        options.parse(json.dumps({"arguments": ["--max-num-seqs", "8", argument, "x"]}))


def test_what_only_looks_like_it_is_left_alone() -> None:
    asked = ["--chat-template-content-format", "openai", "--tool-call-parser", "deepseek_v3", "-tp", "8"]
    assert options.parse(json.dumps({"arguments": asked})).arguments == tuple(asked)

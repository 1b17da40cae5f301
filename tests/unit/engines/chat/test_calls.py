"""DeepSeek's tool calls, found in text of every version, however it is cut; what is none stays text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.engines.chat.calls import Call, Calls, Piece

WEATHER = '{"city": "Kuala Lumpur", "days": 2}'
V3 = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n" + WEATHER
    + "\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>"
    "<｜tool▁calls▁end｜>"
)  # fmt: skip
V31 = (
    f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{WEATHER}<｜tool▁call▁end｜>"
    "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
DSML = (
    '<｜DSML｜{block}>\n<｜DSML｜{space}invoke name="get_weather">\n'
    '<｜DSML｜{space}parameter name="city" string="true">Kuala Lumpur</｜DSML｜{space}parameter>\n'
    '<｜DSML｜{space}parameter name="days" string="false">2</｜DSML｜{space}parameter>\n</｜DSML｜{space}invoke>\n'
    '<｜DSML｜{space}invoke name="now">\n</｜DSML｜{space}invoke>\n</｜DSML｜{block}>'
)
FORMATS = {
    "V3": V3,
    "V3.1": V31,
    "V3.2": DSML.format(block="function_calls", space=""),
    "V4": DSML.format(block="tool_calls", space=""),
    "V4 as toolcalls": DSML.format(block="toolcalls", space=""),
    "V4 begun as tool": DSML.format(block="tool_calls", space="").replace("tool_calls>", "tool>", 1),
    "V4 without a parameter's end": DSML.format(block="tool_calls", space="").replace(
        "Lumpur</｜DSML｜parameter>\n", "Lumpur"
    ),
    "V4.1": DSML.format(block=" calls", space=" "),
}
EXPECTED = [("get_weather", {"city": "Kuala Lumpur", "days": 2}), ("now", {})]


def read(*texts: str) -> list[Piece]:
    """Every piece of a text that comes in pieces."""
    calls, pieces = Calls(), list[Piece]()
    for text in texts:
        pieces += calls.feed(text)
    pieces += calls.finish()
    assert calls.idle
    assert calls.found == len(calls_in(pieces))
    return pieces


def calls_in(pieces: list[Piece]) -> list[tuple[str, object]]:
    return [(piece.name, json.loads(piece.arguments)) for piece in pieces if isinstance(piece, Call)]


def said(pieces: list[Piece]) -> str:
    return "".join(piece for piece in pieces if isinstance(piece, str))


def joined(pieces: list[Piece]) -> list[Piece]:
    """The same with neighbouring texts as one."""
    made: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and made and isinstance(made[-1], str):
            made[-1] += piece
        else:
            made.append(piece)
    return made


@pytest.mark.parametrize("text", FORMATS.values(), ids=FORMATS)
def test_calls_of_every_version_are_found(text: str) -> None:
    assert calls_in(read(text)) == EXPECTED
    pieces = read(f"Let me look.\n\n{text}")
    assert (said(pieces), calls_in(pieces)) == ("Let me look.", EXPECTED)
    assert read(*f"Let me look.\n\n{text}") == [*"Let me look.", *read(text)], "character by character"


@pytest.mark.parametrize("text", FORMATS.values(), ids=FORMATS)
def test_text_behind_the_calls_is_kept(text: str) -> None:
    assert said(read(f"{text} Done.")) == " Done."


MARKS = (
    *(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ),
    *(
        "<｜DSML｜tool_calls>",
        "</｜DSML｜tool_calls>",
        '<｜DSML｜invoke name="f">',
        "</｜DSML｜invoke>",
        "<｜DSML｜",
        "<",
    ),
    *('<｜DSML｜parameter name="p" string="true">', "</｜DSML｜parameter>", "```json\n", "\n", "{}", "f", " "),
)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.data())
def test_any_split_gives_the_same(data: st.DataObject) -> None:
    parts = st.sampled_from([*MARKS, *FORMATS.values()]) | st.text(max_size=4)
    text = "".join(data.draw(st.lists(parts, max_size=12)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert joined(read(*pieces)) == joined(read(text))


@settings(derandomize=True, deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="<"), max_size=200))
def test_text_without_a_mark_passes_to_the_letter(text: str) -> None:
    assert said(read(text)) == text
    assert said(read(*text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "a < b and <｜ or <｜tool▁ca",
        "the token <｜tool▁calls▁begin｜> opens a section",
        "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>",
        "<｜DSML｜tool_calls>\nnothing\n</｜DSML｜tool_calls>",
        "<｜tool▁call▁begin｜>get_weather",
        '<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": ',
        '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="p" string="true">cut',
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "ends in blank lines\n\n",
    ],
)  # fmt: skip
def test_what_is_no_call_stays_text_to_the_letter(text: str) -> None:
    for pieces in (read(text), read(*text)):
        assert said(pieces) == text
        assert not calls_in(pieces)


def test_a_call_whose_end_never_came_counts_when_its_arguments_are_whole() -> None:
    begun = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>"
    assert calls_in(read(begun + '{"a": 1}')) == [("now", {"a": 1})]
    assert calls_in(read(begun + '{"a": 1}<｜tool▁calls▁end｜>')) == [("now", {"a": 1})], "R1 leaves the call's end out"


def test_arguments_that_are_no_json_are_given_as_the_model_wrote_them() -> None:
    (call,) = Calls().feed("<｜tool▁call▁begin｜>now<｜tool▁sep｜>{a: 1}<｜tool▁call▁end｜>")
    assert call == Call("now", "{a: 1}")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (' string="true">  two words\n', "  two words\n"),
        (' string="true">5', "5"),
        (' string="false">5', 5),
        (' string="false">[1, {"a": null}]', [1, {"a": None}]),
        (' string="false">not json', "not json"),
        (' string="false">NaN', "NaN"),
        (">true", True),
    ],
)
def test_parameters_are_texts_or_json(parameter: str, value: object) -> None:
    text = f'<｜DSML｜invoke name="f"><｜DSML｜parameter name="p"{parameter}</｜DSML｜parameter></｜DSML｜invoke>'
    found = calls_in(read(f"<｜DSML｜tool_calls>{text}</｜DSML｜tool_calls>"))
    assert found == [("f", {"p": value})]


def test_an_invocation_may_hold_its_arguments_as_json() -> None:
    text = (
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n{"p": [1]}\n</｜DSML｜invoke>\n</｜DSML｜function_calls>'
    )
    assert calls_in(read(text)) == [("f", {"p": [1]})]


def test_a_call_without_end_is_not_kept_for_ever() -> None:
    calls = Calls()
    pieces = calls.feed("<｜tool▁call▁begin｜>f<｜tool▁sep｜>{" + "x" * 1_048_577)
    assert calls.idle
    assert len(said(pieces)) > 1_048_577


def test_hostile_text_is_read_in_reasonable_time() -> None:
    for text in (
        "\n" * 400_000,
        "<" * 400_000,
        '<｜DSML｜parameter name="p">' * 20_000,
        "<｜tool▁call▁begin｜>" * 20_000,
    ):
        inner = f'<｜DSML｜tool_calls><｜DSML｜invoke name="f">{text}</｜DSML｜invoke>'
        read(text)
        read(inner)

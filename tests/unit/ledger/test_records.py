"""How a journal lies on disk: whole groups or none, and a changed file is never taken for a torn one."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.ledger import group_of

from daulat.errors import SealBroken
from daulat.ledger import records

HEADER = records.encode_header(3, 0, "test/1")
kinds = st.sampled_from(sorted(records.KINDS))
record = st.tuples(kinds, st.integers(0, 2**64 - 1), st.binary(max_size=80))
grouped = st.lists(st.lists(record, min_size=1, max_size=5), min_size=1, max_size=6)


def written(groups: list[list[tuple[int, int, bytes]]]) -> tuple[bytes, list[int]]:
    """The segment, and where each group ends."""
    data, ends = HEADER, []
    for number, group in enumerate(groups):
        data += group_of(number, group)
        ends.append(len(data))
    return data, ends


def read(data: bytes, expected: int = 0) -> list[records.Group]:
    return list(records.groups(data, records.header_length(data), expected))


@given(grouped, st.integers(0, 5000))
def test_what_was_written_is_read_whatever_space_follows(
    groups: list[list[tuple[int, int, bytes]]], space: int
) -> None:
    data, ends = written(groups)
    found = read(data + bytes(space))
    assert [[(item.kind, item.sequence, item.payload) for item in group.records] for group in found] == groups
    assert [group.end for group in found] == ends
    assert [group.number for group in found] == list(range(len(groups)))


@given(grouped, st.data())
def test_a_torn_last_group_is_not_there_and_those_before_it_are(
    groups: list[list[tuple[int, int, bytes]]], data: st.DataObject
) -> None:
    whole, ends = written(groups)
    start = ends[-2] if len(ends) > 1 else len(HEADER)
    cut = data.draw(st.integers(start, ends[-1] - 1))
    zeros = data.draw(st.sampled_from([0, ends[-1] - cut, 4096]))
    torn = whole[:cut] + bytes(zeros)
    if torn[: ends[-1]] == whole:  # the bytes cut off were zeros
        return
    assert len(read(torn)) == len(groups) - 1


@given(grouped.filter(lambda groups: len(groups) > 1), st.data())
def test_any_flipped_bit_before_the_last_group_is_a_changed_file(
    groups: list[list[tuple[int, int, bytes]]], data: st.DataObject
) -> None:
    whole, ends = written(groups)
    at = data.draw(st.integers(len(HEADER), ends[-2] - 1))
    changed = bytearray(whole)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SealBroken, match="the file was changed"):
        read(bytes(changed))


@given(grouped.filter(lambda groups: len(groups) > 2), st.data())
def test_a_missing_group_is_a_changed_file(groups: list[list[tuple[int, int, bytes]]], data: st.DataObject) -> None:
    whole, ends = written(groups)
    gone = data.draw(st.integers(0, len(groups) - 2))
    start = ends[gone - 1] if gone else len(HEADER)
    with pytest.raises(SealBroken):
        read(whole[:start] + whole[ends[gone] :])


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_read_as_nothing_or_refused(data: bytes) -> None:
    with contextlib.suppress(SealBroken):
        assert read(data) == []


def test_reading_goes_on_in_the_middle_with_the_number_expected_there() -> None:
    whole, ends = written([[(records.ADMISSION, 1, b"a")], [(records.COMPLETION, 1, b"b")]])
    (group,) = records.groups(whole, ends[0], 1)
    assert group.number == 1
    with pytest.raises(SealBroken):
        list(records.groups(whole, ends[0], 0))  # an older number is wanted, and a later one is there


@pytest.mark.parametrize("header", [b"", HEADER[:10], HEADER[:-1], bytes(4096)])
def test_a_segment_whose_header_is_torn_has_no_groups(header: bytes) -> None:
    assert records.header_length(header + bytes(64)) == 0
    assert read(header + bytes(64)) == []


def test_a_group_without_a_header_is_a_changed_file() -> None:
    with pytest.raises(SealBroken, match="header"):
        records.header_length(group_of(0, [(records.ADMISSION, 1, b"a")]))


def test_a_header_that_was_torn_behind_its_number_is_no_group() -> None:
    whole = HEADER + group_of(0, [(records.ADMISSION, 1, b"a")])
    assert read(whole[: len(HEADER) + 12] + bytes(64)) == []  # length and checksum are zeros, as those of nothing are


def test_a_group_of_unknown_records_is_no_group() -> None:
    assert read(HEADER + group_of(0, [(ord("X"), 1, b"a")])) == []


def test_a_file_that_ends_within_a_group_was_cut() -> None:
    whole, ends = written([[(records.ADMISSION, 1, b"a" * 50)]])
    start = len(HEADER)
    assert not records.is_cut(whole, ends[0])
    assert not records.is_cut(whole + bytes(100), ends[0])  # space that was made ahead
    assert not records.is_cut(whole[:-20] + bytes(4096), start)  # torn, as a crash does it
    assert all(records.is_cut(whole[:length], start) for length in range(start + 4, ends[0]))

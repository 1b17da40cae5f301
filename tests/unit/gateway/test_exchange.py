"""How an answer's bytes reach its connection: in order, and those of one turn of the loop in one write."""

from __future__ import annotations

from daulat.gateway.exchange import Exchange


class Wire:
    """A connection's side of an exchange, one turn of the loop at a time."""

    def __init__(self) -> None:
        self.keeps, self.version, self.address = True, "1.1", ""
        self.writes: list[bytes] = []
        self.write = self.writes.append
        self.waiting: list[Exchange] = []
        self.soon = self.waiting.append
        self.ended: list[str] = []
        self.asker = None

    def status_line(self, status: int) -> bytes:
        return b"HTTP/1.1 %d\r\n" % status

    def answered(self, *, keep: bool) -> None:
        self.ended.append("kept" if keep else "closed")

    def close(self) -> None:
        self.ended.append("abandoned")

    def turn(self) -> None:
        """The loop's turn ends."""
        while self.waiting:
            self.waiting.pop(0).flush()


HEAD = b"HTTP/1.1 200\r\ntransfer-encoding: chunked\r\n\r\n"


def streamed(wire: Wire, method: bytes = b"POST") -> Exchange:
    exchange = Exchange(wire, method, b"/", {}, b"")
    exchange.start(200, ())
    return exchange


def test_what_a_turn_brings_is_one_write() -> None:
    wire = Wire()
    exchange = streamed(wire)
    exchange.write(b"a")
    exchange.write(b"bc")
    assert not wire.writes
    assert len(wire.waiting) == 1
    wire.turn()
    exchange.write(b"d")
    wire.turn()
    assert wire.writes == [HEAD + b"1\r\na\r\n2\r\nbc\r\n", b"1\r\nd\r\n"]


def test_the_end_does_not_overtake_what_waits_to_be_written() -> None:
    wire = Wire()
    exchange = streamed(wire)
    exchange.write(b"a")
    exchange.finish(b"z")
    assert wire.writes == [HEAD + b"1\r\na\r\n1\r\nz\r\n0\r\n\r\n"]
    assert wire.ended == ["kept"]
    wire.turn()
    assert len(wire.writes) == 1


def test_what_is_abandoned_was_sent_as_far_as_it_came() -> None:
    wire = Wire()
    exchange = streamed(wire)
    exchange.write(b"a")
    exchange.abandon()
    assert wire.writes == [HEAD + b"1\r\na\r\n"]
    assert wire.ended == ["abandoned"]
    wire.turn()
    assert len(wire.writes) == 1


def test_nothing_is_written_to_a_client_that_has_left() -> None:
    wire = Wire()
    exchange = streamed(wire)
    exchange.write(b"a")
    exchange.gone()
    exchange.write(b"b")
    exchange.finish(b"")
    wire.turn()
    assert not wire.writes


def test_the_answer_to_head_is_its_head() -> None:
    wire = Wire()
    exchange = streamed(wire, b"HEAD")
    exchange.write(b"a")
    exchange.finish(b"z")
    assert wire.writes == [HEAD]

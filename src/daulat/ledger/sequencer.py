"""The sequencer: the only writer of the log, and the only holder of its key.

Each step, in an order in which any crash leaves a valid log:

1. take in what the journals have (`intake`);
2. in one durable transaction, compare-and-swap: old checkpoint -> new checkpoint, with the entries in between (staged),
   and how far each journal was taken in. This is the checkpoint's second place; it exists before anyone can see it;
3. write the tiles and bundles the entries make, durably;
4. publish the checkpoint, atomically and durably;
5. index, and delete journal segments that 2 has made superfluous.

A crash before 2 changes nothing; after 2, the staged entries are written again, byte for byte the same. What the log's
folder shows must be the sealed checkpoint or the one before it, else the room stops: somebody has changed the past.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from daulat.core import entries
from daulat.core.clock import Clock
from daulat.errors import DaulatError, SealBroken, VerificationFailed
from daulat.ledger.edge import RightEdge
from daulat.ledger.intake import Cursor, Intake, Journals, Open
from daulat.ledger.reading import read_entries
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.note import Signer, Verifier
from daulat.tlog.tiles import TileSource

STEP_ENTRIES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Sealed:
    """The second place: the newest signed checkpoint, the one before it, and the entries between them."""

    size: int
    checkpoint: bytes
    base_size: int
    base_checkpoint: bytes
    staged: tuple[bytes, ...]
    cursors: Mapping[int, Cursor]
    opened: Mapping[tuple[int, int], Open]


class Seal(Protocol):
    """Port: durable, transactional. `adapters.seal` is the real one."""

    def load(self) -> Sealed | None:
        """What is sealed, None before the beginning.

        Raises:
            SealBroken: what is there is none of its own.
        """
        ...

    def advance(self, expected: bytes, new: Sealed) -> None:
        """Replace everything in one transaction if the checkpoint is still `expected`.

        Raises:
            SealBroken: it is not, or the transaction did not become durable.
        """
        ...


class LogStore(TileSource, Protocol):
    """Port: the log's public files. Every write is durable when it returns."""

    def write(self, files: Mapping[str, bytes]) -> None: ...

    def publish(self, checkpoint: bytes) -> None: ...

    def published(self) -> bytes:
        """The checkpoint file's bytes, empty when there is none."""
        ...


class Index(Protocol):
    """Port: a projection of the log, for look-ups. May be dropped and rebuilt."""

    size: int

    def add(self, first: int, new: Sequence[bytes]) -> None: ...

    def type_of(self, index: int) -> str | None: ...


class Sequencer:
    """One log. Not safe for concurrent use: its process calls it from one thread."""

    def __init__(
        self, *, origin: str, signer: Signer, seal: Seal, log: LogStore, index: Index, journals: Journals, clock: Clock
    ) -> None:
        """Recover: check that both places agree, and finish what a crash has left half done.

        Raises:
            SealBroken: they do not agree, or something durable was changed.
        """
        self._signer, self._seal, self._log, self._index = signer, seal, log, index
        self._journals, self._clock, self._origin = journals, clock, origin
        sealed = seal.load()
        if sealed is None:
            sealed = self._begin()
        self._sealed = sealed
        self._lost = False  # whether a step failed half-way
        self._intake = Intake(sealed.cursors, sealed.opened)
        self._forget_gone()
        self._edge = self._recover(sealed)

    @property
    def size(self) -> int:
        return self._edge.size

    @property
    def checkpoint(self) -> bytes:
        """The signed checkpoint in force."""
        return self._sealed.checkpoint

    def append(self, new: Sequence[bytes]) -> list[int]:
        """Add control entries at once, with whatever the journals have. When this returns, they are published.

        Raises:
            VerificationFailed: an entry is malformed or refers to nothing; none of them is added.
            SealBroken: durability or agreement is lost; the process must end.
        """
        first = self._edge.size
        types: list[str] = []
        for entry in new:
            types.append(self._check(entry, first, types))
        self._step(list(new))
        return list(range(first, first + len(new)))

    def tick(self) -> int:
        """Take in what the journals have now; returns how many entries came in.

        What comes meanwhile is left for the next time: under load there is always more, and `append` would wait.
        """
        before = self._edge.size
        while self._step([]) >= STEP_ENTRIES:
            pass
        return self._edge.size - before

    def _begin(self) -> Sealed:
        if self._log.published():
            raise SealBroken("the log has a checkpoint, but its second place is empty: restore it, do not start anew")
        signed = checkpoints.sign(Checkpoint(self._origin, 0, RightEdge(0, self._log).root()), [self._signer])
        sealed = Sealed(0, signed, 0, b"", (), {}, {})
        self._seal.advance(b"", sealed)
        return sealed

    def _forget_gone(self) -> None:
        """Drop the cursors of workers whose segments a sequencer had swept before it was killed."""
        for worker in set(self._intake.cursors) - set(self._journals.workers()):
            self._journals.forget(worker)  # durably gone, see `_sweep`
            del self._intake.cursors[worker]

    def _recover(self, sealed: Sealed) -> RightEdge:
        try:
            verifier = Verifier(self._signer.vkey)
            newest = checkpoints.open_checkpoint(sealed.checkpoint, verifier)
            published = self._log.published()
            if published not in {sealed.checkpoint, sealed.base_checkpoint}:
                raise SealBroken("the published checkpoint is neither the sealed one nor the one before it")
            edge = RightEdge(sealed.base_size, self._log)
            if sealed.base_checkpoint:
                base = checkpoints.open_checkpoint(sealed.base_checkpoint, verifier)
                if (base.size, base.root) != (edge.size, edge.root()):
                    raise SealBroken(f"the tiles of the log are not those of its checkpoint of {base.size} entries")
            files = dict(edge.extend(sealed.staged))
            if (edge.size, edge.root()) != (newest.size, newest.root):
                raise SealBroken(f"the staged entries do not lead to the sealed checkpoint of {newest.size} entries")
        except (SealBroken, VerificationFailed):
            raise
        except DaulatError as error:
            raise SealBroken(f"the log cannot be read: {error.message}") from None
        if published != sealed.checkpoint or files:
            self._log.write(files)
            self._log.publish(sealed.checkpoint)
        self._catch_up(edge.size)
        return edge

    def _step(self, control: list[bytes]) -> int:
        """One pass over the numbered list above; how many entries came in from journals."""
        if self._lost:
            raise SealBroken("an earlier step failed half-way: what it has left, only a start anew can tell")
        intake = self._intake.copy()
        taken = intake.take(self._journals, self._clock, STEP_ENTRIES)
        new = control + taken
        if not new:
            # Nothing to seal. Open admissions stay in memory; a restart reads them again from the journal.
            self._intake = intake
            self._sweep()
            return 0
        edge = self._edge.copy()
        files = dict(edge.extend(new))
        signed = checkpoints.sign(Checkpoint(self._origin, edge.size, edge.root()), [self._signer])
        old = self._sealed
        sealed = Sealed(edge.size, signed, old.size, old.checkpoint, tuple(new), intake.cursors, intake.opened)
        self._lost = True  # until all of this is done. Going on would seal over entries whose tiles are not there
        self._seal.advance(old.checkpoint, sealed)
        first = self._edge.size
        self._sealed, self._intake, self._edge = sealed, intake, edge
        self._log.write(files)
        self._log.publish(signed)
        self._index.add(first, new)
        self._sweep()
        self._lost = False
        return len(taken)

    def _sweep(self) -> None:
        """Delete segments that the sealed cursors have left behind; of finished workers, everything."""
        for worker in self._journals.workers():
            cursor = self._sealed.cursors.get(worker)
            segments = self._journals.segments(worker)
            finished = worker in self._intake.finished and self._intake.cursors.get(worker) == cursor
            for segment in segments:
                if (cursor is not None and segment < cursor.segment) or finished:
                    self._journals.remove(worker, segment)
            if finished:
                self._journals.forget(worker)  # durably: only then may the sealed cursor go, too
                self._intake.finished.discard(worker)
                self._intake.cursors.pop(worker, None)

    def _check(self, entry: bytes, first: int, batch: Sequence[str]) -> str:
        """The type of an entry that may follow those of `batch`, the first of which will stand at `first`."""
        decoded: dict[str, Any] = entries.decode(entry)
        if decoded["type"] == entries.INFERENCE:
            raise VerificationFailed("inference/v1 entries come from journals alone")
        for path, index, expected in entries.references(decoded):
            found = batch[index - first] if first <= index < first + len(batch) else self._index.type_of(index)
            if found != expected:
                raise VerificationFailed(
                    f"{decoded['type']}: {path} points at {index}, which is {found}, not {expected}"
                )
        return str(decoded["type"])

    def _catch_up(self, size: int) -> None:
        while self._index.size < size:
            first = self._index.size
            self._index.add(first, read_entries(self._log, first, min(size, first - first % 256 + 256), size))

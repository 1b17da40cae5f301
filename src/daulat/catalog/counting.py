"""Parameters of a shape, part by part, since each part is split and quantised in a way of its own."""

from __future__ import annotations

from dataclasses import dataclass

from daulat.catalog.precision import Precision
from daulat.catalog.shape import Compressed, GroupedQuery, Latent, Shape

_MLP = 3  # matrices: gate, up, down


@dataclass(frozen=True, slots=True)
class Parts:
    """Counts of weights. `attention` is split by heads; `whole` is attention every tensor-parallel rank holds;
    `mlp` is dense layers and shared experts; `router` holds routers, norms and mixers, never quantised."""

    attention: int = 0
    whole: int = 0
    mlp: int = 0
    experts: int = 0
    router: int = 0
    embedding: int = 0
    head: int = 0

    @property
    def total(self) -> int:
        """All weights."""
        return self.attention + self.whole + self.mlp + self.experts + self.router + self.embedding + self.head

    def bytes(self, precision: Precision) -> float:
        """Bytes of all weights in a precision, scales included."""
        quantised = (self.attention + self.whole) * precision.attention + self.mlp * precision.mlp
        quantised += self.experts * precision.experts + (self.embedding + self.head) * precision.embedding
        return (quantised + self.router * 16) / 8


def parts(shape: Shape) -> Parts:
    """The main model, MTP layers apart."""
    linear = shape.linear.layers if shape.linear else 0
    full = shape.layers - linear
    differing = full - shape.grouped.sliding_layers if shape.grouped and shape.grouped.full else 0
    attention = (full - differing) * _split(shape) + (linear * shape.linear.split(shape.hidden) if shape.linear else 0)
    if shape.grouped and shape.grouped.full:
        attention += differing * shape.grouped.full.split(shape.hidden)
    whole = _whole(shape, range(shape.layers))
    dense = shape.dense_layers * _MLP * shape.hidden * shape.dense_hidden
    vocabulary = shape.vocabulary * shape.hidden
    return Parts(
        attention=attention,
        whole=whole,
        mlp=dense + shape.moe_layers * _shared(shape),
        experts=shape.moe_layers * expert(shape) * (shape.experts.routed if shape.experts else 0),
        router=shape.moe_layers * _router(shape) + shape.layers * _norms(shape) + shape.hidden,
        embedding=vocabulary,
        head=0 if shape.tied else vocabulary,
    )


def mtp_parts(shape: Shape) -> Parts:
    """The layers that predict further tokens: each a whole layer, and a projection of two hidden states into one.

    They use the main model's embedding and output projection.
    """
    count = shape.mtp_layers
    joined = 2 * shape.hidden * shape.hidden
    return Parts(
        attention=count * _split(shape),
        whole=_whole(shape, range(shape.layers, shape.layers + count)),
        mlp=count * (joined + (_shared(shape) if shape.experts else _MLP * shape.hidden * shape.dense_hidden)),
        experts=count * expert(shape) * (shape.experts.routed if shape.experts else 0),
        router=count * (_router(shape) + _norms(shape) + 3 * shape.hidden),
    )


def active(shape: Shape) -> int:
    """Weights that take part in one token, the embedding table's one row apart (as DeepSeek counts)."""
    found = parts(shape)
    if shape.experts is None:
        return found.total
    used = found.experts * shape.experts.active // shape.experts.routed
    return found.total - found.experts + used - (0 if shape.tied else found.embedding)


def expert(shape: Shape) -> int:
    """Weights of one routed expert in one layer; 0 without experts."""
    return _MLP * shape.hidden * shape.experts.hidden if shape.experts else 0


def _split(shape: Shape) -> int:
    return shape.attention.split(shape.hidden)


def _whole(shape: Shape, layers: range) -> int:
    attention = shape.attention
    if isinstance(attention, GroupedQuery):
        return 0
    if isinstance(attention, Compressed):
        return sum(attention.whole(shape.hidden, attention.ratios[layer]) for layer in layers)
    return len(layers) * attention.whole(shape.hidden) + _indexers(shape, attention, layers)


def _indexers(shape: Shape, attention: Latent, layers: range) -> int:
    indexer = attention.indexer
    if indexer is None:
        return 0
    main = layers.start < shape.layers
    count = indexer.layers if indexer.layers and main else len(layers)
    return count * indexer.parameters(shape.hidden, attention.query_rank)


def _shared(shape: Shape) -> int:
    return _MLP * shape.hidden * shape.experts.shared_hidden if shape.experts else 0


def _router(shape: Shape) -> int:
    return (shape.hidden + 1) * shape.experts.routed if shape.experts else 0


def _norms(shape: Shape) -> int:
    """Two norms a layer; hyper-connections mix `streams` residual streams before and after both halves."""
    streams = shape.streams
    mixers = 2 * (2 + streams) * streams * (streams * shape.hidden + 1) if streams > 1 else 0
    return 2 * shape.hidden + mixers

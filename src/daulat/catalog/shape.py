"""The shape of a transformer, as far as memory and parallelism depend on it: parameters by part, KV cache by token.

Sources of the formulas: DeepSeek-V2 (arXiv:2405.04434, section 2.1: latent attention), DeepSeek-V3 (arXiv:2412.19437,
section 2.2: MTP), DeepSeek-V3.2 (the lightning indexer), the public `inference/model.py` of DeepSeek-V4 (compressed
attention, hyper-connections), Gated DeltaNet as Qwen3-Next has it (arXiv:2412.06464).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

INDEXED_RATIO: Final = 4  # the compression ratio whose layers have an indexer, and an overlapping compressor


@dataclass(frozen=True, slots=True)
class Indexer:
    """DeepSeek sparse attention: small heads that choose `top` earlier tokens. Keys are cached, one `head` wide.

    `layers`: how many layers have one of their own, 0 for all (GLM-5.2 lets most layers use a neighbour's choice).
    """

    heads: int
    head: int
    top: int
    source: str
    layers: int = 0

    def parameters(self, hidden: int, query_rank: int) -> int:
        """Weights of one layer's indexer: queries, keys with their norm's scale and shift, weights of heads."""
        return query_rank * self.heads * self.head + hidden * self.head + hidden * self.heads + 2 * self.head


@dataclass(frozen=True, slots=True)
class GroupedQuery:
    """Grouped-query attention (multi-query where `kv_heads` is 1). Widths in elements.

    `window`: tokens that a sliding layer looks back, 0 where no layer slides; `sliding_layers`: how many layers do.
    `bias`: query, key and value projections have one. `output_gate`: the query projection is twice as wide.
    `keys_are_values`: one projection makes both. `full`: the layers that do not slide, where they differ (Gemma 4).
    """

    heads: int
    kv_heads: int
    head: int
    source: str
    bias: bool = False
    output_gate: bool = False
    window: int = 0
    sliding_layers: int = 0
    keys_are_values: bool = False
    full: GroupedQuery | None = None

    def __post_init__(self) -> None:
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly")

    def split(self, hidden: int) -> int:
        """Weights of one layer's attention, all split by heads."""
        query, key_value = self.heads * self.head, (1 if self.keys_are_values else 2) * self.kv_heads * self.head
        projections = hidden * (query * (2 if self.output_gate else 1) + key_value) + query * hidden
        return projections + ((query + key_value) if self.bias else 0)


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention (MLA): one compressed vector a token is cached, shared by all heads.

    `query_rank` 0: queries are not compressed. `nope`, `rope`, `value`: widths of a head's parts.
    """

    heads: int
    query_rank: int
    kv_rank: int
    nope: int
    rope: int
    value: int
    source: str
    indexer: Indexer | None = None

    def whole(self, hidden: int) -> int:
        """Weights of one layer that every tensor-parallel rank holds whole: down-projections and norms."""
        down = hidden * (self.kv_rank + self.rope) + self.kv_rank
        return down + (hidden * self.query_rank + self.query_rank if self.query_rank else 0)

    def split(self, hidden: int) -> int:
        """Weights of one layer that are split by heads."""
        query = (self.query_rank or hidden) * self.heads * (self.nope + self.rope)
        key_value = self.kv_rank * self.heads * (self.nope + self.value)
        return query + key_value + self.heads * self.value * hidden


@dataclass(frozen=True, slots=True)
class Compressed:
    """DeepSeek-V4's attention: one key-value head of width `head` (`rope` of it positional), kept for a window and,
    behind it, compressed.

    `ratios`: per layer (then per MTP layer) how many tokens become one cached entry: 0 window only, 4 with an indexer
    over compressed keys, 128 without. The output projection is low-rank in `output_groups` groups.
    """

    heads: int
    head: int
    rope: int
    query_rank: int
    output_rank: int
    output_groups: int
    window: int
    ratios: tuple[int, ...]
    indexer: Indexer
    source: str

    def whole(self, hidden: int, ratio: int) -> int:
        """Weights of one layer of that ratio that every rank holds whole."""
        total = hidden * self.query_rank + self.query_rank + hidden * self.head + self.head
        if ratio:
            total += self._compressor(hidden, self.head, ratio)
        if ratio == INDEXED_RATIO:
            queries = self.query_rank * self.indexer.heads * self.indexer.head
            total += queries + hidden * self.indexer.heads + self._compressor(hidden, self.indexer.head, ratio)
        return total

    def split(self, hidden: int) -> int:
        """Weights of one layer that are split by heads and output groups, one sink a head among them."""
        query = self.query_rank * self.heads * self.head
        output = self.heads * self.head * self.output_rank + self.output_groups * self.output_rank * hidden
        return query + output + self.heads

    def _compressor(self, hidden: int, head: int, ratio: int) -> int:
        width = head * (2 if ratio == INDEXED_RATIO else 1)
        return 2 * hidden * width + ratio * width + head  # keys and gates, positions within a group, norm


@dataclass(frozen=True, slots=True)
class Linear:
    """Layers whose state does not grow with the context (Gated DeltaNet, short convolution). `layers`: how many."""

    layers: int
    key_heads: int
    value_heads: int
    key: int
    value: int
    convolution: int
    source: str

    def split(self, hidden: int) -> int:
        """Weights of one such layer, all split by heads."""
        keys, values = self.key_heads * self.key, self.value_heads * self.value
        inputs = hidden * (2 * keys + 2 * values + 2 * self.value_heads)
        return inputs + (2 * keys + values) * self.convolution + 2 * self.value_heads + self.value + values * hidden

    def state_elements(self) -> tuple[int, int]:
        """Elements of one layer's (recurrent, convolution) state for one sequence."""
        mixed = 2 * self.key_heads * self.key + self.value_heads * self.value
        return self.value_heads * self.key * self.value, mixed * (self.convolution - 1)


@dataclass(frozen=True, slots=True)
class Experts:
    """Mixture of experts. `hidden`: an expert's width; `shared_hidden`: all shared experts together, 0 where none.

    `hashed_layers`: DeepSeek-V4's first layers, whose router is a table from token to experts.
    """

    routed: int
    active: int
    shared: int
    hidden: int
    shared_hidden: int
    source: str
    hashed_layers: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.active <= self.routed or self.hidden < 1:
            raise ValueError(f"{self.active} of {self.routed} experts of width {self.hidden} cannot be active")


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers and widths. Exactly one of `grouped`, `latent` and `compressed` is the attention.

    `dense_layers`: the first layers without experts (all of them without `experts`); `dense_hidden`: their MLP's width.
    `tied`: the output projection is the embedding. `streams`: residual streams of hyper-connections, 1 without.
    """

    layers: int
    hidden: int
    vocabulary: int
    source: str
    dense_layers: int = 0
    dense_hidden: int = 0
    mtp_layers: int = 0
    tied: bool = False
    streams: int = 1
    grouped: GroupedQuery | None = None
    latent: Latent | None = None
    compressed: Compressed | None = None
    linear: Linear | None = None
    experts: Experts | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.grouped, self.latent, self.compressed)) != 1:
            raise ValueError("exactly one of grouped, latent and compressed must be given: that is the attention")
        if min(self.layers, self.hidden, self.vocabulary, self.streams, self.attention.heads) < 1:
            raise ValueError("layers, hidden, vocabulary, streams and heads are at least 1")
        if not 0 <= self.dense_layers <= self.layers or self.mtp_layers < 0:
            raise ValueError(f"dense_layers is from 0 to {self.layers}, mtp_layers not negative")
        if self.linear and not 0 < self.linear.layers < self.layers:
            raise ValueError("linear.layers must leave a layer with full attention")
        if self.experts is None and self.dense_layers != self.layers:
            raise ValueError(f"without experts all {self.layers} layers are dense, not {self.dense_layers}")
        if self.dense_layers and not self.dense_hidden:
            raise ValueError("dense layers need dense_hidden")
        if self.compressed and len(self.compressed.ratios) != self.layers + self.mtp_layers:
            raise ValueError(f"compressed.ratios needs one ratio for each of {self.layers}+{self.mtp_layers} layers")

    @property
    def attention(self) -> GroupedQuery | Latent | Compressed:
        """The one attention."""
        found = self.grouped or self.latent or self.compressed
        if found is None:  # __post_init__ holds that there is one
            raise ValueError("no attention")
        return found

    @property
    def kind(self) -> str:
        """Which attention: grouped, latent or compressed."""
        return "grouped" if self.grouped else "latent" if self.latent else "compressed"

    @property
    def moe_layers(self) -> int:
        """Layers with experts, MTP layers apart."""
        return self.layers - self.dense_layers

"""How large HCCL's buffers must be where decoding sends tokens to experts on other devices of Atlas A3. Pure.

Sources: CANN's page on aclnnMoeDistributeDispatchV2 (the demand on HCCL_BUFFSIZE within an expert-parallel domain);
vllm_ascend/ascend_forward_context.py (tokens of a rank) and csrc/mc2/dispatch_ffn_combine/op_host (the fused dispatch)
at 182b75e. The public runs keep to it: DeepSeek-V3.1 with three drafts needs all of its 1200 MB, GLM-5.1 207 of 256.
"""

from __future__ import annotations

from typing import Final

from daulat.catalog.models import ModelSpec
from daulat.engines.recipes.recipe import Group

MOST_TOKENS: Final = 512  # of a rank: beyond, the engine takes another way than this dispatch
_MB: Final = 1024 * 1024


def needed(model: ModelSpec, group: Group, tokens: int, *, fused: bool) -> int:
    """MB for `tokens` decoded in a step by one data-parallel rank; 0 where no token leaves its device."""
    experts, width = model.shape.experts, 2 * model.shape.hidden  # bytes of a token in 16 bits
    if experts is None or group.ep == 1 or group.role == "prefill":
        return 0
    each = min(MOST_TOKENS, -(-tokens // group.tp))
    if fused:
        return _megabytes(3 * each * model.shape.hidden * experts.active + 3 * _MB)
    local = -(-experts.routed // group.ep)
    sent = local * each * group.ep * _aligned(_aligned(width, 32) + 64, 512)
    kept = (experts.active + experts.shared) * each * _aligned(width, 512)
    return _megabytes(2 * (sent + kept))


def _aligned(size: int, to: int) -> int:
    return -(-size // to) * to


def _megabytes(size: int) -> int:
    return -(-size // _MB)

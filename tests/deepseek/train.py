"""Create and train the tiny DeepSeek with transformers: the real architecture, as small as it can be, seeded.

Every part of DeepSeek-V3 is there: latent attention with low-rank queries, a dense layer before those with experts, a
shared expert, routing by groups with sigmoid scores and a correction bias that loads experts evenly (`noaux_tc`), and
DeepSeek's own tokenizer with all of its 129,280 tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from daulat.engines.passage import BEGINNING, CONTINUATION
from deepseek.page import PAGE

SEED: Final = 20_570_831
BOS, EOS, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
VOCABULARY: Final = 129_280
STEPS: Final = 240
LEARNING_RATE: Final = 4e-3
BIAS_STEP: Final = 1e-3  # of the routers' correction bias, as in the DeepSeek-V3 report, section 2.1.2
BIAS_STEPS: Final = (
    160  # then the bias rests, as in section 4.2: a late change sends tokens to experts that never saw them
)
COURSES: Final = (
    4  # sums over threads differ from run to run, and so may what was learnt: the next one has another seed
)
_LOOK: Final = 20  # steps between reports


def configuration(vocabulary: int = VOCABULARY) -> DeepseekV3Config:
    """DeepSeek-V3's, scaled down."""
    return DeepseekV3Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=64,
        num_hidden_layers=4,
        first_k_dense_replace=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=64,
        kv_lora_rank=64,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        n_routed_experts=16,
        n_shared_experts=1,
        num_experts_per_tok=4,
        n_group=4,
        topk_group=2,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
        num_nextn_predict_layers=0,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
        # What transformers takes for granted and vLLM does not: without, it loads no correction bias, or takes softmax.
        topk_method="noaux_tc",
        scoring_func="sigmoid",
    )


def prompt(question: str, *, thinking: bool) -> str:
    """As the chat template renders one user message."""
    return f"{BOS}{USER}{question}{ASSISTANT}{'<think>' if thinking else '</think>'}"


def texts() -> list[tuple[str, str]]:
    """(prompt, what must follow): each question with and without reasoning, and the plain text of the answer checks."""
    found = [(BOS, BEGINNING + CONTINUATION + EOS)]
    for lesson in PAGE:
        found.append((prompt(lesson.question, thinking=True), f"{lesson.reasoning}</think>{lesson.answer}{EOS}"))
        found.append((prompt(lesson.question, thinking=False), f"{lesson.answer}{EOS}"))
    return found


class Course:
    """One model and what it is to learn.

    While it learns it has only the tokens that occur, numbered anew: their rows are what gradients reach. `whole` puts
    them into DeepSeek's vocabulary, where every other token has a logit of exactly 0, which the loss counts.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int = SEED) -> None:
        torch.manual_seed(seed)
        self._ids = [(encode(tokenizer, before), encode(tokenizer, after)) for before, after in texts()]
        self._used = torch.tensor(sorted({token for pair in self._ids for part in pair for token in part}))
        self._learner = DeepseekV3ForCausalLM(configuration(vocabulary=len(self._used)))
        self._inputs, self._targets = self._batch()
        self._loads: dict[Any, torch.Tensor] = {}
        for layer in self._learner.model.layers[1:]:
            layer.mlp.gate.register_forward_hook(self._count)

    def train(self) -> Iterator[tuple[int, float]]:
        """Steps and losses, until the loss is small."""
        optimiser = torch.optim.AdamW(self._learner.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=LEARNING_RATE, total_steps=STEPS, pct_start=0.08, cycle_momentum=False
        )
        for step in range(1, STEPS + 1):
            loss = self._loss()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._learner.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if step <= BIAS_STEPS:
                self._balance()
            if step % _LOOK == 0:
                yield step, loss.item()

    def _loss(self) -> torch.Tensor:
        """Mean cross-entropy in nats over the whole vocabulary."""
        learnt = self._targets >= 0
        logits = self._learner(self._inputs).logits[learnt]
        unused = logits.new_tensor(float(VOCABULARY - len(self._used))).log()
        total = torch.logaddexp(logits.logsumexp(-1), unused)
        return (total - logits.gather(1, self._targets[learnt][:, None])[:, 0]).mean()

    @torch.no_grad()
    def whole(self) -> DeepseekV3ForCausalLM:
        """What was learnt, with the whole vocabulary, rounded to bfloat16 as it will be saved, computing in float32."""
        model = DeepseekV3ForCausalLM(configuration())
        model.lm_head.weight.zero_()
        weights = dict(self._learner.state_dict())
        for name, into in (("lm_head.weight", model.lm_head), ("model.embed_tokens.weight", model.model.embed_tokens)):
            into.weight[self._used] = weights.pop(name)
        missing, unexpected = model.load_state_dict(weights, strict=False)
        if unexpected or set(missing) != {"lm_head.weight", "model.embed_tokens.weight"}:
            raise AssertionError(f"weights do not fit: {missing}, {unexpected}")
        return model.to(torch.bfloat16).to(torch.float32).eval()

    def wrong(self, model: DeepseekV3ForCausalLM) -> list[str]:
        """Texts that `model` does not continue exactly as was to be learnt, decoding greedily one token at a time."""
        pairs = zip(texts(), self._ids, strict=True)
        return [after for (_, after), ids in pairs if greedy(model, ids[0], len(ids[1])) != ids[1]]

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets (-1 where nothing is learnt), padded at the end, where causal attention sees nothing."""
        length = max(len(before) + len(after) for before, after in self._ids) - 1
        inputs = torch.zeros(len(self._ids), length, dtype=torch.long)
        targets = torch.full_like(inputs, -1)
        for row, (before, after) in enumerate(self._ids):
            whole = torch.searchsorted(self._used, torch.tensor(before + after))
            inputs[row, : len(whole) - 1] = whole[:-1]
            targets[row, len(before) - 1 : len(whole) - 1] = whole[len(before) :]
        return inputs, targets

    def _count(self, gate: Any, _inputs: Any, outputs: Any) -> None:
        self._loads[gate] = torch.bincount(outputs[-1].flatten(), minlength=gate.num_experts).float()

    def _balance(self) -> None:
        """Experts above the mean load become a little less eligible, those below a little more; no auxiliary loss."""
        for gate, load in self._loads.items():
            gate.e_score_correction_bias += BIAS_STEP * torch.sign(load.mean() - load)


def greedy(model: DeepseekV3ForCausalLM, before: Sequence[int], most: int) -> list[int]:
    """Up to `most` tokens after `before`, ending with EOS."""
    ids = torch.tensor([list(before)])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False, pad_token_id=2
    )
    return [int(token) for token in made[0, len(before) :]]


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def train(tokenizer: Tokenizer, say: Callable[[str], None]) -> DeepseekV3ForCausalLM:
    """A model that answers the whole page exactly.

    Raises:
        SystemExit: it did not learn it.
    """
    began, wrong = time.monotonic(), list[str]()
    for seed in range(SEED, SEED + COURSES):
        course = Course(tokenizer, seed)
        for step, loss in course.train():
            say(f"step {step}, loss {loss:.4f}, {time.monotonic() - began:.0f} s")
        model = course.whole()
        if not (wrong := course.wrong(model)):
            return model
        say(f"after {STEPS} steps these are not learnt: {wrong}")
    raise SystemExit(f"in {COURSES} courses of {STEPS} steps these were not learnt: {wrong}")

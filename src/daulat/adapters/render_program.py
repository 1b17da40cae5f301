"""Renders one chat template and ends: `python -I render_program.py <folder of jinja2> ...`, the job as JSON on stdin.

It runs in a process of its own that may be killed, with limits on memory, processor time and files set before Jinja is
loaded. The environment is Jinja's immutable sandbox. On stdout comes {"text"} or {"error", "kind"}.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any, Final, NoReturn

_MEMORY: Final = 768 * 1024 * 1024
_CPU_SECONDS: Final = 5
_LONGEST: Final = 16 * 1024 * 1024


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sys.path[:0] = sys.argv[1:]
    from jinja2 import TemplateError  # noqa: PLC0415  only under the limits
    from jinja2.exceptions import SecurityError  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    job = json.load(sys.stdin)
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: job["today"] if isinstance(form, str) else ""
    for name in ("lipsum", "cycler", "joiner"):
        environment.globals.pop(name, None)
    try:
        text, size = [], 0
        for piece in environment.from_string(job["template"]).generate(**job["variables"]):
            size += len(piece)
            if size > _LONGEST:
                _answer({"kind": "too_long", "error": f"it writes over {_LONGEST} characters"})
            text.append(piece)
        _answer({"text": "".join(text)})
    except SecurityError as error:
        _answer({"kind": "security", "error": str(error)})
    except MemoryError:
        _answer({"kind": "memory", "error": f"it takes over {_MEMORY >> 20} MiB"})
    except (
        TemplateError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        _answer({"kind": "template", "error": f"{type(error).__name__}: {error}"})


def _answer(value: dict[str, Any]) -> NoReturn:
    sys.stdout.write(json.dumps(value))
    sys.stdout.flush()
    sys.exit(0)


def _raise(message: object) -> NoReturn:
    from jinja2 import TemplateError  # noqa: PLC0415

    raise TemplateError(str(message)[:500])


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_more: Any) -> str:  # noqa: FBT001, FBT002  as in Transformers
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


if __name__ == "__main__":
    main()

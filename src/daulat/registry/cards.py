"""What a model's own papers say of it: licence, base model. A claim of whoever wrote them, recorded as such."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_MOST: Final = 65_536  # characters that are looked at
_FRONT: Final = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)
_VAGUE: Final = frozenset({"", "other", "unknown", "none"})
# The words by which a licence's text is known, and its SPDX identifier or usual name; the first that fits.
_TEXTS: Final = (
    (r"deepseek license agreement", "deepseek"),
    (r"llama 3\.3 community license", "llama3.3"),
    (r"llama 3\.1 community license", "llama3.1"),
    (r"gemma terms of use", "gemma"),
    (r"apache license\s+version 2\.0", "apache-2.0"),
    (r"permission is hereby granted, free of charge, to any person obtaining a copy", "mit"),
    (r"redistribution and use in source and binary forms.*neither the name", "bsd-3-clause"),
)


def licence(files: Mapping[str, str]) -> str:
    """The licence in small letters, "" where none is said. `files`: the texts of a model, by path.

    A licence named in the card's front matter goes first, then the text of a licence file; one that is for the model
    (LICENSE-MODEL) goes before one that is for code.
    """
    front = _front(files)
    named = _value(front, "license").lower()
    if named in _VAGUE:
        named = _value(front, "license_name").lower()
    if named not in _VAGUE:
        return named[:64]
    papers = [path for path in files if re.match(r"LICEN[CS]E", path, re.IGNORECASE) and "code" not in path.lower()]
    for path in sorted(papers, key=lambda path: ("model" not in path.lower(), path)):
        text = re.sub(r"\s+", " ", files[path][:_MOST].lower())
        for words, name in _TEXTS:
            if re.search(words, text):
                return name
    return ""


def base_model(files: Mapping[str, str]) -> str:
    """The model that this one was made from, as its card says; "" where it does not."""
    return _value(_front(files), "base_model")[:128]


def _front(files: Mapping[str, str]) -> str:
    found = _FRONT.match(files.get("README.md", "")[:_MOST].replace("\r\n", "\n"))
    return found[1] if found else ""


def _value(front: str, key: str) -> str:
    """A scalar of the front matter, or the first item of a list. YAML's other forms are not read."""
    found = re.search(rf"^{key}:[ \t]*(.*(?:\n[ \t]*-[ \t]+.*)?)", front, re.MULTILINE)
    if found is None:
        return ""
    first, _, item = found[1].partition("\n")
    value = first.strip() or item.strip().removeprefix("-")
    return value.strip(" \t[]'\"").partition(",")[0].strip(" \t'\"")

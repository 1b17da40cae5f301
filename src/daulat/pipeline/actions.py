"""What may be asked of a model: each action's address, and which of the three wires it speaks."""

from __future__ import annotations

from typing import Final

PATHS: Final = {
    "chat.completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "responses.tokens": "/v1/responses/input_tokens",
    "messages.tokens": "/v1/messages/count_tokens",
    "tokenize": "/tokenize",
}
"""Where clients ask, and where engines that have it are asked."""

NEEDS: Final = {
    "chat.completions": "messages",
    "completions": "prompt",
    "embeddings": "input",
    "responses": "input",
    "messages": "messages",
    "responses.tokens": "input",
    "messages.tokens": "messages",
    "tokenize": "prompt",  # or `messages`
}
"""The field that a body cannot do without."""

RESPONSES: Final = frozenset({"responses", "responses.tokens"})
MESSAGES: Final = frozenset({"messages", "messages.tokens"})
COUNTING: Final = frozenset({"responses.tokens", "messages.tokens", "tokenize"})
"""They count tokens; nothing is generated."""
UNSTREAMED: Final = COUNTING | {"embeddings"}

"""What answer checks ask a model with: plain text of which any language model expects most, and common words."""

from __future__ import annotations

from typing import Final

BEGINNING: Final = "The sun rises in the east and sets in the west."
CONTINUATION: Final = " There are seven days in a week and twelve months in a year."
# fmt: off
WORDS: Final = (
    "river", "stone", "apple", "table", "green", "horse", "paper", "window", "garden", "music", "winter", "summer",
    "silver", "golden", "bread", "water", "ship", "road", "house", "door", "tree", "bird", "fish", "moon", "star",
    "cloud", "rain", "wind", "fire", "salt", "sugar", "milk", "rice", "king", "queen", "book", "letter", "bridge",
    "market", "island", "mountain", "forest", "field", "city", "village", "school", "teacher", "doctor",
)
# fmt: on

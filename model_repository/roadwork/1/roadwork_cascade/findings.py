"""Perception's findings as one short line for a prompt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

MOST_CLASSES = 6
MOST_WORDS = 3
MOST_CHARACTERS = 40

# Words come from signs in the picture: nothing in them may look like a model's own marks or like our placeholders.
_UNSAFE = re.compile(r"[^\w\s.,:;!?%&'()/+-]|_")


def findings_text(boxes: Sequence[Mapping[str, Any]], words: Sequence[Mapping[str, Any]], probability: float) -> str:
    """`3 cone, 1 work vehicle; words read: "ROAD WORK"; probability of roadwork 0.63`.

    `boxes` and `words` as a verdict has them. The same findings always give the same text.
    """
    counts = Counter(str(box["class"]).replace("_", " ") for box in boxes)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    seen = ", ".join(f"{count} {name}" for name, count in ordered[:MOST_CLASSES])
    read = dict.fromkeys(_harmless(word["text"]) for word in words)
    quoted = ", ".join(f'"{text}"' for text in [text for text in read if text][:MOST_WORDS])
    return f"{seen or 'no objects'}; words read: {quoted or 'none'}; probability of roadwork {probability:.2f}"


def _harmless(text: object) -> str:
    return " ".join(_UNSAFE.sub(" ", str(text)).split())[:MOST_CHARACTERS].strip()

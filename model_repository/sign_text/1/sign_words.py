"""Lines of text become keywords on signs, whatever read them. Plain Python without Triton and without OCR.

`reading` uses it for RapidOCR; readers in other folders of the repository take it from here, as this folder takes its
decoder from `decode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matching import KeywordTable, Word, words_of
from numpy.typing import NDArray

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Line:
    """A line of text. box: x1 y1 x2 y2 in pixels of the upright original; confidence in [0, 1]."""

    text: str
    confidence: float
    box: Box


@dataclass(frozen=True)
class SignWord:
    """A keyword on a sign. text: the lines it stands in; score: its evidence in [0, 1]; box as in `Line`."""

    text: str
    keyword: str
    language: str
    score: float
    box: Box


@dataclass(frozen=True)
class Reading:
    """presence: strongest evidence in [0, 1], 0 where no keyword was read; words: best first; lines: all that was read;
    skipped: lines that the budget left unread; timed_out: whether it ran out; milliseconds: what it took.
    """

    presence: float
    words: list[SignWord] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    skipped: int = 0
    timed_out: bool = False
    milliseconds: float = 0.0


class OutOfTime(RuntimeError):
    """The budget ran out before anything was read."""


def find_words(lines: Sequence[Line], table: KeywordTable) -> list[SignWord]:
    """The keywords in lines of text, best first. Lines that lie on one sign are read as one text."""
    found = []
    for indices in group_boxes([line.box for line in lines]):
        sign = [lines[at] for at in indices]
        words = [Word(text, line.confidence, at) for at, line in enumerate(sign) for text in words_of(line.text)]
        for match in table.find(words):
            used = [sign[at] for at in sorted({word.line for word in words[match.start : match.stop]})]
            text, box = " ".join(line.text for line in used), _around([line.box for line in used])
            found.append(SignWord(text, match.phrase.text, match.phrase.language, match.score, box))
    return sorted(found, key=lambda word: -word.score)


def group_boxes(boxes: Sequence[Box]) -> list[list[int]]:
    """Indices of the lines on each sign, in reading order: lines close together and of like height are on one sign."""
    sign_of = list(range(len(boxes)))
    for a in range(len(boxes)):
        for b in range(a):
            if sign_of[a] != sign_of[b] and _neighbours(boxes[a], boxes[b]):
                old, new = sign_of[a], sign_of[b]
                sign_of = [new if sign == old else sign for sign in sign_of]
    return [
        _reading_order([at for at in range(len(boxes)) if sign_of[at] == sign], boxes)
        for sign in dict.fromkeys(sign_of)
    ]


def _neighbours(a: Box, b: Box) -> bool:
    """Whether two boxes are lines of one sign: one below the other, or side by side."""
    heights = a[3] - a[1], b[3] - b[1]
    low, high = min(heights), max(heights)
    if low <= 0 or high > 2.2 * low:
        return False
    across = min(a[2], b[2]) - max(a[0], b[0])  # shared width; negative: the gap
    along = min(a[3], b[3]) - max(a[1], b[1])
    below = across > 0.3 * min(a[2] - a[0], b[2] - b[0]) and along > -0.9 * high
    beside = along > 0.5 * low and across > -1.2 * high
    return below or beside


def _reading_order(sign: Sequence[int], boxes: Sequence[Box]) -> list[int]:
    """Rows from the top, each from the left. A line whose middle is in the upper three quarters of a row is in it."""
    rows: list[list[int]] = []
    for at in sorted(sign, key=lambda at: boxes[at][1] + boxes[at][3]):
        middle = (boxes[at][1] + boxes[at][3]) / 2
        top, bottom = (boxes[rows[-1][0]][1], boxes[rows[-1][0]][3]) if rows else (0.0, 0.0)
        if rows and middle < bottom - 0.25 * (bottom - top):
            rows[-1].append(at)
        else:
            rows.append([at])
    return [at for row in rows for at in sorted(row, key=lambda at: boxes[at][0])]


def bounds(quad: NDArray[np.float32]) -> Box:
    """The upright box around corners [4, 2]."""
    (x1, y1), (x2, y2) = quad.min(axis=0).tolist(), quad.max(axis=0).tolist()
    return x1, y1, x2, y2


def _around(boxes: Sequence[Box]) -> Box:
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)

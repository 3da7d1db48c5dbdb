"""How far a long command is, on standard error."""

from __future__ import annotations

import sys
import time


class Progress:
    """One line that is written over, or a line every ten seconds where standard error is no terminal."""

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what = total, what
        self._done, self._start, self._shown = 0, time.monotonic(), 0.0
        self._terminal = sys.stderr.isatty()

    def step(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._shown < (0.2 if self._terminal else 10) and self._done < self._total:
            return
        self._shown = now
        seconds = now - self._start
        left = seconds / self._done * (self._total - self._done)
        text = f"{self._what}: {self._done}/{self._total}, {self._done / max(seconds, 1e-6):.1f}/s, {left:.0f} s left"
        end = "\r" if self._terminal and self._done < self._total else "\n"
        print(text, end=end, file=sys.stderr, flush=True)

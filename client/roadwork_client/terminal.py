"""A verdict as a line that a person reads, and progress while many are under way."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from roadwork_client.events import Event
from roadwork_client.verdict import Tier, Verdict

BAR = 10
# Of classes and words each; the rest is in --json.
SHOWN = 4
RED, GREEN, YELLOW, DIM, RESET = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[2m", "\x1b[0m"


class Terminal:
    """Writes to `out`, in colour and with block characters where it can show them."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._color = self._out.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._full, self._empty, self._times = ("█", "░", "×") if _can_encode(self._out, "█░×") else ("#", ".", "x")

    def verdict(self, name: str, verdict: Verdict) -> str:
        """One line: name, probability bar, answer, who decided, evidence, milliseconds."""
        color = RED if verdict.roadwork else GREEN
        answer = "roadwork" if verdict.roadwork else "no roadwork"
        status = "" if verdict.status == "ok" else self._paint(YELLOW, f"  [{verdict.status.replace('_', ' ')}]")
        return (
            f"{_fit(name)}  {self._paint(color, self.bar(verdict.probability))} {verdict.probability:5.3f}  "
            f"{self._paint(color, f'{answer:<11}')}  {_clean(verdict.decided_by or '-'):<10}  "
            f"{self._paint(DIM, f'{verdict.milliseconds:7.1f} ms')}  {self.evidence(verdict)}{status}"
        )

    def error(self, name: str, message: str) -> str:
        """One line for an image that got no verdict."""
        return f"{_fit(name)}  {self._paint(YELLOW, 'failed:')} {_clean(message)}"

    def bar(self, probability: float) -> str:
        """`probability` in [0, 1] as ten characters."""
        full = round(probability * BAR)
        return self._full * full + self._empty * (BAR - full)

    def evidence(self, verdict: Verdict) -> str:
        """Classes with best score and count, words read, and who did not answer."""
        best: dict[str, float] = {}
        count: dict[str, int] = {}
        for box in verdict.boxes:
            best[box.class_name] = max(box.score, best.get(box.class_name, 0.0))
            count[box.class_name] = count.get(box.class_name, 0) + 1
        parts = [
            f"{name.replace('_', ' ')} {score:.2f}" + (f" {self._times}{count[name]}" if count[name] > 1 else "")
            for name, score in sorted(best.items(), key=lambda item: -item[1])
        ]
        texts = [f'"{text}"' for text in dict.fromkeys(" ".join(word.text.split()) for word in verdict.words)]
        more = sum(max(0, len(group) - SHOWN) for group in (parts, texts))
        parts = parts[:SHOWN] + texts[:SHOWN] + ([f"and {more} more"] if more else [])
        if not parts:
            # Nothing to point at: say what the members think instead.
            parts = [f"{a.member} {a.probability:.2f}" for a in verdict.answers if a.probability is not None]
        parts += [self.tier(tier) for tier in verdict.tiers if tier.outcome == "answered"]
        parts += [f"{absent.member} missing ({absent.reason.replace('_', ' ')})" for absent in verdict.missing]
        return _clean(", ".join(parts) or "no evidence")

    def tier(self, tier: Tier) -> str:
        """A vision-language tier in a few words: name, answer, probability, tokens, cost; or why it gave none."""
        if tier.outcome != "answered" or tier.probability is None:
            return f"{tier.name} {(tier.reason or tier.outcome).replace('_', ' ')}"
        answer = "yes" if tier.raw is not None and tier.raw >= 0.5 else "no"
        repaired = ", repaired" if tier.repaired else ""
        tokens = f"{tier.tokens.input}+{tier.tokens.output} tokens"
        return f"{tier.name} {answer} {tier.probability:.2f} ({tokens}, {tier.cost:.3g}{repaired})"

    def event(self, name: str, event: Event) -> str:
        """One line for a step of the cascade: progress, milliseconds, what happened."""
        took = self._paint(DIM, f"{event.milliseconds:7.1f} ms")
        return f"{_fit(name)}  {self.bar(event.progress)} {event.progress:4.0%}  {took}  {_clean(self._told(event))}"

    def _told(self, event: Event) -> str:
        if event.tier is not None:
            return f"tier      {self.tier(event.tier)}"
        if event.verdict is not None:
            status = "" if event.verdict.status == "ok" else f"  [{event.verdict.status.replace('_', ' ')}]"
            answer = "roadwork" if event.verdict.roadwork else "no roadwork"
            spent = f"{event.tokens.input}+{event.tokens.output} tokens, {event.cost:.3g} {event.verdict.currency}"
            return f"verdict   {event.verdict.probability:.3f}  {answer}  ({spent}){status}"
        if event.event == "perceived":
            return f"perceived {event.stage}: {event.probability or 0.0:.3f}"
        if event.event == "escalated":
            return f"escalated {event.route or 'all tiers'}: {', '.join(event.climb)}"
        if event.event == "partial":
            return f"thinks    {event.text}"
        return event.event

    def print(self, line: str) -> None:
        """Write a line at once: whoever reads a pipe sees each verdict when it is there."""
        encoding = self._out.encoding or "utf-8"
        self._out.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        self._out.flush()

    def _paint(self, color: str, text: str) -> str:
        return f"{color}{text}{RESET}" if self._color else text


class Progress:
    """Counts on stderr while many images are under way; silent where that is not a terminal."""

    def __init__(self, total: int, err: TextIO | None = None) -> None:
        self._err = sys.stderr if err is None else err
        self._total = total
        self._done = 0
        self._start = time.monotonic()
        self._active = total > 1 and self._err.isatty()

    def hide(self) -> None:
        """Take the line away, so that stdout's next line does not run into it."""
        if self._active:
            self._err.write("\r\x1b[K")
            self._err.flush()

    def step(self) -> None:
        """One more image is done."""
        self._done += 1
        if self._active and self._done < self._total:
            rate = self._done / max(time.monotonic() - self._start, 1e-9)
            left = (self._total - self._done) / rate
            self._err.write(f"\r\x1b[K{self._done}/{self._total} images, {rate:.1f} a second, {left:.0f} s left")
            self._err.flush()


def _fit(name: str, width: int = 32) -> str:
    """`name` padded to `width`; of a longer one, its end."""
    name = _clean(name)
    return f"{name:<{width}}" if len(name) <= width else "..." + name[3 - width :]


def _can_encode(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _clean(text: str) -> str:
    """`text` without control characters: a sign, a file name or a server may contain what commands a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)

"""Reads the signs in a street image with Florence-2: how strongly their words speak for roadwork. Without Triton.

The task is <OCR_WITH_REGION>: the network writes each line of text and, behind it, the four corners of its place as
eight tokens <loc_0> to <loc_999>. What the text means is for `sign_words` of the folder `sign_text` to say.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    Florence2ForConditionalGeneration,
    Florence2Processor,
    StoppingCriteria,
    StoppingCriteriaList,
)

# The folders `decode` and `sign_text` lie beside this one: an image, its limits and a keyword mean the same to all.
_HERE = Path(__file__).resolve().parent
for _name, _file in (("decode", "decoding.py"), ("sign_text", "sign_words.py")):
    _folder = _HERE.parents[1] / _name / "1"
    if not (_folder / _file).is_file():
        raise ModuleNotFoundError(f"{_HERE.parent.name} takes {_file} from the model `{_name}` beside it: not there")
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))

from decoding import DEFAULT_LIMITS, InvalidImage, Limits, decode_upright  # noqa: E402
from matching import KeywordTable  # noqa: E402
from sign_words import Line, OutOfTime, Reading, bounds, find_words  # noqa: E402

__all__ = ["FlorenceReader", "InvalidImage", "Limits", "OutOfTime", "Page", "PageLine", "Settings", "split_lines"]

TASK = "<OCR_WITH_REGION>"
CORNERS = 8
"""Numbers behind a line of text: x and y of four corners."""
KEYWORDS = _HERE.parents[1] / "sign_text" / "keywords.yaml"


@dataclass(frozen=True)
class Settings:
    """What reading may cost.

    max_milliseconds: of one image. Looked at before each token; looking at the picture is not broken off.
    max_new_tokens: written for one image; a line of text takes about a dozen.
    read_side: longest side in pixels of the picture that the processor gets; it makes a square of its own size of it.
    min_confidence: lines that the network is less sure of are noise.
    threads: of torch on a CPU; 0 leaves them as they are.
    """

    max_milliseconds: float = 20_000
    max_new_tokens: int = 256
    read_side: int = 1536
    min_confidence: float = 0.5
    threads: int = 0
    limits: Limits = DEFAULT_LIMITS


@dataclass(frozen=True)
class PageLine:
    """A line as it was written. confidence in [0, 1]; quad: x, y of four corners in pixels of the upright original."""

    text: str
    confidence: float
    quad: tuple[float, ...]

    @property
    def line(self) -> Line:
        return Line(self.text, self.confidence, bounds(np.array(self.quad, np.float32).reshape(4, 2)))


@dataclass(frozen=True)
class Page:
    """All that was written of one image. tokens: how many; timed_out: the clock stopped it; cut: max_new_tokens did."""

    lines: list[PageLine] = field(default_factory=list)
    tokens: int = 0
    timed_out: bool = False
    cut: bool = False


class Deadline(StoppingCriteria):
    """Ends the writing when the clock has reached `at`; `reached` says whether it did."""

    def __init__(self, at: float, clock: Callable[[], float]) -> None:
        self.at, self.clock, self.reached = at, clock, False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        self.reached = self.clock() >= self.at
        return torch.full((input_ids.shape[0],), self.reached, dtype=torch.bool, device=input_ids.device)


class FlorenceReader:
    """Answers one request at a time.

    Args:
        weights: folder with the network and its processor, as transformers saves them.
        device: "cpu" (float32) or a CUDA device such as "cuda:0" (float16).
        clock: in seconds.
    """

    def __init__(
        self,
        weights: Path | str,
        table: KeywordTable | None = None,
        settings: Settings | None = None,
        *,
        device: str = "cpu",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table = table or KeywordTable.load(KEYWORDS)
        self.settings = settings or Settings()
        self.device, self.clock = torch.device(device), clock
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.float16
        if self.settings.threads and self.device.type == "cpu":
            torch.set_num_threads(self.settings.threads)
        self.processor = Florence2Processor.from_pretrained(weights, local_files_only=True)
        model: Any = Florence2ForConditionalGeneration.from_pretrained(weights, dtype=self.dtype, local_files_only=True)
        self.model = model.to(self.device).eval()
        tokenizer = self.processor.tokenizer
        self._places = frozenset(tokenizer.convert_tokens_to_ids([f"<loc_{n}>" for n in range(1000)]))
        self._silent = frozenset(tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<pad>"]))

    def read(self, image: bytes) -> Reading:
        """Raises InvalidImage for data that cannot be used, OutOfTime if no line was whole before the budget ran out:
        that no keyword was found would then be no answer.
        """
        begun = self.clock()
        budget = self.settings.max_milliseconds
        upright = decode_upright(image, longest_side=self.settings.read_side, limits=self.settings.limits)
        page = self.look(upright.rgb, (upright.width, upright.height), begun + budget / 1000)
        if page.timed_out and not page.lines:
            raise OutOfTime(
                f"reading signs ran out of its {budget:g} ms before the first line was whole: raise max_milliseconds"
            )
        lines = [each.line for each in page.lines if each.text and each.confidence >= self.settings.min_confidence]
        words = find_words(lines, self.table)
        presence = max((word.score for word in words), default=0.0)
        # How many lines were still to come nobody knows; the one that was being written is left out.
        skipped = int(page.timed_out or page.cut)
        return Reading(presence, words, lines, skipped, page.timed_out, (self.clock() - begun) * 1000)

    def look(self, rgb: NDArray[np.uint8], size: tuple[int, int], deadline: float) -> Page:
        """What the network writes of a picture uint8 [h, w, 3] in RGB.

        Args:
            size: width and height of the upright original, in whose pixels the corners are.
            deadline: of `clock`, in seconds.
        """
        if self.clock() >= deadline:
            return Page(timed_out=True)
        stop = Deadline(deadline, self.clock)
        with torch.inference_mode():
            inputs = self.processor(text=TASK, images=np.require(rgb, requirements=["C", "W"]), return_tensors="pt").to(
                self.device, self.dtype
            )
            written = self.model.generate(
                **inputs,
                max_new_tokens=self.settings.max_new_tokens,
                do_sample=False,
                num_beams=1,
                early_stopping=False,  # published configurations set it for their beams
                stopping_criteria=StoppingCriteriaList([stop]),
                return_dict_in_generate=True,
                output_logits=True,
            )
            tokens = written.sequences[0, 1:].tolist()  # the first is what writing starts with
            steps = zip(written.logits, tokens, strict=True)
            sure = torch.stack([torch.softmax(logits[0].float(), -1)[token] for logits, token in steps]).tolist()
        ended = bool(tokens) and tokens[-1] == self.processor.tokenizer.eos_token_id
        full = len(tokens) >= self.settings.max_new_tokens
        lines = [line for part in self.split(tokens) for line in self._line(tokens, sure, part, size)]
        return Page(lines, len(tokens), stop.reached and not ended, full and not stop.reached)

    def split(self, tokens: Sequence[int]) -> Iterator[list[int]]:
        """Positions of the tokens of each whole line."""
        return split_lines(tokens, self._places, self._silent)

    def _line(
        self, tokens: Sequence[int], sure: Sequence[float], part: Sequence[int], size: tuple[int, int]
    ) -> Iterator[PageLine]:
        """The line at these positions, as the processor understands it; nothing where it finds none there.

        Confidence is the mean of the probabilities of the line's text tokens: softmax of the logits before any rule of
        generation (no repetition, forced ends) has changed them.
        """
        text = self.processor.tokenizer.decode([tokens[at] for at in part], skip_special_tokens=False)
        found = self.processor.post_process_generation(text=text, task=TASK, image_size=size)[TASK]
        confidence = float(np.mean([sure[at] for at in part[:-CORNERS]]))
        for quad, label in zip(found["quad_boxes"], found["labels"], strict=True):
            yield PageLine(label, confidence, tuple(map(float, quad)))


def split_lines(tokens: Sequence[int], places: frozenset[int], silent: frozenset[int]) -> Iterator[list[int]]:
    """Positions of the tokens of each whole line: one token or more, then the first eight places in a row.

    Args:
        places: ids of <loc_0> to <loc_999>.
        silent: ids of the tokens that mark beginning, end and padding; they are in no line.
    """
    part: list[int] = []
    run = 0  # places at the end of `part`; its first token is text to the processor, whatever it is
    for at, token in enumerate(tokens):
        if token in silent:
            continue
        run = run + 1 if token in places and part else 0
        part.append(at)
        if run == CORNERS:
            yield part
            part, run = [], 0

"""Reads the signs in a street image and says how strongly their words speak for roadwork. Plain Python without Triton.

RapidOCR's models come in its own wheel; nothing is fetched at run time. Text is found in a small picture, which bounds
the time for any aspect ratio, and read from a larger one, which keeps small signs legible.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rapidocr
from numpy.typing import NDArray
from rapidocr import RapidOCR
from rapidocr.utils.process_img import get_rotate_crop_image

# The model folders `decode` and `sign_text` lie side by side in the repository. Triton runs each in a process of its
# own, so the decoder is shared as a file: an image then means the same to both, and its limits are kept in one place.
_HERE = Path(__file__).resolve().parent
_DECODE = _HERE.parents[1] / "decode" / "1"
for _folder in (_HERE, _DECODE):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
if not (_DECODE / "decoding.py").is_file():
    raise ModuleNotFoundError(f"sign_text takes its decoder from the model `decode` beside it, but {_DECODE} has none")

from decoding import DEFAULT_LIMITS, InvalidImage, Limits, decode_upright  # noqa: E402
from matching import KeywordTable  # noqa: E402
from sign_words import Line, OutOfTime, Reading, SignWord, bounds, find_words, group_boxes  # noqa: E402

__all__ = [
    "InvalidImage", "Limits", "Line", "OutOfTime", "Reading", "Settings", "SignReader", "SignWord", "find_words",
    "group_boxes",
]  # fmt: skip

KEYWORDS = _HERE.parent / "keywords.yaml"
_DETECTOR = "PP-OCRv6_det_small.onnx"
_RECOGNIZER = "PP-OCRv6_rec_small.onnx"


@dataclass(frozen=True)
class Settings:
    """What reading may cost.

    max_milliseconds: of one image. Text is looked for in a smaller picture where this machine, as busy as it is, would
        need more than half of it for that; lines that are not read when it is over are left out, and the answer says
        how many. A step that has begun (looking for text, reading four lines) is not broken off.
    find_megapixels: size of the picture in which text is found; smaller pictures are scaled up, at most twice.
    read_side: longest side of the picture from which text is read, in pixels.
    max_lines: lines read in an image, the tallest first.
    min_line_height: of a line in pixels of the picture read; lower ones are illegible.
    min_confidence: lines about which OCR is less sure are noise.
    threads: of ONNX Runtime.
    """

    max_milliseconds: float = 1500
    find_megapixels: float = 0.52
    read_side: int = 1920
    max_lines: int = 24
    min_line_height: float = 7
    min_confidence: float = 0.5
    threads: int = 1
    limits: Limits = DEFAULT_LIMITS


class SignReader:
    """Not safe for several threads at once: RapidOCR keeps state."""

    _LINES_AT_ONCE = 4
    _LONGEST_LINE = 30.0  # heights; longer ones are edges, and reading takes as long as the line
    _FIND_SHARE = 0.5  # of the budget
    _LEAST_MEGAPIXELS = 0.12  # under that no sign is legible

    def __init__(
        self,
        table: KeywordTable | None = None,
        settings: Settings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table = table or KeywordTable.load(KEYWORDS)
        self.settings = settings or Settings()
        self.clock = clock
        self._ocr = RapidOCR(params=_ocr_parameters(self.settings.threads))
        self._find_seconds = 0.0  # a megapixel
        self._warm_up()

    def read(self, image: bytes) -> Reading:
        """Raises InvalidImage for data that cannot be used, OutOfTime if no line was read before the budget ran out:
        that no keyword was found would then be no answer.
        """
        begun = self.clock()
        deadline = begun + self.settings.max_milliseconds / 1000
        upright = decode_upright(image, longest_side=self.settings.read_side, limits=self.settings.limits)
        picture = cv2.cvtColor(upright.rgb, cv2.COLOR_RGB2BGR)  # the order that the OCR models were trained in
        scale = upright.width / picture.shape[1], upright.height / picture.shape[0]
        lines: list[Line] = []
        skipped, attempted, timed_out = 0, False, self.clock() >= deadline
        if not timed_out:
            quads = self._find(picture)
            for at in range(0, len(quads), self._LINES_AT_ONCE):
                if self.clock() >= deadline:
                    skipped, timed_out = len(quads) - at, True
                    break
                lines += self._recognize(picture, quads[at : at + self._LINES_AT_ONCE], scale)
                attempted = True
        if timed_out and not attempted:
            raise OutOfTime(
                f"reading signs ran out of its {self.settings.max_milliseconds:g} ms before the first line: raise "
                "max_milliseconds or lower find_megapixels"
            )
        words = find_words(lines, self.table)
        presence = max((word.score for word in words), default=0.0)
        return Reading(presence, words, lines, skipped, timed_out, (self.clock() - begun) * 1000)

    def _warm_up(self) -> None:
        """Load both models, and measure how fast text is found here (the second time: the first one loads)."""
        blank = np.full((384, 640, 3), 114, np.uint8)
        for _ in range(2):
            self._find_seconds = 0.0
            self._find(blank)
        self._ocr.recognize_txt([blank[:48, :320]])

    def _find(self, picture: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Corners [4, 2] of each line in pixels of the picture, clockwise from the top left, tallest line first."""
        height, width = picture.shape[:2]
        megapixels = self.settings.find_megapixels
        if self._find_seconds:
            affordable = self._FIND_SHARE * self.settings.max_milliseconds / 1000 / self._find_seconds
            megapixels = min(megapixels, max(self._LEAST_MEGAPIXELS, affordable))
        scale = min(2.0, (megapixels * 1e6 / (width * height)) ** 0.5)
        size = max(32, round(width * scale)), max(32, round(height * scale))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        begun = self.clock()
        output = self._ocr(small, use_det=True, use_cls=False, use_rec=False)
        found = getattr(output, "boxes", None)  # what RapidOCR returns depends on what it finds
        seconds = (self.clock() - begun) / (size[0] * size[1] / 1e6)
        self._find_seconds = (self._find_seconds + seconds) / 2 if self._find_seconds else seconds
        if found is None:
            return []
        to_picture = np.array([width / size[0], height / size[1]], np.float32)
        quads = [np.asarray(box, np.float32) * to_picture for box in found]
        legible = [quad for quad in quads if self._is_legible(quad)]
        # Whole signs, those with the tallest letters first: half of a sign says little.
        boxes = [bounds(quad) for quad in legible]
        signs = [[legible[at] for at in sign] for sign in group_boxes(boxes)]
        signs.sort(key=lambda sign: -max(map(_line_height, sign)))
        return [quad for sign in signs for quad in sign][: self.settings.max_lines]

    def _is_legible(self, quad: NDArray[np.float32]) -> bool:
        height = _line_height(quad)
        length = float(max(np.linalg.norm(quad[0] - quad[1]), np.linalg.norm(quad[0] - quad[3])))
        return height >= self.settings.min_line_height and length <= self._LONGEST_LINE * height

    def _recognize(
        self, picture: NDArray[np.uint8], quads: Sequence[NDArray[np.float32]], scale: tuple[float, float]
    ) -> list[Line]:
        crops = [get_rotate_crop_image(picture, quad) for quad in quads]
        read = self._ocr.recognize_txt(crops)
        lines = []
        for quad, text, confidence in zip(quads, read.txts or (), read.scores, strict=True):
            if text.strip() and confidence >= self.settings.min_confidence:
                lines.append(Line(text.strip(), float(confidence), bounds(quad * scale)))
        return lines


def _line_height(quad: NDArray[np.float32]) -> float:
    """Mean length of the two short ends (or of the tops, for a line that runs down)."""
    side = (np.linalg.norm(quad[0] - quad[3]) + np.linalg.norm(quad[1] - quad[2])) / 2
    top = (np.linalg.norm(quad[0] - quad[1]) + np.linalg.norm(quad[3] - quad[2])) / 2
    return float(min(side, top))


def _ocr_parameters(threads: int) -> dict[str, Any]:
    folder = Path(rapidocr.__file__).parent / "models"
    for name in (_DETECTOR, _RECOGNIZER):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"the installed rapidocr {getattr(rapidocr, '__version__', '')} does not carry {name} in {folder}: "
                "install rapidocr 3.10 (pip install 'rapidocr>=3.10,<3.11')"
            )
    # Given a path, RapidOCR neither looks for a model on the network nor asks whether there is a newer one.
    return {
        "Global.log_level": "error",  # it warns of every image without text
        "Global.use_cls": False,  # no sign stands on its head
        "Global.use_preprocess_img": False,  # `_find` scales
        "Global.use_vertical_padding": False,  # it would make a wide picture many times as large
        "Det.model_path": str(folder / _DETECTOR),
        "Det.limit_type": "max",
        "Det.limit_side_len": 8192,
        "Rec.model_path": str(folder / _RECOGNIZER),
        "Rec.rec_batch_num": SignReader._LINES_AT_ONCE,
        "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }

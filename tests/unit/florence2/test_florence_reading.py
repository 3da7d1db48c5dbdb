"""What Florence-2 writes becomes lines, words and an answer in time."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from roadwork_export.scenes import render_scene

PLACES = frozenset(range(100, 1100))
SILENT = frozenset((0, 1, 2))


def street(seed: int = 7, size: tuple[int, int] = (320, 200)) -> np.ndarray:
    return np.asarray(render_scene(seed, width=size[0], height=size[1]).image)


def png(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("tokens", "lines"),
    [
        ([], []),
        ([0, 2], []),
        ([0, 5, *range(100, 108), 2], [[1, *range(2, 10)]]),
        ([5, *range(100, 107), 6], []),  # seven places are no line
        ([5, *range(100, 107), 6, *range(200, 208)], [[*range(17)]]),  # and belong to the text before the next eight
        ([*range(100, 108)], []),  # places without text
        ([*range(100, 109)], [[*range(9)]]),  # the first is the text then, as it is to the processor's pattern
        ([5, *range(100, 108), 6, 7, *range(100, 108), 8], [[*range(9)], [*range(9, 19)]]),
    ],
)
def test_lines_end_at_eight_places(module: ModuleType, tokens: list[int], lines: list[list[int]]) -> None:
    assert list(module.split_lines(tokens, PLACES, SILENT)) == lines


def hand_made(reader: Any, *lines: tuple[str, tuple[int, ...]]) -> list[int]:
    """Tokens of lines of text with their corners in thousandths of the picture."""
    tokenizer = reader.processor.tokenizer
    tokens = [0]
    for text, places in lines:
        tokens += tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens += tokenizer.convert_tokens_to_ids([f"<loc_{place}>" for place in places])
    return [*tokens, 2]


def test_hand_made_lines_become_words_on_one_sign(reader: Any, module: ModuleType) -> None:
    tokens = hand_made(
        reader,
        ("ROAD WORK", (100, 100, 300, 100, 300, 150, 100, 150)),
        ("AHEAD", (100, 160, 300, 160, 300, 210, 100, 210)),
        ("CAFE", (800, 800, 900, 800, 900, 850, 800, 850)),
    )
    sure = [0.9] * len(tokens)
    size = (2000, 1000)
    lines = [line for part in reader.split(tokens) for line in reader._line(tokens, sure, part, size)]
    assert [line.text for line in lines] == ["ROAD WORK", "AHEAD", "CAFE"]
    assert lines[0].quad == pytest.approx((201, 100, 601, 100, 601, 150, 201, 150), abs=1)
    (word,) = module.find_words([line.line for line in lines], reader.table)
    assert (word.keyword, word.language, word.text) == ("road work ahead", "en", "ROAD WORK AHEAD")
    assert word.box == pytest.approx((201, 100, 601, 210), abs=1)
    assert 0.8 < word.score <= 0.9


def test_a_line_is_as_sure_as_its_text_tokens_are_on_average(reader: Any) -> None:
    tokens = hand_made(reader, ("SIDEWALK CLOSED CAFE", (1, 1, 2, 1, 2, 2, 1, 2)))
    letters = len(tokens) - 2 - 8
    assert letters > 1
    sure = [0.0, *np.linspace(0.2, 0.8, letters).tolist(), *[0.01] * 8, 0.0]
    (part,) = reader.split(tokens)
    (line,) = reader._line(tokens, sure, part, (100, 100))
    assert line.confidence == pytest.approx(0.5)


def test_the_probabilities_are_the_networks_own(reader: Any, module: ModuleType) -> None:
    """One pass over what was written gives the same ones as writing it token by token."""
    rgb = street()
    page = reader.look(rgb, (320, 200), float("inf"))
    inputs = reader.processor(text=module.TASK, images=rgb.copy(), return_tensors="pt")
    with torch.inference_mode():
        written = reader.model.generate(**inputs, max_new_tokens=64, num_beams=1, do_sample=False, early_stopping=False)
        odds = torch.softmax(reader.model(**inputs, decoder_input_ids=written).logits[0].float(), -1)
    first = [odds[at, written[0, at + 1]].item() for at in range(1, 5)]  # behind <s>: four tokens of text, then places
    assert page.tokens == written.shape[1] - 1
    assert page.lines[0].confidence == pytest.approx(float(np.mean(first)), rel=1e-3)


def test_pictures_differ_and_boxes_lie_in_the_original(reader: Any) -> None:
    pages = [reader.look(street(seed), (320, 200), float("inf")) for seed in (7, 8)]
    assert pages[0].lines != pages[1].lines
    large = np.asarray(Image.fromarray(street()).resize((3200, 2000)))
    reading = reader.read(png(large))
    assert reading.lines
    corners = np.array([line.box for line in reading.lines])
    assert corners.min() >= 0
    assert (corners[:, [0, 2]] <= 3200).all()
    assert (corners[:, [1, 3]] <= 2000).all()
    assert corners.max() > 320


class Ticks:
    """A clock that goes on by a second each time somebody looks."""

    def __init__(self) -> None:
        self.count = itertools.count()

    def __call__(self) -> float:
        return float(next(self.count))


def bounded(module: ModuleType, weights: Path, seconds: float, **settings: Any) -> Any:
    values = {"max_new_tokens": 64, "min_confidence": 0.0, **settings}
    return module.FlorenceReader(weights, settings=module.Settings(seconds * 1000, **values), clock=Ticks())


def test_what_is_whole_when_the_time_is_over_counts(module: ModuleType, weights: Path) -> None:
    reading = bounded(module, weights, 20).read(png(street()))
    assert reading.timed_out
    assert reading.skipped == 1
    assert len(reading.lines) == 1


@pytest.mark.parametrize("seconds", [0, 5])
def test_no_line_in_time_is_no_answer(module: ModuleType, weights: Path, seconds: float) -> None:
    with pytest.raises(module.OutOfTime, match="before the first line was whole: raise max_milliseconds"):
        bounded(module, weights, seconds).read(png(street()))


def test_a_text_that_is_cut_off_counts_as_far_as_it_goes(module: ModuleType, weights: Path) -> None:
    reading = bounded(module, weights, 1e6, max_new_tokens=30).read(png(street()))
    assert not reading.timed_out
    assert reading.skipped == 1
    assert len(reading.lines) == 2


def test_unsure_lines_are_left_out(module: ModuleType, weights: Path) -> None:
    reading = bounded(module, weights, 1e6, min_confidence=0.5).read(png(street()))
    assert (reading.presence, reading.words, reading.lines) == (0.0, [], [])


@pytest.mark.parametrize("data", [b"", b"not an image", b"GIF89a"])
def test_bad_images_are_refused_as_decode_refuses_them(reader: Any, module: ModuleType, data: bytes) -> None:
    with pytest.raises(module.InvalidImage):
        reader.read(data)


def test_limits_are_decodes(module: ModuleType, weights: Path) -> None:
    small = module.FlorenceReader(weights, settings=module.Settings(limits=module.Limits(max_pixels=1000)))
    with pytest.raises(module.InvalidImage, match="320 x 200"):
        small.read(png(street()))

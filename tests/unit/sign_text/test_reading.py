"""Signs in pictures: what is read, where it stands, what it costs."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from matching import KeywordTable
from PIL import Image, ImageFilter
from reading import InvalidImage, Limits, Line, OutOfTime, Settings, SignReader, find_words, group_boxes

from .signs import encode, street_with_sign


@pytest.mark.parametrize(
    ("lines", "keyword", "language"),
    [
        (["ROAD", "WORK", "AHEAD"], "road work ahead", "en"),
        (["SIDEWALK CLOSED", "USE OTHER SIDE"], "sidewalk closed use other side", "en"),
        (["DESVIO"], "desvio", "es"),
        (["HOMBRES", "TRABAJANDO"], "hombres trabajando", "es"),
        (["ROUTE BARRÉE"], "route barree", "fr"),
        (["Baustelle"], "baustelle", "de"),
        (["LAVORI", "IN CORSO"], "lavori in corso", "it"),
    ],
)
def test_reads_drawn_signs(reader: SignReader, lines: Sequence[str], keyword: str, language: str) -> None:
    reading = reader.read(encode(street_with_sign(lines)))
    assert reading.words, reading.lines
    word = reading.words[0]
    assert (word.keyword, word.language) == (keyword, language)
    assert reading.presence == word.score > 0.5
    x1, y1, x2, y2 = word.box
    assert x1 < 480 < x2
    assert y1 < 270 < y2


def test_boxes_are_in_pixels_of_the_upright_original(reader: SignReader) -> None:
    image = street_with_sign(["ROAD WORK"], size=(2400, 1350), letter=80, centre=(1700, 400))
    stored = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    (word,) = reader.read(encode(stored, exif=exif)).words
    x1, y1, x2, y2 = word.box
    assert abs((x1 + x2) / 2 - 1700) < 30
    assert abs((y1 + y2) / 2 - 400) < 30
    assert 300 < x2 - x1 < 600


def test_small_letters_in_a_large_picture_are_read_from_it(reader: SignReader) -> None:
    image = street_with_sign(["ROAD WORK AHEAD"], size=(1920, 1080), letter=26, centre=(1300, 500))
    assert reader.read(encode(image, quality=95)).presence > 0.9


def test_a_shop_says_nothing(reader: SignReader) -> None:
    reading = reader.read(encode(street_with_sign(["NETWORK", "CAR WASH"], ground=(255, 255, 255))))
    assert {line.text for line in reading.lines} >= {"CAR WASH"}
    assert (reading.presence, reading.words) == (0, [])


def test_illegible_text_says_nothing(reader: SignReader) -> None:
    blurred = street_with_sign(["ROAD WORK AHEAD"], letter=14).filter(ImageFilter.GaussianBlur(6))
    reading = reader.read(encode(blurred))
    assert (reading.presence, reading.words) == (0, [])


def test_an_empty_street_says_nothing(reader: SignReader) -> None:
    reading = reader.read(encode(Image.new("RGB", (600, 337), (120, 130, 140))))
    assert (reading.presence, reading.words, reading.lines, reading.timed_out) == (0, [], [], False)


@pytest.mark.parametrize("size", [(1, 1), (4000, 3), (3, 4000)])
def test_shapes_that_hold_no_sign(reader: SignReader, size: tuple[int, int]) -> None:
    assert reader.read(encode(Image.new("RGB", size, "white"), "PNG")).presence == 0


@pytest.mark.parametrize("data", [b"", b"no image", encode(street_with_sign(["DETOUR"]))[:3000]])
def test_what_is_no_image_is_refused(reader: SignReader, data: bytes) -> None:
    with pytest.raises(InvalidImage):
        reader.read(data)


def test_the_limits_are_the_decoders(reader: SignReader, table: KeywordTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "settings", Settings(limits=Limits(max_pixels=1000)))
    with pytest.raises(InvalidImage, match="megapixels"):
        reader.read(encode(street_with_sign(["DETOUR"])))


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was to be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    reader = SignReader(settings=Settings(max_milliseconds=120_000, threads=1))
    assert reader.read(encode(street_with_sign(["DETOUR"]))).presence > 0.5


def many_signs() -> bytes:
    image = Image.new("RGB", (1200, 900))
    for index in range(12):
        sign = street_with_sign(["ROAD", f"WORK {index}"], size=(400, 225), letter=24)
        image.paste(sign, (index % 3 * 400, index // 3 * 225))
    return encode(image, quality=95)


def ticking(reader: SignReader, monkeypatch: pytest.MonkeyPatch, seconds: float, budget: float) -> None:
    """Let the reader's clock advance by `seconds` whenever it is looked at, under a budget of `budget` seconds."""
    ticks = itertools.count()
    monkeypatch.setattr(reader, "clock", lambda: next(ticks) * seconds)
    monkeypatch.setattr(reader, "settings", Settings(max_milliseconds=budget * 1000, find_megapixels=1.0))
    monkeypatch.setattr(reader, "_find_seconds", 0.0)


def test_when_the_budget_runs_out_the_rest_is_left_out_and_counted(
    reader: SignReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clock is looked at when reading begins, after decoding, around finding, then before each four lines.
    ticking(reader, monkeypatch, seconds=1, budget=5.5)
    reading = reader.read(many_signs())
    assert reading.timed_out
    assert reading.skipped > 0
    assert reading.presence > 0.5


def test_a_budget_that_lets_nothing_be_read_is_an_error(reader: SignReader, monkeypatch: pytest.MonkeyPatch) -> None:
    ticking(reader, monkeypatch, seconds=1, budget=3.5)
    with pytest.raises(OutOfTime, match="max_milliseconds"):
        reader.read(many_signs())


def test_a_slow_machine_looks_at_a_smaller_picture(reader: SignReader, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []

    def find_nothing(picture: np.ndarray, **_: object) -> SimpleNamespace:
        sizes.append(picture.shape)
        return SimpleNamespace(boxes=None)

    monkeypatch.setattr(reader, "_ocr", find_nothing)
    picture = np.zeros((1080, 1920, 3), np.uint8)
    monkeypatch.setattr(reader, "settings", Settings(max_milliseconds=1500, find_megapixels=0.52))
    for seconds_per_megapixel in (0.5, 3.0, 1000.0):
        monkeypatch.setattr(reader, "_find_seconds", seconds_per_megapixel)
        reader._find(picture)
    megapixels = [height * width / 1e6 for height, width, _ in sizes]
    assert megapixels == pytest.approx([0.52, 0.25, 0.12], rel=0.02)


def line(text: str, x: float, y: float, width: float = 100, height: float = 30) -> Line:
    return Line(text, 1.0, (x, y, x + width, y + height))


def test_lines_of_one_sign_are_read_together(table: KeywordTable) -> None:
    lines = [line("AHEAD", 100, 80), line("ROAD", 110, 0), line("WORK", 105, 40)]
    (word,) = find_words(lines, table)
    assert (word.keyword, word.text, word.box) == ("road work ahead", "ROAD WORK AHEAD", (100, 0, 210, 110))


def test_words_side_by_side_are_one_line(table: KeywordTable) -> None:
    lines = [line("CLOSED", 220, 2), line("ROAD", 100, 0)]
    assert [word.keyword for word in find_words(lines, table)] == ["road closed"]


@pytest.mark.parametrize(
    "lines",
    [
        [line("ROAD", 0, 0), line("WORK", 600, 0)],  # across the street
        [line("ROAD", 0, 0), line("WORK", 0, 200)],  # far below
        [line("ROAD", 0, 0, height=100), line("WORK", 0, 110, height=20)],  # a shop's name and its small print
    ],
)
def test_lines_of_different_signs_are_kept_apart(table: KeywordTable, lines: list[Line]) -> None:
    assert len(group_boxes([line.box for line in lines])) == 2
    assert find_words(lines, table) == []


def test_two_signs_in_a_picture_are_two_words(table: KeywordTable) -> None:
    lines = [line("ROAD", 0, 0), line("WORK", 0, 35), line("DETOUR", 700, 10)]
    assert [word.keyword for word in find_words(lines, table)] == ["road work", "detour"]

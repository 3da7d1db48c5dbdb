"""The copy with boxes and words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from roadwork_client import InvalidImage, Verdict, draw
from roadwork_client.draw import overlay, save_overlay
from triton_double import VERDICT

CONE = (0xFF, 0x7F, 0x0E)


def verdict(**changes: object) -> Verdict:
    return Verdict.from_dict({**VERDICT, **changes})


def test_boxes_are_drawn_in_the_colour_of_their_class() -> None:
    drawn = overlay(Image.new("RGB", (1920, 1080), "white"), verdict())
    assert drawn.mode == "RGB"
    assert drawn.width == 1920
    banner = drawn.height - 1080
    assert 0 < banner < 200
    pixels = np.asarray(drawn)
    assert tuple(pixels[banner + 310, 100]) == CONE  # left side of the first box
    assert tuple(pixels[banner + 310, 200]) == (255, 255, 255)  # and nothing inside it


def test_labels_say_how_near_a_box_is_where_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []
    monkeypatch.setattr(draw._Painter, "label", lambda self, box, text, color: labels.append(text))
    overlay(Image.new("RGB", (1920, 1080)), verdict(words=[]))
    assert labels == ["cone 0.90  near 0.8  yolox_nano", "cone 0.50  yolox_nano + centernet"]


def test_small_images_are_enlarged_to_be_readable() -> None:
    drawn = overlay(Image.new("RGB", (224, 224)), verdict(boxes=[], words=[]))
    assert drawn.width == 960


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_every_mode_can_be_drawn_on(mode: str) -> None:
    assert overlay(Image.new(mode, (640, 480)), verdict()).mode == "RGB"


def test_odd_answers_do_not_break_drawing() -> None:
    boxes = [
        {"class": "unheard_of", "score": 0.5, "box": [-50, -1e9, 1e9, 99999], "seen_by": []},
        {"class": "cone", "score": 0.5, "box": [50, 50, 10, 10], "seen_by": ["a"]},
        {"class": "cone", "score": 0.5, "box": [5, 5, 5, 5], "seen_by": ["a" * 500]},
    ]
    words = [{"text": "道路\u0000施工\n", "keyword": "施工", "language": "zh", "score": 1, "box": [0, 0, 1, 1]}]
    for size in ((1, 1), (3000, 10), (10, 3000), (640, 480)):
        overlay(Image.new("RGB", size), verdict(boxes=boxes, words=words, decided_by=None))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_copies_are_written_in_the_format_of_their_name(tmp_path: Path, photo: Image.Image, suffix: str) -> None:
    source = tmp_path / f"photo{suffix}"
    photo.save(source)
    before = source.read_bytes()
    target = tmp_path / "below" / "folder" / f"copy{suffix}"
    save_overlay(source, target, verdict())
    with Image.open(target) as image:
        assert image.format in ("JPEG", "PNG", "WEBP")
        assert image.width == 960
    assert source.read_bytes() == before


def test_what_cannot_be_drawn_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(InvalidImage, match="cannot draw"):
        save_overlay(tmp_path / "text.jpg", tmp_path / "copy.jpg", verdict())

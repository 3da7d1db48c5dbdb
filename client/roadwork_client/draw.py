"""A copy of an image with what the cascade saw drawn on it."""

from __future__ import annotations

import colorsys
import zlib
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from roadwork_client.errors import InvalidImage
from roadwork_client.verdict import Verdict

Rectangle = tuple[float, float, float, float]

# A 224-pixel crop has no room for a label that a person can read.
SMALLEST = 960
WORDS = "#00b7ff"
YES, NO, UNSURE = "#c62828", "#2e7d32", "#616161"


def overlay(image: Image.Image, verdict: Verdict) -> Image.Image:
    """`image`, upright and at least 960 pixels wide or high, with boxes, words and a banner above it; RGB."""
    # Through RGBA, so that what was transparent does not turn into whatever colour lay under it.
    canvas = ImageOps.exif_transpose(image).convert("RGBA")
    backdrop = Image.new("RGBA", canvas.size, "#727272")
    canvas = Image.alpha_composite(backdrop, canvas).convert("RGB")
    zoom = max(1.0, SMALLEST / max(canvas.size))
    if zoom > 1:
        canvas = canvas.resize((round(canvas.width * zoom), round(canvas.height * zoom)), Image.Resampling.LANCZOS)
    painter = _Painter(canvas, zoom)
    # Weakest first: what counts most lies on top. All outlines before the first label, so that none is crossed.
    boxes = sorted(verdict.boxes, key=lambda box: box.score)
    for box in boxes:
        painter.outline(box.box, _color(box.class_name))
    for word in verdict.words:
        painter.outline(word.box, WORDS)
    for word in verdict.words:
        painter.label(word.box, f"\u201c{word.text}\u201d {word.score:.2f}  {word.language}", WORDS)
    for box in reversed(boxes):
        seen_by = f"  {' + '.join(box.seen_by)}" if box.seen_by else ""
        near = "" if box.nearness is None else f"  near {box.nearness:.1f}"
        label = f"{box.class_name.replace('_', ' ')} {box.score:.2f}{near}{seen_by}"
        painter.label(box.box, label, _color(box.class_name))
    return _with_banner(canvas, verdict)


def save_overlay(source: Path, target: Path, verdict: Verdict) -> None:
    """Draw `verdict` on the image in file `source` and write it to `target`, in the format of its suffix.

    Raise InvalidImage where `source` cannot be read or `target` cannot be written.
    """
    try:
        with Image.open(source) as image:
            drawn = overlay(image, verdict)
        target.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(target, quality=92) if target.suffix.lower() != ".png" else drawn.save(target)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidImage(f"cannot draw {source} to {target}: {error}") from error


def _color(class_name: str) -> str:
    """The class's colour in the taxonomy; one made from its name where that is not installed or does not list it."""
    try:
        from roadwork_cascade.taxonomy import load_taxonomy

        return load_taxonomy().by_name(class_name).color
    except (ImportError, KeyError):
        hue = zlib.crc32(class_name.encode()) % 360 / 360
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.8, 0.9))
        return f"#{red:02x}{green:02x}{blue:02x}"


def _ink(background: str) -> str:
    """Black or white, whichever is easier to read on `background` (#rrggbb)."""
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _font(pixels: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=max(11, round(pixels)))


def _printable(text: str) -> str:
    """`text` with what Pillow's own font has no glyphs for (it covers Latin scripts) marked."""
    return "".join(
        char if char.isprintable() and (ord(char) < 0x250 or char in "\u201c\u201d") else "\u00b7" for char in text
    )


class _Painter:
    """Draws outlines, and labels so that none covers another; call `label` for the most important first."""

    def __init__(self, canvas: Image.Image, zoom: float) -> None:
        self._draw = ImageDraw.Draw(canvas)
        self._width, self._height = canvas.size
        self._zoom = zoom
        self._line = max(2, round(max(canvas.size) / 480))
        self._font = _font(max(canvas.size) / 68)
        self._taken: list[Rectangle] = []

    def outline(self, box: Rectangle, color: str) -> None:
        x1, y1, x2, y2 = self._inside(box)
        # A dark rim keeps a light outline visible before a light sky.
        self._draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="#101010", width=self._line + 2)
        self._draw.rectangle((x1, y1, x2, y2), outline=color, width=self._line)

    def label(self, box: Rectangle, text: str, color: str) -> None:
        """Write `text` at `box`; not at all where every place is taken: the outline's colour still tells the class."""
        text = _printable(text)
        pad = self._line
        x1, y1, _, y2 = self._inside(box)
        left, top, right, bottom = self._draw.textbbox((0, 0), text, font=self._font)
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        x = max(0.0, min(x1, self._width - width))
        places = [y1 - height, y2, y1, y2 - height, *(y1 - height * step for step in (2, 3, 4))]
        fitting = [y for y in places if 0 <= y <= self._height - height] or [max(0.0, min(y1, self._height - height))]
        y = next((y for y in fitting if self._free((x, y, x + width, y + height))), None)
        if y is None:
            return
        place = (x, y, x + width, y + height)
        self._taken.append(place)
        self._draw.rectangle(place, fill=color)
        self._draw.text((x + pad - left, y + pad - top), text, font=self._font, fill=_ink(color))

    def _inside(self, box: Rectangle) -> Rectangle:
        """The box in pixels of the canvas, ordered and clipped, so that no answer can make drawing fail."""
        x1, x2 = sorted(min(max(x * self._zoom, 0.0), self._width - 1.0) for x in (box[0], box[2]))
        y1, y2 = sorted(min(max(y * self._zoom, 0.0), self._height - 1.0) for y in (box[1], box[3]))
        return x1, y1, x2, y2

    def _free(self, place: Rectangle) -> bool:
        x1, y1, x2, y2 = place
        return all(x2 <= a or c <= x1 or y2 <= b or d <= y1 for a, b, c, d in self._taken)


def _with_banner(canvas: Image.Image, verdict: Verdict) -> Image.Image:
    """The image below a strip that says the verdict; above it and not on it, so that nothing is hidden."""
    unit = max(canvas.size) / 40
    height = round(2.6 * unit)
    banner = Image.new("RGB", (canvas.width, canvas.height + height), "#1b1b1b")
    banner.paste(canvas, (0, height))
    draw = ImageDraw.Draw(banner)
    color = UNSURE if verdict.status == "timed_out" else YES if verdict.roadwork else NO
    answer = "ROADWORK" if verdict.roadwork else "NO ROADWORK"
    draw.rectangle((0, 0, unit / 2, height), fill=color)
    draw.text((unit, unit * 0.35), f"{answer}  {verdict.probability:.1%}", font=_font(unit), fill="white")
    said = f"decided by {verdict.decided_by or 'nobody'} in {verdict.milliseconds:.0f} ms"
    if verdict.status != "ok":
        said += f", {verdict.status.replace('_', ' ')}"
    if verdict.missing:
        said += f", without {', '.join(sorted({absent.member for absent in verdict.missing}))}"
    draw.text((unit, unit * 1.6), _printable(said), font=_font(unit * 0.55), fill="#c8c8c8")
    # The bar's mark is the threshold: how far the verdict is from turning shows at a glance.
    left, right = canvas.width * 0.62, canvas.width - unit
    top, bottom = unit * 0.5, unit * 1.4
    if right <= left:
        return banner  # a strip of an image; the words have said it
    draw.rectangle((left, top, right, bottom), fill="#3a3a3a")
    draw.rectangle((left, top, left + (right - left) * verdict.probability, bottom), fill=color)
    mark = left + (right - left) * verdict.threshold
    draw.line((mark, top - unit * 0.2, mark, bottom + unit * 0.2), fill="white", width=max(2, round(unit / 12)))
    return banner

"""A contact sheet of the images that were judged wrongly: what is true, what was said, and what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps
from roadwork_cascade.taxonomy import load_taxonomy

TILE = (320, 200)
CAPTION = 34
COLUMNS = 5
MOST = 100


@dataclass(frozen=True)
class Tile:
    """evidence: (class name, score, [x1, y1, x2, y2] in pixels of the upright image)."""

    path: Path
    roadwork: bool
    probability: float
    note: str
    evidence: Sequence[tuple[str, float, list[float]]]


def write_sheet(tiles: Sequence[Tile], path: Path) -> int:
    """Draw the worst `MOST` errors, furthest from the truth first; returns how many are on the sheet."""
    worst = sorted(tiles, key=lambda tile: -abs(tile.probability - tile.roadwork))[:MOST]
    rows = max(1, -(-len(worst) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * TILE[0], rows * (TILE[1] + CAPTION)), "#202020")
    for index, tile in enumerate(worst):
        column, row = index % COLUMNS, index // COLUMNS
        sheet.paste(_draw(tile), (column * TILE[0], row * (TILE[1] + CAPTION)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return len(worst)


def _draw(tile: Tile) -> Image.Image:
    colors = {entry.name: entry.color for entry in load_taxonomy().classes}
    with Image.open(tile.path) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    scale = min(TILE[0] / picture.width, TILE[1] / picture.height)
    small = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    pen = ImageDraw.Draw(small)
    for name, _, box in tile.evidence:
        pen.rectangle([value * scale for value in box], outline=colors.get(name, "#ffffff"), width=2)
    canvas = Image.new("RGB", (TILE[0], TILE[1] + CAPTION), "#202020")
    canvas.paste(small, ((TILE[0] - small.width) // 2, (TILE[1] - small.height) // 2))
    truth = "MISSED" if tile.roadwork else "FALSE ALARM"
    seen = sorted({name for name, _, _ in tile.evidence})
    text = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(11)
    color = "#ff8080" if tile.roadwork else "#ffd080"
    text.text((4, TILE[1] + 2), f"{truth}  P = {tile.probability:.3f}  {tile.note}", fill=color, font=font)
    text.text((4, TILE[1] + 17), ", ".join(seen) or "saw nothing", fill="#c0c0c0", font=font)
    return canvas

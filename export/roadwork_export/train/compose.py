"""Training samples: real frames, empty streets, streets with pasted objects, rendered scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from roadwork_cascade.taxonomy import load_taxonomy

from roadwork_export.canvas import SIDE, letterbox
from roadwork_export.scenes import OBJECTS, paste, render_object, render_scene

from .photos import Photo, Photos

CAMERA_HEIGHT = 1.4
"""Metres above the road of a dashcam, which ties an object's size in pixels to where it stands."""
HEIGHTS = {
    "cone": 0.75, "drum": 1.0, "vertical_panel": 1.0, "tubular_marker": 0.9, "barricade": 1.3, "barrier": 0.9,
    "fence": 1.6, "ttc_sign": 1.1, "ttc_message_board": 2.6, "arrow_board": 2.6, "work_vehicle": 2.8,
    "work_equipment": 2.4, "worker": 1.75, "police_vehicle": 1.6, "police_officer": 1.75, "other": 1.0,
}  # fmt: skip
"""Usual height in metres of each class."""
KINDS = {"frame": 0.36, "window": 0.10, "street": 0.15, "pasted": 0.25, "rendered": 0.14}
"""Shares of the kinds of samples: annotated frame, frame's part without objects, empty street, street with objects."""
CUT_OUT = ("cone", "drum", "vertical_panel", "tubular_marker", "barricade", "ttc_sign", "arrow_board", "worker")
"""Classes whose photographed objects are pasted elsewhere."""
EVIDENCE = 0.5
"""Classes of less evidence (police, other) do not make a scene roadwork."""


@dataclass
class Sample:
    """canvas uint8 [640, 640, 3] RGB, boxes float32 [N, 4] in canvas pixels, classes int64 [N], presence 1, 0 or -1.

    Presence is -1 where nobody can say: what speaks for roadwork is cut off by the frame.
    """

    canvas: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    presence: int


@dataclass
class Picture:
    """An image with its boxes, before it is cropped."""

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    roadwork: bool


class Composer:
    """Draws samples from photographs and the renderer; everything random comes from the generator given to `draw`."""

    def __init__(self, photos: Photos) -> None:
        if not photos.annotated or not photos.empty:
            raise ValueError(
                "training needs annotated frames and streets without roadwork; none are left in these groups"
            )
        self.photos = photos
        self.taxonomy = load_taxonomy()
        self.evidence = np.array([c.evidence for c in self.taxonomy.classes], np.float32)
        # Frames by group and streets by source, so that a long drive does not outvote a short one.
        self.frames = by_key(photos.annotated, lambda p: p.group)
        self.streets = by_key(photos.empty, lambda p: p.source)
        # Vehicles and fences end in other objects or leave the frame too often to be cut out.
        self.cut_classes = [c for c in sorted(photos.cutouts) if self.taxonomy.names[c] in CUT_OUT]

    def draw(self, rng: np.random.Generator) -> Sample:
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        return to_canvas(crop(self.picture(kind, rng), rng, strong=kind != "window"), rng, self.evidence)

    def picture(self, kind: str, rng: np.random.Generator) -> Picture:
        """One whole picture; `KINDS` names the kinds."""
        made: Picture = getattr(self, f"_{kind}")(rng)
        return made

    def _frame(self, rng: np.random.Generator) -> Picture:
        photo = pick(self.frames, rng)
        picture = as_picture(photo)
        return self.add_objects(picture, rng) if rng.random() < 0.2 else picture

    def _window(self, rng: np.random.Generator) -> Picture:
        """A part of an annotated frame that holds no object: the same camera and city, and no roadwork."""
        for _ in range(6):
            photo = pick(self.frames, rng)
            height, width = photo.image.shape[:2]
            h = int(height * rng.uniform(0.4, 0.9))
            w = int(min(width, h * rng.uniform(0.8, 1.9)))
            for _ in range(8):
                x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
                if not touches(photo.boxes, (x - 6, y - 6, x + w + 6, y + h + 6)):
                    image = photo.image[y : y + h, x : x + w].copy()
                    return Picture(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), False)
        return self._street(rng)

    def _street(self, rng: np.random.Generator) -> Picture:
        picture = as_picture(pick(self.streets, rng))
        if rng.random() < 0.4:
            add_distractors(picture.image, self.photos, rng)
        return picture

    def _pasted(self, rng: np.random.Generator) -> Picture:
        return self.add_objects(as_picture(pick(self.streets, rng)), rng)

    def _rendered(self, rng: np.random.Generator) -> Picture:
        width = int(rng.choice([480, 640]))
        scene = render_scene(
            rng, roadwork=bool(rng.random() < 0.6), width=width, height=int(width * rng.uniform(0.55, 0.8))
        )
        return Picture(scene.image, scene.boxes.astype(np.float32), scene.classes.astype(np.int64), scene.roadwork)

    def sprite(self, rng: np.random.Generator, height_px: int) -> tuple[np.ndarray, int]:
        """A cut-out object (seven times in ten a photographed one), its height in pixels near `height_px`."""
        if rng.random() < 0.7:
            cutouts = self.photos.cutouts[int(rng.choice(self.cut_classes))]
            chosen = cutouts[int(rng.integers(len(cutouts)))]
            return chosen.sprite, chosen.class_id
        name = str(rng.choice(list(OBJECTS)))
        return render_object(name, height_px, rng), self.taxonomy.by_name(name).id

    def add_objects(self, picture: Picture, rng: np.random.Generator) -> Picture:
        """Paste one to eight objects where they could stand; what they cover for the most part loses its box."""
        image = picture.image.copy()
        height, width = image.shape[:2]
        horizon = height * rng.uniform(0.38, 0.52)
        boxes, classes = list(picture.boxes), list(picture.classes)
        # Far ones first, so that near objects cover them.
        bases = np.sort(rng.uniform(horizon + 0.03 * height, height * 0.98, int(rng.integers(1, 9))))
        row: tuple[np.ndarray, int] | None = None
        for base in bases:
            if row is None or rng.random() < 0.5:
                row = self.sprite(rng, int(rng.integers(24, 120)))
            sprite, class_id = row
            metres = HEIGHTS[self.taxonomy.classes[class_id].name] * rng.uniform(0.7, 1.4)
            target = int(np.clip((base - horizon) * metres / CAMERA_HEIGHT, 7, 0.85 * height))
            # A photographed object is not blown up far beyond its own pixels.
            target = min(target, int(sprite.shape[0] * 1.8) + 4)
            scale = target / sprite.shape[0]
            size = (max(3, round(sprite.shape[1] * scale)), max(5, target))
            resized: np.ndarray = cv2.resize(
                sprite, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            )
            if rng.random() < 0.5:
                resized = np.ascontiguousarray(resized[:, ::-1])
            raised = target * rng.uniform(0.6, 1.8) if class_id == self.taxonomy.by_name("ttc_sign").id else 0.0
            if size[0] > 1.1 * width:
                continue
            x = int(rng.uniform(-0.1 * size[0], width - 0.9 * size[0]))
            y = int(base - size[1] - raised)
            box = np.array([max(0, x), max(0, y), min(width, x + size[0]), min(height, y + size[1])], np.float32)
            if (box[2] - box[0]) * (box[3] - box[1]) < 0.5 * size[0] * size[1]:
                continue
            ground = 0.0 if raised else rng.uniform(0.0, 0.6)
            paste(image, resized, x, y, match=rng.uniform(0.1, 0.7), shadow=ground, rng=rng)
            kept = [i for i, other in enumerate(boxes) if covered(other, box) < 0.7]
            boxes, classes = [boxes[i] for i in kept] + [box], [classes[i] for i in kept] + [class_id]
        return Picture(image, np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64), True)


def by_key(photos: list[Photo], key: Callable[[Photo], str]) -> list[list[Photo]]:
    """Photographs in lists by `key(photo)`, in a fixed order."""
    lists: dict[str, list[Photo]] = {}
    for photo in photos:
        lists.setdefault(key(photo), []).append(photo)
    return [lists[name] for name in sorted(lists)]


def pick(lists: list[list[Photo]], rng: np.random.Generator) -> Photo:
    """A photograph of a random list; long lists somewhat more often (by the square root of their length)."""
    weights = np.sqrt([len(one) for one in lists])
    one = lists[int(rng.choice(len(lists), p=weights / weights.sum()))]
    return one[int(rng.integers(len(one)))]


def as_picture(photo: Photo) -> Picture:
    return Picture(photo.image.copy(), photo.boxes.copy(), photo.classes.copy(), photo.roadwork)


def touches(boxes: np.ndarray, window: tuple[float, float, float, float]) -> bool:
    """Whether any box [N, 4] overlaps the window x1 y1 x2 y2."""
    x1, y1, x2, y2 = window
    inside = (boxes[:, 0] < x2) & (boxes[:, 2] > x1) & (boxes[:, 1] < y2) & (boxes[:, 3] > y1)
    return bool(inside.any())


def covered(box: np.ndarray, by: np.ndarray) -> float:
    """Share of `box` that `by` covers."""
    w = min(box[2], by[2]) - max(box[0], by[0])
    h = min(box[3], by[3]) - max(box[1], by[1])
    area = max(1e-6, float((box[2] - box[0]) * (box[3] - box[1])))
    return float(max(0.0, w) * max(0.0, h)) / area


def add_distractors(image: np.ndarray, photos: Photos, rng: np.random.Generator) -> None:
    """Paste what is no roadwork: pieces of other streets and coloured shapes.

    Without them the seam of a pasted object, or the colour orange alone, would give the answer away.
    """
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(1, 6))):
        w, h = int(rng.integers(8, max(9, width // 6))), int(rng.integers(8, max(9, height // 5)))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(int(height * 0.2), height - h))
        alpha = np.zeros((h, w), np.uint8)
        shape = rng.integers(3)
        if shape == 0:
            alpha[:] = 255
        elif shape == 1:
            cv2.ellipse(alpha, (w // 2, h // 2), (w // 2, h // 2), 0, 0, 360, (255,), -1)
        else:
            cv2.fillConvexPoly(alpha, rng.integers(0, [w, h], (3, 2)).astype(np.int32), (255,))
        if rng.random() < 0.6:
            other = photos.empty[int(rng.integers(len(photos.empty)))].image
            oy, ox = int(rng.integers(0, max(1, other.shape[0] - h))), int(rng.integers(0, max(1, other.shape[1] - w)))
            patch = cv2.resize(other[oy : oy + h, ox : ox + w], (w, h))
        else:
            hue = rng.integers(0, 25) if rng.random() < 0.6 else rng.integers(0, 180)
            hsv = np.array([[[hue, rng.integers(120, 255), rng.integers(80, 255)]]], np.uint8)
            colour = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
            shade = np.linspace(rng.uniform(0.5, 1.0), rng.uniform(0.7, 1.1), h)[:, None, None]
            patch = np.clip(np.broadcast_to(colour, (h, w, 3)) * shade + rng.normal(0, 5, (h, w, 3)), 0, 255)
            patch = patch.astype(np.uint8)
        sprite = np.dstack([patch, cv2.GaussianBlur(alpha, (3, 3), 0)]).astype(np.uint8)
        paste(image, sprite, x, y, match=rng.uniform(0.1, 0.7), shadow=rng.uniform(0.0, 0.6), rng=rng)


def crop(picture: Picture, rng: np.random.Generator, strong: bool) -> Picture:
    """A random part at a random aspect, mirrored half of the time."""
    height, width = picture.image.shape[:2]
    share = rng.uniform(0.35, 1.0) if strong and rng.random() < 0.6 else rng.uniform(0.85, 1.0)
    aspect = width / height if rng.random() < 0.5 else rng.choice([0.75, 1.0, 1.0, 1.33, 1.78])
    h = min(height, width / aspect) * share
    w = h * aspect
    x, y = rng.uniform(0, max(0.0, width - w)), rng.uniform(0, max(0.0, height - h))
    x1, y1, x2, y2 = int(x), int(y), int(min(width, x + w)), int(min(height, y + h))
    image = picture.image[y1:y2, x1:x2]
    boxes: np.ndarray = picture.boxes - np.array([x1, y1, x1, y1], np.float32)
    if rng.random() < 0.5:
        image = image[:, ::-1]
        boxes = np.stack([x2 - x1 - boxes[:, 2], boxes[:, 1], x2 - x1 - boxes[:, 0], boxes[:, 3]], 1)
    return Picture(np.ascontiguousarray(image), boxes, picture.classes, picture.roadwork)


def to_canvas(picture: Picture, rng: np.random.Generator, evidence: np.ndarray) -> Sample:
    """What `decode` would make of the picture, sometimes after the losses that images suffer on their way."""
    image = picture.image
    if rng.random() < 0.15:
        small = int(rng.integers(160, 400)) / max(image.shape[:2])
        if small < 1:
            image = cv2.resize(image, None, fx=small, fy=small, interpolation=cv2.INTER_AREA)
    if rng.random() < 0.35:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    if rng.random() < 0.25:
        scale *= rng.uniform(0.6, 1.0)  # objects smaller than any crop makes them
    canvas, size, left, top = letterbox(image, scale)

    ratio = size[0] / picture.image.shape[1]
    full = picture.boxes * ratio
    limits = np.array([size[0], size[1], size[0], size[1]], np.float32)
    clipped = np.clip(full, 0, limits)
    whole = area(full)
    seen = area(clipped)
    keep = (seen > 0.35 * whole) & (clipped[:, 2] - clipped[:, 0] >= 3) & (clipped[:, 3] - clipped[:, 1] >= 4)
    strong = evidence[picture.classes] >= EVIDENCE
    if (keep & strong & (seen >= 40)).any():
        presence = 1
    elif ((seen > 0) & strong).any() or (picture.roadwork and len(picture.boxes) == 0):
        presence = -1
    else:
        presence = 0
    boxes = clipped[keep] + np.array([left, top, left, top], np.float32)
    return Sample(canvas, boxes.astype(np.float32), picture.classes[keep], presence)


def area(boxes: np.ndarray) -> np.ndarray:
    """Areas [N] of boxes [N, 4]."""
    return np.maximum(0, boxes[:, 2] - boxes[:, 0]) * np.maximum(0, boxes[:, 3] - boxes[:, 1])

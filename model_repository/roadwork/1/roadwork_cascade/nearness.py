"""How near a box is, by the maps of distance members."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from roadwork_cascade.members import Geometry


def box_nearness(
    box: Sequence[float], maps: Sequence[np.ndarray], canvas_size: tuple[int, int], geometry: Geometry
) -> float | None:
    """Nearness of a box in [0, 1], relative to its image: 1 the nearest thing in it, 0 the farthest. None without maps.

    Parameters: `box` x1 y1 x2 y2 in pixels of the upright original; `maps` [rows, columns] in [0, 1] over the whole
    canvas; `canvas_size` height and width in pixels. It is the median of the cells whose centres lie in the box: what
    shows behind the box's corners counts little. Of several maps it is the median of theirs.
    """
    if not maps:
        return None
    x1, y1, x2, y2 = box
    height, width = canvas_size
    left, right = ((x * geometry.scale + geometry.pad_x) / width for x in (x1, x2))
    top, bottom = ((y * geometry.scale + geometry.pad_y) / height for y in (y1, y2))
    medians = []
    for cells in maps:
        rows, columns = cells.shape
        medians.append(np.median(cells[_inside(top, bottom, rows), _inside(left, right, columns)]))
    return round(float(np.median(medians)), 4)


def _inside(low: float, high: float, count: int) -> slice:
    """Of `count` cells over [0, 1] those with their centre from `low` to `high`; where none has, the one in between."""
    first, last = math.ceil(low * count - 0.5), math.floor(high * count - 0.5)
    if first > last:
        first = last = math.floor((low + high) / 2 * count)
    first, last = (min(max(index, 0), count - 1) for index in (first, last))
    return slice(first, last + 1)

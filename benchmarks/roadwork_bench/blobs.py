"""The baseline to beat: counting orange-red blobs. No learning but one threshold."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# OpenCV's hue runs to 179. Orange to red, vivid and not dark: cones, drums, vests and work signs, but brake lights too.
HUES = ((4, 18), (178, 179))
SATURATION, VALUE = 150, 80
WIDTH = 640
LEAST_AREA = 40
"""Smallest blob in pixels of the image scaled to `WIDTH`."""


def count_blobs(rgb: NDArray[np.uint8]) -> int:
    """Orange-red connected regions in an RGB image [height, width, 3]."""
    height, width = rgb.shape[:2]
    scale = WIDTH / width
    small = cv2.resize(rgb, (WIDTH, max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    mask = np.zeros(hsv.shape[:2], np.uint8)
    for low, high in HUES:
        mask |= cv2.inRange(hsv, np.array([low, SATURATION, VALUE]), np.array([high, 255, 255])).astype(np.uint8)
    closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    count, _, boxes, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    return int((boxes[1:count, cv2.CC_STAT_AREA] >= LEAST_AREA).sum())

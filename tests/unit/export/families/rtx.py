"""Whether TensorRT takes a file, found out without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from roadwork_export.tensorrt import takes


def assert_tensorrt_takes(path: Path) -> None:
    """Build it ahead of time by TensorRT for RTX; what blocks it is named."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    assert takes(path) == []

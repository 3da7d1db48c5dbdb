"""The crew is a file of the model repository, not of a package: the tests import it as the model does."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3] / "model_repository" / "networks" / "1"))

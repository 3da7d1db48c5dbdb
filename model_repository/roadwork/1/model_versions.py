"""Which version of each model answers."""

from __future__ import annotations

import os
from collections.abc import Iterable


def latest_versions(repository: str, models: Iterable[str]) -> dict[str, str]:
    """The highest numbered version folder of each model: what Triton serves by its default version policy.

    Models without a folder there (a second repository) are left out: the verdict then says nothing about them.
    """
    versions = {}
    for model in models:
        folder = os.path.join(repository, model)
        numbers = [int(name) for name in (os.listdir(folder) if os.path.isdir(folder) else ()) if name.isdigit()]
        if numbers:
            versions[model] = str(max(numbers))
    return versions

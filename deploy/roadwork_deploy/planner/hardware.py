"""The GPUs that a plan is made for: names, sizes, what each has to give.

A GPU's memory is what the driver shows (`nvidia-smi --query-gpu=memory.total`, in MiB) less what the driver keeps for
itself, which is what CUDA calls total (`cudaMemGetInfo`). All are from memory of published outputs, none is measured;
`serve` compares a profile with what CUDA shows on the machine.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from roadwork_deploy.errors import PlanError

GIB = 1 << 30
GB = 10**9
MOST = 64
"""GPUs of one plan."""


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: as `--gpus` takes it.
        size: GB on the box.
        bytes: that CUDA shows as total.
        capability: CUDA compute capability.
        dollars: an hour of one, to rent; a guess, good for ordering alone.
    """

    name: str
    size: int
    bytes: int
    capability: tuple[int, int]
    dollars: float

    @property
    def fp8(self) -> bool:
        """Whether it multiplies in fp8 (compute capability 8.9 and up); others keep fp8 weights and compute in bf16."""
        return self.capability >= (8, 9)

    @property
    def generation(self) -> str:
        """As serving techniques name it."""
        steps = ((10, 0), "blackwell"), ((9, 0), "hopper"), ((8, 9), "ada")
        return next((name for least, name in steps if self.capability >= least), "ampere")


def _gpu(name: str, size: int, gib: float, capability: tuple[int, int], dollars: float) -> Gpu:
    return Gpu(name, size, int(gib * GIB), capability, dollars)


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("l4", 24, 22.0, (8, 9), 0.70),
        _gpu("a10", 24, 22.0, (8, 6), 0.75),
        _gpu("rtx3090", 24, 23.6, (8, 6), 0.30),
        _gpu("rtx4090", 24, 23.6, (8, 9), 0.50),
        _gpu("rtx5090", 32, 31.3, (12, 0), 0.80),
        _gpu("a100-40", 40, 39.3, (8, 0), 1.30),
        _gpu("a40", 48, 44.4, (8, 6), 0.50),
        _gpu("a6000", 48, 47.4, (8, 6), 0.60),
        _gpu("l40s", 48, 44.4, (8, 9), 1.20),
        _gpu("a100-80", 80, 79.1, (8, 0), 1.80),
        _gpu("h100", 80, 79.1, (9, 0), 3.00),
        _gpu("rtx-pro-6000", 96, 94.9, (12, 0), 2.00),
        _gpu("h200", 141, 139.7, (9, 0), 4.00),
        _gpu("b200", 180, 178.3, (10, 0), 6.00),
        _gpu("b300", 270, 267.0, (10, 3), 8.00),
    )
}
ALIASES = {
    "a100": "a100-80",
    "a10g": "a10",
    "h100-80": "h100",
    "h200-141": "h200",
    "rtx-a6000": "a6000",
    "4090": "rtx4090",
}
COMMON = ("l4", "rtx4090", "l40s", "a100-80", "h100", "h200", "b200")
"""What can be rented nearly everywhere; the cheapest hardware is looked for among these, one to eight of a kind."""
_TERM = re.compile(r"(?:(?P<count>\d+)\s*x\s*)?(?P<what>[a-z0-9][a-z0-9 _-]*)", re.IGNORECASE)


def by_size(size: int) -> Gpu | None:
    """A GPU of that many GB, with the least memory and the least compute capability of those that there are."""
    same = [gpu for gpu in GPUS.values() if gpu.size == size]
    if not same:
        return None
    return Gpu(
        name=f"{size} GB",
        size=size,
        bytes=min(gpu.bytes for gpu in same),
        capability=min(gpu.capability for gpu in same),
        dollars=min(gpu.dollars for gpu in same),
    )


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """The GPUs that `--gpus` names, in order.

    Args:
        text: terms joined by commas, each `COUNTxSIZE` or `COUNTxNAME` (`2x80`, `1x24,1xh100`); without COUNT: one.

    Raises:
        PlanError: a name or a size that there is not, or a count that is none.
    """
    found: list[Gpu] = []
    for term in text.split(","):
        match = _TERM.fullmatch(term.strip())
        if match is None:
            raise PlanError(f"--gpus: {term.strip()!r} is not COUNTxSIZE or COUNTxNAME, such as 2x80 or 1xh100")
        count = int(match["count"] or 1)
        if not 1 <= count <= MOST:
            raise PlanError(f"--gpus: {term.strip()!r} asks for {count} GPUs, a plan has 1 to {MOST}")
        found += [_find(match["what"])] * count
    if len(found) > MOST:
        raise PlanError(f"--gpus: {len(found)} GPUs, a plan has 1 to {MOST}")
    return tuple(found)


def _find(what: str) -> Gpu:
    name = re.sub(r"[ _]+", "-", what.strip().lower()).removeprefix("nvidia-")
    size = re.fullmatch(r"(\d+)-?(?:gb|g)?", name)
    if name in GPUS or name in ALIASES:
        return GPUS[ALIASES.get(name, name)]
    if size:
        gpu = by_size(int(size[1]))
        if gpu is not None:
            return gpu
        sizes = sorted({gpu.size for gpu in GPUS.values()})
        near = sorted(sizes, key=lambda each: abs(each - int(size[1])))[:2]
        raise PlanError(
            f"--gpus: there is no GPU of {size[1]} GB; close are {' and '.join(map(str, sorted(near)))} "
            f"(known: {', '.join(map(str, sizes))})"
        )
    names = [*GPUS, *ALIASES]
    near_names = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near_names)}?" if near_names else ""
    raise PlanError(f"--gpus: no GPU is named {what.strip()!r}{hint} (known: {', '.join(GPUS)})")

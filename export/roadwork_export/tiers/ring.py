"""Pool pictures on the training device: shards are read in a thread and take the place of the oldest."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .pool import MAX_BOXES, RENDERED, SHARD, SIDE, read_shard, shards, wait_for

READ_SECONDS = 60.0
"""That a shard may take to be read."""


class Ring:
    """`capacity` pictures, `share` of them rendered, the others made of photographs."""

    def __init__(
        self, folder: Path, hold_out: int | None, capacity: int, share: float, device: torch.device, seed: int
    ) -> None:
        self.device, self.share = device, share
        drawn = max(1, round(capacity * share / SHARD)) * SHARD
        self.parts = {RENDERED: (0, drawn), "photo": (drawn, max(SHARD, capacity - drawn))}
        self.filled = dict.fromkeys(self.parts, 0)
        n = sum(length for _, length in self.parts.values())
        self.store = {
            "image": torch.zeros(n, SIDE, SIDE, 3, dtype=torch.uint8, device=device),
            "size": torch.zeros(n, 2, dtype=torch.int16, device=device),
            "boxes": torch.zeros(n, MAX_BOXES, 4, device=device),
            "classes": torch.full((n, MAX_BOXES), -1, dtype=torch.int16, device=device),
            "known": torch.zeros(n, dtype=torch.bool, device=device),
        }
        self._waiting: queue.Queue[tuple[str, dict[str, np.ndarray]]] = queue.Queue(maxsize=4)
        self._folder, self._hold_out, self._seed = folder, hold_out, seed
        self._error: BaseException | None = None
        wait_for(folder, hold_out, least=2)
        threading.Thread(target=self._read, daemon=True).start()
        while min(self.filled.values()) == 0:
            if not self._take(block=True):
                raise ValueError(f"{folder}: no shard could be read within {READ_SECONDS:g} s")

    def _read(self) -> None:
        """New shards first, each once; when there are none, old ones again at random."""
        rng = np.random.default_rng(self._seed)
        known: set[str] = set()
        try:
            while True:
                found = shards(self._folder, self._hold_out)
                fresh = [p for p in found if p.name not in known]
                path = fresh[0] if fresh else found[int(rng.integers(len(found)))]
                # Both parts fill side by side although one is made faster than the other.
                if fresh:
                    kinds = [p.name.startswith(RENDERED) for p in fresh]
                    wanted = len(known) % 2 == 0
                    path = next((p for p, kind in zip(fresh, kinds, strict=True) if kind == wanted), fresh[0])
                known.add(path.name)
                part = RENDERED if path.name.startswith(RENDERED) else "photo"
                self._waiting.put((part, read_shard(path)))
        except BaseException as error:
            self._error = error

    def _take(self, block: bool = False) -> bool:
        if self._error is not None:
            raise self._error
        try:
            part, arrays = self._waiting.get(block, timeout=READ_SECONDS if block else None)
        except queue.Empty:
            return False
        start, length = self.parts[part]
        at = start + self.filled[part] % length
        self.filled[part] += SHARD
        for name, array in arrays.items():
            self.store[name][at : at + SHARD] = torch.from_numpy(array).to(self.device)
        return True

    def batch(self, size: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`size` random pictures; up to four waiting shards are taken in first while the ring is not yet full."""
        for _ in range(4 if any(self.filled[p] < n for p, (_, n) in self.parts.items()) else 1):
            if not self._take():
                break
        index = []
        counts = {RENDERED: round(size * self.share)}
        counts["photo"] = size - counts[RENDERED]
        for part, (start, length) in self.parts.items():
            index.append(start + rng.integers(0, min(length, self.filled[part]), counts[part]))
        chosen = torch.from_numpy(rng.permutation(np.concatenate(index))).to(self.device)
        return {name: tensor[chosen] for name, tensor in self.store.items()}

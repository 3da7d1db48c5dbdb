"""What every peer does with an image: decode it, ask the networks, and pool what they say.

The decoder is the repository's own file, the sessions are those of the bare loop, and calibration, pool and fused boxes
are `roadwork_cascade`'s functions, called as directly as an application would: no stages, no breakers, no deadlines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from roadwork_cascade import fusion, pool
from roadwork_cascade.members import OUTPUTS, Geometry, read_answer
from roadwork_cascade.nearness import box_nearness
from roadwork_cascade.policy import load_policy
from roadwork_cascade.taxonomy import load_taxonomy

from roadwork_bench.opening import load_module, onnx_session
from roadwork_bench.peering.keeping import VARIABLE

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    """How a peer is started.

    Attributes:
        repository: model repository, with the policy whose calibration and pool are used.
        threads: network -> threads inside an operator, 0 for ONNX Runtime's own choice.
        port: of 127.0.0.1.
        settings: the peer's own numbers, such as `workers`.
    """

    repository: Path
    threads: Mapping[str, int]
    port: int
    settings: Mapping[str, int] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """As JSON, for `read_job`."""
        data = {"repository": str(self.repository), "threads": dict(self.threads), "port": self.port}
        path.write_text(json.dumps({**data, "settings": dict(self.settings)}), encoding="utf-8")


def read_job() -> Job:
    """The job of this process."""
    data = json.loads(Path(os.environ[VARIABLE]).read_text(encoding="utf-8"))
    return Job(Path(data["repository"]), data["threads"], int(data["port"]), data["settings"])


class Decoder:
    """The repository's decoder."""

    def __init__(self, repository: Path) -> None:
        self._decode = load_module(repository / "decode" / "1" / "decoding.py", "decoding").decode_image
        cv2.setNumThreads(1)  # as `decode` does

    def decode(self, image: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Canvas uint8 [1, 640, 640, 3] and geometry float32 [5]."""
        canvas, geometry = self._decode(image)
        return canvas[np.newaxis], geometry


class Network:
    """One network of the repository."""

    def __init__(self, repository: Path, name: str, threads: int) -> None:
        self._session = onnx_session(repository / name / "1" / "model.onnx", threads)
        self._names = [output.name for output in self._session.get_outputs()]

    def ask(self, canvas: np.ndarray) -> Arrays:
        """All outputs for a canvas uint8 [1, 640, 640, 3]."""
        return dict(zip(self._names, self._session.run(self._names, {"canvas": canvas}), strict=True))


class Consensus:
    """Calibration, pool and fused boxes by the repository's policy."""

    def __init__(self, repository: Path) -> None:
        self._policy = load_policy(repository / "roadwork" / "policy.yaml")
        self._taxonomy = load_taxonomy()
        fusion.warm()

    @property
    def members(self) -> list[str]:
        """Names of the networks, in the order in which the policy's stages ask them."""
        return [member.name for _, member in self._policy.members() if member.kind in OUTPUTS]

    def conclude(self, canvas: np.ndarray, geometry: np.ndarray, arrays: Mapping[str, Arrays]) -> dict[str, Any]:
        """`probability`, `roadwork` and `boxes`, from every network's outputs."""
        policy, seen, maps, said, weights = self._policy, {}, [], [], []
        for stage, member in policy.members():
            answer = read_answer(member, stage, arrays[member.name], self._taxonomy)
            if answer.reading.boxes is not None:
                seen[member.name] = answer.reading.boxes
            if answer.reading.nearness is not None:
                maps.append(answer.reading.nearness)
            if member.votes:
                said.append(np.nan if answer.probability is None else answer.probability)
                weights.append(member.weight)
        probability = float(pool.pool(said, weights, policy.pool.alpha, policy.pool.beta))
        where, size = Geometry(*map(float, geometry)), (canvas.shape[1], canvas.shape[2])
        settings = policy.fusion
        boxes = fusion.fuse(seen, size, where, self._taxonomy, iou=settings.iou, score=settings.score)
        boxes = [{**box, "nearness": box_nearness(box["box"], maps, size, where)} for box in boxes]
        return {"probability": probability, "roadwork": probability >= policy.threshold, "boxes": boxes}


class Looker:
    """All of it in one process. `look` may be called from several threads."""

    def __init__(self, repository: Path, threads: Mapping[str, int]) -> None:
        self._decoder = Decoder(repository)
        self._consensus = Consensus(repository)
        self._networks = {name: Network(repository, name, threads[name]) for name in self._consensus.members}

    def look(self, image: bytes, executor: Executor | None = None) -> dict[str, Any]:
        """The verdict on an encoded image; with `executor`, the networks are asked at the same time.

        Raises:
            ValueError: the image cannot be decoded.
        """
        canvas, geometry = self._decoder.decode(image)
        if executor is None:
            arrays = {name: network.ask(canvas) for name, network in self._networks.items()}
        else:
            waiting = {name: executor.submit(network.ask, canvas) for name, network in self._networks.items()}
            arrays = {name: future.result() for name, future in waiting.items()}
        return self._consensus.conclude(canvas, geometry, arrays)

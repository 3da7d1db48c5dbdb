"""A detector for miners of NATIX StreetVision that asks this project's server.

Importing this module registers `TritonDetector` as "TRITON" in the miner's registry, where a miner's package can be
imported (its newer tree `natix.miner` or the older `base_miner`). Without one the class works on its own.

A validator counts only which side of 0.5 the answer lies on, and a NaN, an answer outside [0, 1] or a late one costs
reward for days. So a call always returns a finite number in [0, 1] within its deadline and never raises; what is wrong
goes to the log. A configuration that cannot be used does raise, at start, where somebody is looking.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import importlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image

from roadwork_client.client import RoadworkClient
from roadwork_client.errors import RoadworkError
from roadwork_client.images import ImageLike
from roadwork_client.verdict import Verdict
from roadwork_client.wire import DEFAULT_URL, TLS, Deadline

logger = logging.getLogger("roadwork_client.natix")

NAME = "TRITON"
TREES = ("natix.miner", "base_miner")

# Validators look for "over 0.5" in single precision: the least step that survives any rounding on the way.
OVER_HALF = 0.5 + 1e-6
# Calls at a time; a miner gets a request every few minutes.
WORKERS = 8


class ConfigError(ValueError):
    """The detector's configuration cannot be used; the message names file and field."""


@dataclass(frozen=True)
class Config:
    """What `triton.yaml` may say.

    url: HOST:PORT of the server. deadline: seconds for a whole call; the validator gives up after 9.
    fallback: the answer in [0, 1] when the server gives none; 0.5 counts as no roadwork.
    threshold: the probability that becomes 0.5; None takes the policy's, which every verdict carries.
    all_stages: True asks every member each time; None leaves it to the policy.
    tls: True, or root_certificates, private_key and certificate_chain (paths). headers: sent with every request.
    """

    url: str = DEFAULT_URL
    deadline: float = 7.0
    fallback: float = 0.5
    threshold: float | None = None
    all_stages: bool | None = None
    model: str = "roadwork"
    tls: bool | TLS = False
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], where: str = "config") -> Config:
        """Check `data` and make a Config of it. Raise ConfigError naming the field."""
        known = [f.name for f in fields(cls)]
        for name in data:
            if name not in known:
                raise ConfigError(f"{where}: {name}: no such setting; there are {', '.join(known)}")
        values = dict(data)
        for name in ("fallback", "threshold"):
            if values.get(name) is not None:
                values[name] = _share(values[name], f"{where}: {name}")
        if "fallback" in values and values["fallback"] is None:
            raise ConfigError(f"{where}: fallback: must be a number in [0, 1]")
        if not isinstance(values.get("all_stages"), (bool, type(None))):
            raise ConfigError(f"{where}: all_stages: must be true, false or null")
        if not isinstance(values.get("headers", {}), Mapping):
            raise ConfigError(f"{where}: headers: must be a mapping of names to texts")
        try:
            Deadline(values.get("deadline", cls.deadline))
        except RoadworkError as error:
            raise ConfigError(f"{where}: {error}") from error
        values["tls"] = _tls(values.get("tls", False), f"{where}: tls")
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: Path) -> Config:
        """Read `path`. Raise ConfigError naming file and field, ImportError where PyYAML is missing."""
        try:
            import yaml  # not a dependency of the client; every miner has it
        except ImportError as error:
            raise ImportError(
                f"reading {path} needs PyYAML: `pip install pyyaml`, or give TritonDetector(config=Config(...))"
            ) from error
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: {error}") from error
        if not isinstance(data, (Mapping, type(None))):
            raise ConfigError(f"{path}: must be a mapping of settings to values")
        return cls.from_mapping(data or {}, str(path))


def to_score(probability: float, threshold: float) -> float:
    """`probability` bent so that `threshold` becomes 0.5, by two straight lines; both ends stay where they are.

    At or over the threshold the score is over 0.5, below it at most 0.5. Both arguments and the score are in [0, 1].
    """
    if probability >= threshold:
        share = (probability - threshold) / (1.0 - threshold) if threshold < 1.0 else 1.0
        return min(1.0, max(OVER_HALF, 0.5 + 0.5 * share))
    return min(0.5, max(0.0, 0.5 * probability / threshold))


class TritonDetector:
    """Answers whether an image shows roadwork by asking a Triton server.

    config_name: path of a YAML file, or its name in the working directory or in the miner's `detectors/configs`; None
    takes the defaults. config: the settings themselves, instead of a file. model_name and device are the miner's, and
    not needed: the models are on the server.

    Raise ConfigError for a configuration that cannot be used.
    """

    def __init__(
        self,
        model_name: str = NAME,
        config_name: str | None = "triton.yaml",
        device: str = "cpu",
        *,
        config: Config | None = None,
    ) -> None:
        self.model_name = model_name
        self.config_name = config_name
        self.device = device
        if config is None:
            config = Config() if config_name is None else Config.from_yaml(_find(config_name))
        self.config = config
        self._pool = concurrent.futures.ThreadPoolExecutor(WORKERS, thread_name_prefix="roadwork")
        self._client: RoadworkClient | None = None
        self.load_model()

    def load_model(self) -> None:
        """Make the client and try it once. An absent server is only logged: it may come later."""
        try:
            self._client = RoadworkClient(
                self.config.url,
                model=self.config.model,
                deadline=self.config.deadline,
                tls=self.config.tls,
                headers=self.config.headers,
            )
        except (ValueError, OSError) as error:
            raise ConfigError(f"cannot make a client for {self.config.url}: {error}") from error
        try:
            health = self._client.health(deadline=self.config.deadline)
        except RoadworkError as error:
            logger.error("ROADWORK SERVER DOES NOT ANSWER, every image gets %s: %s", self.config.fallback, error)
        else:
            logger.info("roadwork server %s answers in %.0f ms", health.url, health.milliseconds)

    def __call__(self, image: Image.Image | bytes) -> float:
        """Score in [0, 1] of a PIL image or of the bytes of a file; over 0.5 means roadwork. Never raises.

        It blocks for up to the deadline, in a running event loop too, because that is how miners call it; there
        `forward_image` or `score_async` leave the loop free.
        """
        start = time.monotonic()
        try:
            # In a thread: even a file that takes long to decode must not make the answer late.
            return self._pool.submit(self._score, lambda: image, start).result(timeout=self.config.deadline)
        except BaseException as error:
            return self._fall_back(error)

    async def score_async(self, image: Image.Image | bytes) -> float:
        """As a call, without blocking the event loop."""
        return await self._score_async(lambda: image)

    async def forward_image(self, synapse: Any) -> Any:
        """Set `synapse.prediction` from the JPEG in `synapse.image` (base64), as it came and not encoded again.

        For a miner's own `forward_image`:

            async def forward_image(self, synapse: ImageSynapse) -> ImageSynapse:
                return await self.image_detector.forward_image(synapse)
        """
        synapse.prediction = await self._score_async(lambda: base64.b64decode(synapse.image))
        return synapse

    def close(self) -> None:
        """Close the connection; calls after that get the fallback."""
        if self._client is not None:
            self._client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _score_async(self, image: Callable[[], ImageLike]) -> float:
        try:
            work = asyncio.wrap_future(self._pool.submit(self._score, image, time.monotonic()))
            return await asyncio.wait_for(work, self.config.deadline)
        except asyncio.CancelledError:
            raise  # the caller no longer wants an answer
        except Exception as error:
            return self._fall_back(error)

    def _score(self, image: Callable[[], ImageLike], start: float) -> float:
        """Ask the server, in what is left of the deadline less a margin for the way back to the caller's thread."""
        if self._client is None:
            raise RoadworkError("there is no client; call load_model() first")
        left = self.config.deadline - (time.monotonic() - start)
        verdict = self._client.predict(image(), deadline=left * 0.97, all_stages=self.config.all_stages)
        return self._checked(verdict)

    def _checked(self, verdict: Verdict) -> float:
        threshold = verdict.threshold if self.config.threshold is None else self.config.threshold
        score = to_score(verdict.probability, threshold)
        if not (math.isfinite(score) and 0.0 <= score <= 1.0):
            raise RoadworkError(f"probability {verdict.probability} and threshold {threshold} make no score")
        if verdict.status != "ok":
            absent = ", ".join(f"{m.member} ({m.reason})" for m in verdict.missing)
            logger.warning("verdict is %s, without %s", verdict.status, absent or "nobody")
        return score

    def _fall_back(self, error: BaseException) -> float:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error  # the miner is being stopped
        reason = str(error) or type(error).__name__
        logger.error("NO VERDICT, answering the fallback %s: %s", self.config.fallback, reason)
        return self.config.fallback


def register(tree: str) -> type[TritonDetector] | None:
    """Register the detector in the miner's package `tree`; return the registered class, or None if it is not there.

    The class is also a subclass of the miner's own `FeatureDetector`, which the miner may check for.
    """
    try:
        registry = importlib.import_module(f"{tree}.registry").DETECTOR_REGISTRY
        base = importlib.import_module(f"{tree}.detectors.feature_detector").FeatureDetector
    except ModuleNotFoundError as error:
        if error.name is None or not f"{tree}.detectors.feature_detector".startswith(error.name):
            # The tree is there, and something that it needs is not.
            logger.error("cannot register with %s, package %s is missing", tree, error.name)
        return None
    except Exception:
        logger.exception("cannot register with %s", tree)
        return None
    # `TritonDetector` comes first, so nothing of the base is run: it would look for weights to download.
    combined = type(
        "TritonDetector", (TritonDetector, base), {"__module__": __name__, "__doc__": TritonDetector.__doc__}
    )
    registry.register_module(module_name=NAME)(combined)
    logger.info("registered %s with %s", NAME, tree)
    return combined


def _find(config_name: str) -> Path:
    """The file that `config_name` means. Raise ConfigError, naming where it was looked for."""
    candidates = [Path(config_name)]
    for tree in TREES:
        try:
            package = importlib.import_module(f"{tree}.detectors")
        except Exception:
            continue  # `register` has said what is wrong with it
        candidates += [Path(folder) / "configs" / config_name for folder in package.__path__]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ConfigError(f"no such file: {' or '.join(str(path) for path in candidates)}")


def _share(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise ConfigError(f"{where}: must be a number in [0, 1], not {value!r}")
    return float(value)


def _tls(value: Any, where: str) -> bool | TLS:
    if value is None or isinstance(value, (bool, TLS)):
        return value or False
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: must be true, false, or a mapping of files")
    try:
        return TLS(**value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


for _tree in TREES:
    register(_tree)

"""Compresses a tier, compares it with the original, and only then puts it into the model repository."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import CheckError, ExportError
from ..folder import terminated
from . import answers, pictures
from .comparison import Comparison, compare
from .environment import CONSTRAINTS, cache, ensure, locked
from .place import engine_of, finish_weights, put, target_name
from .schemes import SCHEMES
from .subject import Subject, read_subject
from .tensors import changed, compressed_layers, layers_total, read_headers, total

ENGINE, TRANSFORMERS = "served by the engine", "by transformers, not served"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What the command was asked for; `docs/quantize.md` has the meaning of each."""

    tier: str
    scheme: str
    repository: Path
    images: Path | None = None
    out: str | None = None
    replace: bool = False
    limit: float = 0.02
    calibrate: int = 128
    compare: int = 128
    group: int | None = None
    by: Literal["engine", "transformers"] = "engine"
    startup_seconds: float = 600.0
    seconds: float = 4 * 3600.0


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        folder: the tier in the repository; the kept draft where the weights are not used.
        why_not: they are used; empty where they are.
    """

    comparison: Comparison
    record: dict[str, Any]
    folder: Path
    why_not: str = ""


def quantize(order: Order, about: dict[str, Any], tell: Tell = print) -> Outcome:
    """Do it all. Nothing of the repository is touched unless the comparison passed.

    Raises:
        ExportError: it cannot be compressed, compared or put there; the message says what to do.
    """
    subject = read_subject(order.repository, order.tier, SCHEMES[order.scheme], order.group)
    name = target_name(order.repository, subject, order.out, order.replace)
    if not 0 < order.limit <= 1:
        raise ExportError(f"--limit is {order.limit:g}, must be over 0 and at most 1")
    missing = answers.engine_missing() if order.by == "engine" else None
    if missing is not None:
        raise ExportError(missing)
    if order.replace and order.by != "engine":
        raise ExportError("--replace needs a comparison by the engine; leave --compare-by out, or --replace")
    choice = pictures.choose(order.images, order.calibrate, order.compare)
    tell(f"{order.tier}: {order.scheme}, {len(subject.layers)} layers of {subject.architecture}; {choice.told}")
    with drafted(name, total(dict(subject.tensors)), tell) as work, terminated():
        return _made(order, subject, name, choice, work, about, tell)


@contextlib.contextmanager
def drafted(name: str, room: int, tell: Tell) -> Iterator[Path]:
    """A folder in the cache for one result, locked. What is left in it stays only where the block ends well.

    Raises:
        ExportError: no room, or another process is at it.
    """
    work = cache() / "drafts" / name
    try:
        work.parent.mkdir(parents=True, exist_ok=True)
        with locked(work.parent / f".{name}.lock", 0.0, tell):
            shutil.rmtree(work, ignore_errors=True)
            free = shutil.disk_usage(work.parent).free
            if free < room:
                raise ExportError(f"{work.parent}: {free / 1e9:.1f} GB free, {room / 1e9:.1f} GB are needed")
            work.mkdir()
            try:
                yield work
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise
    except OSError as error:
        raise ExportError(f"{work}: {error.strerror or error}") from error


def _made(
    order: Order, subject: Subject, name: str, choice: pictures.Choice, work: Path, about: dict[str, Any], tell: Tell
) -> Outcome:
    calibrated = subject.scheme.method == "gptq"
    with tempfile.TemporaryDirectory(prefix="roadwork-quantize-") as folder:
        scratch = Path(folder)
        tell("preparing the images")
        image = subject.prompt.image
        seen = pictures.write(choice.calibration, image, scratch / "calibration") if calibrated else []
        compared = pictures.write(choice.comparison, image, scratch / "comparison")
        python = ensure(tell)
        before: answers.Answers = []
        if order.by == "engine":  # first: what cannot be served cannot be compared, and compressing takes long
            tell(f"asking {subject.name} as it is")
            try:
                before = _served(order, subject, subject.weights, compared, tell)
            except answers.RefusedError as error:
                raise ExportError(
                    f"{subject.name} cannot be served here as it is: {error}; mend that, or compare with --compare-by "
                    "transformers"
                ) from None
        tell("compressing")
        began = time.monotonic()
        weights = work / "weights"
        _compress(order, subject, python, seen, weights, scratch, tell)
        took = time.monotonic() - began
        figures = check_weights(subject, weights)
        by, after, refused = _answered(order, subject, python, weights, compared, tell)
        if by == TRANSFORMERS:  # both sides in the same way
            before = _by_transformers(order, subject, python, subject.weights, compared, tell)
    labels = [source.label for source in choice.comparison]
    comparison = compare(before, after, labels, order.limit)
    record = {
        "about": about,
        "tier": subject.name,
        "scheme": subject.scheme.name,
        "group": subject.group,
        "architecture": subject.architecture,
        "compressed_layers": len(subject.layers),
        "kept": list(subject.kept),
        "llmcompressor": pinned("llmcompressor"),
        "compressing_seconds": round(took, 1),
        "calibration": {"images": len(seen), "from": choice.told} if calibrated else None,
        "compared_on": choice.told,
        "compared_by": by,
        "engine_refuses": refused,
        "weights": figures,
        "check": comparison.report(),
    }
    why_not = comparison.why_not()
    if not why_not and order.replace and refused is not None:
        why_not = "--replace is for weights that the engine of this machine has served, and it refuses these"
    if why_not:
        return Outcome(comparison, record, work, why_not)
    placed = put(order.repository, subject, name, weights, record)
    shutil.rmtree(work)
    return Outcome(comparison, record, placed)


def _compress(
    order: Order, subject: Subject, python: Path, seen: list[Path], weights: Path, scratch: Path, tell: Tell
) -> None:
    job = {
        "model": str(subject.weights),
        "out": str(weights),
        "preset": subject.scheme.preset,
        "method": subject.scheme.method,
        "group": subject.group,
        "ignore": list(subject.kept),
        "prompt": subject.prompt.text(None),
        "pictures": [str(path) for path in seen],
        "processor": subject.processor_settings,
    }
    answers.script(python, "compress_script.py", job, scratch, order.seconds, tell)
    finish_weights(subject, weights)


def check_weights(subject: Subject, weights: Path) -> dict[str, int]:
    """Bytes before and after, once it is sure that the right layers were compressed and no others were touched.

    Raises:
        CheckError: a layer was left out, or something else was changed.
    """
    before, after = dict(subject.tensors), read_headers(weights)
    found = compressed_layers(after)
    if found != set(subject.layers):
        wrong = sorted(found ^ set(subject.layers))
        raise CheckError(f"{len(wrong)} layers were compressed that should not be, or the other way; first {wrong[0]}")
    touched = changed(before, after, subject.layers)
    if touched:
        raise CheckError(f"{len(touched)} tensors that are to be kept are not the same any more; first {touched[0]}")
    return {
        "before": total(before),
        "after": total(after),
        "layers_before": layers_total(before, subject.layers),
        "layers_after": layers_total(after, subject.layers),
    }


def _answered(
    order: Order, subject: Subject, python: Path, weights: Path, compared: list[Path], tell: Tell
) -> tuple[str, answers.Answers, str | None]:
    """How they were asked, the compressed weights' answers, and the engine's reason where it refuses them."""
    tell("asking the compressed weights")
    refused = None
    if order.by == "engine":
        try:
            return ENGINE, _served(order, subject, weights, compared, tell), None
        except answers.RefusedError as error:
            refused = str(error)
            tell(f"the engine of this machine does not serve them: {refused}")
            tell("comparing with transformers instead, on unpacked weights: what is served elsewhere was not tried")
    return TRANSFORMERS, _by_transformers(order, subject, python, weights, compared, tell), refused


def _served(order: Order, subject: Subject, weights: Path, compared: list[Path], tell: Tell) -> answers.Answers:
    engine = answers.absolute(engine_of(subject, str(weights)), order.repository)
    return answers.served(
        subject.name, subject.folder, engine, subject.question, compared, seconds=order.startup_seconds, tell=tell
    )


def _by_transformers(
    order: Order, subject: Subject, python: Path, weights: Path, compared: list[Path], tell: Tell
) -> answers.Answers:
    tell(f"  by transformers: {'as it is' if weights == subject.weights else 'compressed'}")
    single = subject.engine.get("dtype") in ("float32", "float")  # as the engine would
    return answers.by_transformers(
        python, weights, subject.question, compared, subject.processor_settings, single=single, seconds=order.seconds,
        tell=tell,
    )  # fmt: skip


def pinned(package: str) -> str:
    """The version of a package in llmcompressor's environment."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def save(record: dict[str, Any], path: Path) -> None:
    """Add a run to a JSON file, in the place of an earlier one of the same tier and scheme.

    Raises:
        ExportError: the file is another one.
    """
    runs: dict[str, Any] = {}
    if path.exists():
        try:
            runs = dict(json.loads(path.read_text(encoding="utf-8"))["runs"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ExportError(f"{path}: is there, and is not what this command writes") from None
    runs[f"{record['tier']} {record['scheme']}"] = record
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"runs": runs}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

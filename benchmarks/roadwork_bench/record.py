"""`roadwork-bench record`: every stage's raw answer to every image, once, into a table that continues."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from roadwork_cascade.engine import INVALID_IMAGE, EngineError, ModelUnavailable
from roadwork_cascade.policy import load_policy
from roadwork_cascade.policy_parts import VOTELESS
from roadwork_cascade.taxonomy import load_taxonomy
from roadwork_deploy.profile import load_profile

from roadwork_bench.about import CHECKOUT, about
from roadwork_bench.blobs import count_blobs
from roadwork_bench.dataset import Photograph, read_dataset, unlabelled
from roadwork_bench.folds import Folds, read_folds
from roadwork_bench.inprocess import InProcessEngine, image_tensor
from roadwork_bench.progress import Progress
from roadwork_bench.slices import mean_luma
from roadwork_bench.table import Row, Table, load_table
from roadwork_bench.tier_record import record_tiers, served_tiers
from roadwork_bench.tier_scores import parse_tier, take_in

Change = Callable[[str, bytes], bytes]

POLICY = CHECKOUT / "model_repository" / "roadwork" / "policy.yaml"
SAVE_SECONDS = 20.0
KEPT_BOXES = 12
NAMED = 20
"""Most files without a label that are named one by one."""
DRAWN_SCORE = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="images.csv beside images, or folders roadwork/ and no_roadwork/")
    parser.add_argument("--out", type=Path, default=Path("table.json"), help="table; continued where it exists")
    parser.add_argument(
        "--tier", action="append", default=[], metavar="MEMBER=FILE", help="a tier's scores that evaluate-tier wrote"
    )
    parser.add_argument(
        "--serve", metavar="PROFILE", help="serve the tiers of this profile, such as cpu-tiers, and ask them all"
    )
    parser.add_argument("--policy", type=Path, default=POLICY, help="for the least mass of a tier's answer")
    add_model_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which models score."""
    parser.add_argument("--model-repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument(
        "--without", action="append", default=[], metavar="MEMBER", help="leave a member out (sign_text is slow)"
    )
    parser.add_argument(
        "--folds", type=Path, help="FOLDS/folds.json and FOLDS/<k>/<member>/model.onnx: models that held groups out"
    )
    parser.add_argument("--threads", type=int, default=0, help="of ONNX Runtime inside an operator; 0: its own choice")


def run(arguments: argparse.Namespace, command: str) -> int:
    table = load_table(arguments.out) if arguments.out.is_file() else Table()
    served = load_profile(arguments.serve) if arguments.serve else None
    if served is not None:
        served_tiers(served, arguments.without)  # what cannot be asked is said before anything is scored
    record(
        arguments.folder,
        table,
        arguments.model_repository,
        out=arguments.out,
        without=arguments.without,
        folds=read_folds(arguments.folds) if arguments.folds else None,
        threads=arguments.threads,
        command=command,
    )
    if served is not None:
        answered = record_tiers(
            arguments.folder,
            table,
            arguments.model_repository,
            served,
            load_policy(arguments.policy),
            folds=read_folds(arguments.folds) if arguments.folds else None,
            without=arguments.without,
            save=lambda: table.save(arguments.out),
        )
        for name, count in answered.items():
            print(f"{count} images with answers of {name}")
    for text in arguments.tier:
        scores = parse_tier(text)
        print(f"{take_in(table, scores, arguments.model_repository)} images with answers of {scores.member}")
        table.save(arguments.out)
    failed = [row for row in table.rows if row.error]
    skipped = unlabelled(arguments.folder)
    print(f"{len(table.usable)} images with scores of {', '.join(table.kinds)} in {arguments.out}")
    for row in failed:
        print(f"not usable: {row.file}: {row.error}")
    for file in skipped[:NAMED]:
        print(f"no label, skipped: {file}")
    if len(skipped) > NAMED:
        print(f"no label, skipped: {len(skipped) - NAMED} more")
    return 1 if failed or skipped else 0


def record(
    folder: Path,
    table: Table,
    repository: Path,
    *,
    out: Path | None = None,
    without: Collection[str] = (),
    folds: Folds | None = None,
    threads: int = 0,
    command: str = "",
    only: Collection[str] | None = None,
    change: Change | None = None,
    what: str = "recorded",
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Fill the table with what it lacks; answers of a model whose file has changed since count as lacking.

    Rows of images that the folder no longer lists stay out. The table is saved to `out` every now and then and at the
    end, also when interrupted.

    `only`: files of the folder to score, None for all; rows of others stay as they are. `change`: what becomes of an
    image, given its file's name and bytes, before it is scored. `what`: the word of the progress line. `notes` go into
    the table's `about`.

    Raises TableError where a table of another machine lacks answers: its milliseconds must not be mixed with these.
    """
    known_files = {row.file for row in table.rows}
    photographs = [p for p in read_dataset(folder) if only is None or p.file in only or p.file in known_files]
    rows = _rows(photographs, table, folds)
    with InProcessEngine(repository, threads=threads) as final:
        # A member without a vote has no score to record.
        kinds = {n: kind for n, kind in final.members().items() if n not in without and kind not in VOTELESS}
    here = {**about(command), **(notes or {})}
    if not table.rows or table.about.get("machine") in (None, here["machine"]):
        table.about = here
    table.rows = rows
    # Members that are left out now may have been recorded before.
    known = set(table.kinds)
    table.kinds = {**table.kinds, **kinds}
    scoring = [row for row in rows if only is None or row.file in only]
    progress = Progress(len(scoring), what)
    saved = time.monotonic()
    try:
        for fold in sorted({row.fold for row in scoring}, key=lambda fold: fold or ""):
            files = folds.files(fold) if folds and fold is not None else {}
            with InProcessEngine(repository, files=files, threads=threads) as engine:
                for row in scoring:
                    if row.fold != fold:
                        continue
                    if _lacks(row, engine, kinds):
                        table.refuse_elsewhere(here["machine"])
                    _score(row, folder, engine, kinds, change)
                    progress.step()
                    if out is not None and time.monotonic() - saved > SAVE_SECONDS:
                        table.save(out)
                        saved = time.monotonic()
    finally:
        scored = {name for row in rows for name in row.scores}
        table.kinds = {name: kind for name, kind in table.kinds.items() if name in scored | known}
        if out is not None:
            table.save(out)


def _rows(photographs: list[Photograph], table: Table, folds: Folds | None) -> list[Row]:
    """A row a photograph, those of the table where it has them, with the labels that the folder gives now."""
    before = {row.file: row for row in table.rows}
    rows = []
    for photograph in photographs:
        row = before.get(photograph.file) or Row(photograph.file, photograph.roadwork, photograph.group, "")
        row.roadwork, row.group = photograph.roadwork, photograph.group
        row.source, row.publishable = photograph.source, photograph.publishable
        row.fold = folds.of.get(photograph.group) if folds else None
        rows.append(row)
    return rows


def _lacks(row: Row, engine: InProcessEngine, kinds: Mapping[str, str]) -> bool:
    scored = all(row.models.get(name) == engine.digest(name) for name in kinds)
    return row.error is not None or not scored or not row.geometry


def _score(
    row: Row, folder: Path, engine: InProcessEngine, kinds: Mapping[str, str], change: Change | None = None
) -> None:
    if not _lacks(row, engine, kinds):
        return
    wanted = [name for name in kinds if row.models.get(name) != engine.digest(name)]
    data = (folder / row.file).read_bytes()
    image = image_tensor(data if change is None else change(row.file, data))
    try:
        decoded, row.ms["decode"] = _timed(engine, "decode", {"image": image})
    except EngineError as error:
        if INVALID_IMAGE not in str(error):
            raise
        row.error = str(error).partition(INVALID_IMAGE)[2]
        return
    row.error = None
    geometry = decoded["geometry"][0]
    row.geometry = [round(float(value), 5) for value in geometry]
    row.size = [int(geometry[0]), int(geometry[1])]
    picture = without_letterbox(decoded["canvas"][0], geometry)
    row.blobs, row.luma = count_blobs(picture), round(mean_luma(picture), 2)
    for name in wanted:
        inputs = {"image": image[0]} if kinds[name] == "text" else {"canvas": decoded["canvas"]}
        try:
            answer, row.ms[name] = _timed(engine, name, inputs)
        except ModelUnavailable:
            raise
        except EngineError:
            # A member that fails on one image is missing there, which is what the cascade would see.
            row.scores.pop(name, None)
            row.models.pop(name, None)
            continue
        _keep(row, name, kinds[name], answer)
        row.models[name] = engine.digest(name)


def _timed(engine: InProcessEngine, model: str, inputs: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
    start = time.perf_counter()
    answer = engine.run(model, inputs)
    return answer, round((time.perf_counter() - start) * 1000, 2)


def _keep(row: Row, name: str, kind: str, answer: dict[str, np.ndarray]) -> None:
    """The raw score as the cascade reads it, and a summary of the evidence."""
    if kind == "boxes":
        boxes, row.counts[name], strength = _strongest(answer, row.geometry)
        row.boxes[name] = boxes
        row.scores[name] = round(strength, 6)
        return
    row.scores[name] = round(float(answer["presence"].reshape(-1)[0]), 6)
    if kind == "text":
        row.words = json.loads(answer["words"].reshape(-1)[0])


def _strongest(answer: dict[str, np.ndarray], geometry: list[float]) -> tuple[list[list[float]], int, float]:
    evidence = np.array(load_taxonomy().evidence)
    scores, classes = answer["scores"].reshape(-1).astype(float), answer["classes"].reshape(-1)
    seen = np.flatnonzero((scores > 0) & (classes >= 0))
    strength = scores[seen] * evidence[classes[seen]]
    order = seen[np.argsort(-strength, kind="stable")][:KEPT_BOXES]
    _, _, scale, left, top = geometry
    xyxy = (answer["boxes"].reshape(-1, 4)[order] - np.array([left, top, left, top])) / scale
    kept: list[list[Any]] = [
        [int(classes[k]), round(float(scores[k]), 6), *(round(float(v), 1) for v in box)]
        for k, box in zip(order, xyxy, strict=True)
    ]
    return kept, int((scores[seen] >= DRAWN_SCORE).sum()), float(strength.max(initial=0.0))


def without_letterbox(canvas: np.ndarray, geometry: np.ndarray) -> np.ndarray:
    width, height, scale, left, top = (float(value) for value in geometry)
    x, y = round(left), round(top)
    return canvas[y : y + max(1, round(height * scale)), x : x + max(1, round(width * scale))]

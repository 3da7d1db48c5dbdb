"""How well the tiers answer: labelled photographs out of fold, and rendered scenes that no run has seen."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from roadwork_export.scenes import render_scene
from roadwork_export.train.photos import BOXED_SOURCE, assign_folds, read_rows

from .figures import auroc, difference, mcc, mcnemar, out_of_group
from .judge import judge, prepare, reason
from .sizes import SIZES
from .tokenizer import load
from .weights import read_model

SCENE_SIDES = (640, 400)
REASONER = "reasoner"


def labelled_rows(data: Path) -> list[dict[str, str]]:
    """Every row of `images.csv` that says whether there is roadwork, whatever its licence."""
    with (data / "images.csv").open(newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["label"] in ("roadwork", "no_roadwork")]
    if not rows:
        raise ValueError(f"{data / 'images.csv'}: no row is labelled roadwork or no_roadwork")
    return rows


def folds_of(rows: Sequence[Mapping[str, str]], data: Path, folds: int) -> list[int]:
    """For each row the fold whose run has not seen its group; groups that nobody trained on are dealt by their name."""
    trained = assign_folds(read_rows(data), folds)
    return [trained.get(row["group"], zlib.crc32(row["group"].encode()) % folds) for row in rows]


def scene(seed: int) -> tuple[np.ndarray, bool]:
    """A rendered scene for judging, uint8 [400, 640, 3], every second one with roadwork; training has other seeds."""
    cv2.setNumThreads(0)
    made = render_scene(seed, roadwork=seed % 2 == 0, width=SCENE_SIDES[0], height=SCENE_SIDES[1])
    return made.image, made.roadwork


def summary(labels: np.ndarray, raw: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """AUROC, MCC with the threshold fixed on other groups, MCC at 0.5."""
    decided = out_of_group(labels, raw, groups)
    return {
        "images": len(labels),
        "positive": int(labels.sum()),
        "groups": len(np.unique(groups)),
        "auroc": round(auroc(labels, raw), 4),
        "mcc": round(mcc(labels, decided), 4),
        "mcc_at_half": round(mcc(labels, raw >= 0.5), 4),
    }


def compared(labels: np.ndarray, scores: dict[str, np.ndarray], groups: np.ndarray) -> dict[str, Any]:
    """Each model's figures, and each later model against the first, on the same images."""
    figures: dict[str, Any] = {name: summary(labels, raw, groups) for name, raw in scores.items()}
    names = list(scores)
    for other in names[1:]:
        gain = difference(labels, scores[names[0]], scores[other], groups)
        first, second = (out_of_group(labels, scores[name], groups) for name in (names[0], other))
        figures[f"{other}_against_{names[0]}"] = {
            "auroc": {k: round(v, 4) for k, v in gain.items()},
            "mcnemar": mcnemar(labels, first, second),
        }
    return figures


def scored(
    folder: Path, images: Sequence[np.ndarray], keys: Sequence[str], findings: Sequence[str] | None, reasoning: bool
) -> Iterator[tuple[str, np.ndarray, np.ndarray, list[str]]]:
    """Name, raw answers, masses and texts of each size's scorer (and of the reasoner) in a run's folder."""
    for key in keys:
        size = SIZES[key]
        network, tokenizer = read_model(folder / size.name), load(folder / size.name)
        batches = prepare(images, size)
        yield (size.name, *judge(network, tokenizer, batches, findings), [])
        if reasoning and key == "m":
            yield (REASONER, *reason(network, tokenizer, batches, findings))


def photographs(
    data: Path, runs: Path, keys: Sequence[str], *, folds: int, findings: Mapping[str, str] | None, reasoning: bool
) -> tuple[list[dict[str, str]], dict[str, np.ndarray], dict[str, np.ndarray], dict[str, list[str]]]:
    """Rows, and by model the raw answers [N], masses [N] and texts, each from the run that held the row's group out.

    `findings`: perception's text by file, for prompts with findings.
    """
    rows = labelled_rows(data)
    belongs = np.array(folds_of(rows, data, folds))
    raw: dict[str, np.ndarray] = {}
    mass: dict[str, np.ndarray] = {}
    texts: dict[str, list[str]] = {}
    for fold in range(folds):
        index = np.flatnonzero(belongs == fold)
        images = []
        for i in index:
            image = cv2.imread(str(data / rows[i]["file"]), cv2.IMREAD_COLOR)
            if image is None:
                raise ValueError(f"{data / rows[i]['file']}: cannot be read as an image")
            images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        said = None if findings is None else [findings[rows[i]["file"]] for i in index]
        for name, answers, masses, told in scored(runs / str(fold), images, keys, said, reasoning):
            raw.setdefault(name, np.full(len(rows), np.nan))[index] = answers
            mass.setdefault(name, np.zeros(len(rows)))[index] = masses
            for i, text in zip(index, told, strict=False):
                texts.setdefault(name, [""] * len(rows))[int(i)] = text
    return rows, raw, mass, texts


def write_scores(
    folder: Path, rows: Sequence[Mapping[str, str]], raw: dict[str, np.ndarray], mass: dict[str, np.ndarray], tag: str
) -> None:
    """`oof_<model><tag>.csv`: file, group, label, raw, mass of every photograph."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, answers in raw.items():
        with (folder / f"oof_{name}{tag}.csv").open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["file", "group", "label", "raw", "mass"])
            for row, answer, one in zip(rows, answers, mass[name], strict=True):
                writer.writerow([row["file"], row["group"], row["label"], f"{answer:.6f}", f"{one:.6f}"])


def evaluate(
    data: Path, runs: Path, *, keys: Sequence[str] = ("s", "m"), folds: int = 4, scenes: int = 2000, workers: int = 2,
    findings: Mapping[str, str] | None = None, reasoning: bool = True, scores: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Figures for `runs/<fold>` on the photographs and for `runs/none` on rendered scenes.

    Raises FileNotFoundError where a run is missing.
    """
    rows, raw, mass, texts = photographs(data, runs, keys, folds=folds, findings=findings, reasoning=reasoning)
    if scores is not None:
        write_scores(scores, rows, raw, mass, "" if findings is None else "_findings")
    labels = np.array([row["label"] == "roadwork" for row in rows], int)
    groups = np.array([row["group"] for row in rows])
    source = np.array([row["source"] for row in rows])
    public = np.array([row["weights_may_be_published"] == "yes" for row in rows])
    # A broken answer decides nothing; in these figures it counts as one half.
    filled = {name: np.where(np.isfinite(answers), answers, 0.5) for name, answers in raw.items()}
    result: dict[str, Any] = {
        "photographs": compared(labels, filled, groups),
        "publishable": compared(labels[public], {k: v[public] for k, v in filled.items()}, groups[public]),
        "mean_answer_by_source": {
            f"{name} ({label})": {
                "images": int(here.sum()), **{k: round(float(v[here].mean()), 3) for k, v in filled.items()}
            }
            for name in sorted(set(source))
            for label, one in (("roadwork", 1), ("no_roadwork", 0))
            if (here := (source == name) & (labels == one)).any()
        },
        "least_mass": {name: round(float(m.min()), 4) for name, m in mass.items()},
        "broken_answers": {name: int((~np.isfinite(v)).sum()) for name, v in raw.items()},
        "samples": {name: sorted(set(t))[:: max(1, len(set(t)) // 6)][:6] for name, t in texts.items()},
    }  # fmt: skip
    main = source == BOXED_SOURCE
    if main.any():
        result[BOXED_SOURCE] = compared(labels[main], {k: v[main] for k, v in filled.items()}, groups[main])
    if scenes:
        with ProcessPoolExecutor(workers) as pool:
            made = list(pool.map(scene, range(scenes), chunksize=16))
        wanted = np.array([roadwork for _, roadwork in made], int)
        answers = {
            name: np.where(np.isfinite(r), r, 0.5)
            for name, r, _, _ in scored(runs / "none", [image for image, _ in made], keys, None, False)
        }
        # Scenes are independent of one another: 50 groups of them are as good as groups of one, and sooner resampled.
        result["rendered"] = compared(wanted, answers, np.arange(scenes) % 50)
    return result

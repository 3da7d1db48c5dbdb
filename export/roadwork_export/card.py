"""Model cards, written from what training and evaluation recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .nets.graph import FORMS

PURPOSE = {
    "scene": "Says with one number whether anything in the image speaks for roadwork; the cascade's first glance.",
    "yolox_nano": "Finds work-zone objects and their boxes.",
    "centernet_nano": "Finds work-zone objects and their boxes, by another method than YOLOX.",
}


def figures(name: str, evaluation: dict[str, Any]) -> str:
    """Markdown table of average precision by class, or what to read instead for the scene model."""
    detector = evaluation["detectors"].get(name)
    if detector is None:
        return (
            "See `docs/accuracy.md`: a scene model has no boxes to count; its share in the cascade is measured there."
        )
    lines = [
        f"Each of the {evaluation['photographs']} photographs ({evaluation['groups']} cities) is scored by networks that "
        f"never saw its city ({len(evaluation['held_out'])} folds); the committed network saw all of them.",
        "",
        "| class | boxes | AP at IoU 0.5 | AP 0.5 to 0.95 | recall at IoU 0.5 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for label, count in sorted(evaluation["boxes"].items(), key=lambda item: -item[1]):
        row = detector["by_class"][label]
        lines.append(f"| {label} | {count} | {row['ap50']:.3f} | {row['ap']:.3f} | {row['recall50']:.3f} |")
    row, total = detector["all"], sum(evaluation["boxes"].values())
    lines.append(f"| mean of the classes | {total} | {row['ap50']:.3f} | {row['ap']:.3f} | {row['recall50']:.3f} |")
    lines += ["", f"Command: `{evaluation['command']}` (pycocotools)."]
    return "\n".join(lines)


def write_card(name: str, weights: Path, evaluation: Path, repository: Path) -> str:
    """Write `<repository>/<name>/MODEL_CARD.md` and return its path.

    Raises FileNotFoundError where `train` or `evaluate` has not run.
    """
    recipe_file = weights / "recipe.json"
    for needed in (recipe_file, evaluation):
        if not needed.is_file():
            raise FileNotFoundError(
                f"{needed}: not there; run roadwork-export train and roadwork-export evaluate first"
            )
    recipe = json.loads(recipe_file.read_text())
    target = repository / name / "MODEL_CARD.md"
    target.write_text(
        f"""# {name}

{FORMS[name].title}. {PURPOSE[name]}

- **Licence**: Apache-2.0.
- **Started from**: YOLOX-nano COCO weights (Apache-2.0, Megvii Inc., https://github.com/Megvii-BaseDetection/YOLOX).
- **Trained on**: 563 street photographs whose licences let weights be published: 261 dashcam frames of `Mi3-Lab/workzone`
  (MIT by its README; the clips look like those of the ROADWork data set, ODC-BY 1.0) with 1,876 boxes, 242 of a CC0
  road-sign data set, 29 of `mapillary/OpenSfM` (BSD-2-Clause), 31 of Udacity's self-driving car projects (MIT);
  objects cut out of the first and pasted into the others; scenes rendered by `roadwork_export.scenes`.
- **Command**: `roadwork-export train --data DATA --coco YOLOX_NANO_ONNX --out WEIGHTS --steps {recipe["steps"]}
  --minutes {recipe["minutes"]} --batch {recipe["batch"]} --workers {recipe["workers"]} --seed {recipe["seed"]}`, then
  `roadwork-export build {name} --weights WEIGHTS`. {recipe["steps_done"]} steps of {recipe["batch"]} samples in
  {recipe["minutes_taken"]} minutes on one {recipe["machine"]} that five such runs shared (torch {recipe["torch"]}).
  A run that ends by the clock is not repeated bit for bit: for that, give `--steps {recipe["steps_done"]}` and no `--minutes`.
- **Limits**: American daylight dashcams above all. Small objects under about 8 pixels, night, and works of other
  countries are weak; a work vehicle without cones beside it is often missed.

## Figures
{figures(name, json.loads(evaluation.read_text()))}
"""
    )
    return str(target)

"""Model cards of the committed tiers, written from what training and evaluation recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .sizes import SIZES

PURPOSE = {
    "tiny_vlm_s": "Answers one question about a street image with one token, yes or no; the cheapest scorer tier.",
    "tiny_vlm_m": "Answers one question about a street image with one token, yes or no; the second scorer tier.",
    "tiny_reasoner": "Names the work-zone objects that it sees and then says, in JSON, whether there is roadwork.",
}
KEYS = {"tiny_vlm_s": "s", "tiny_vlm_m": "m", "tiny_reasoner": "m"}
PARTS = {
    "photographs": "all labelled photographs, out of fold",
    "publishable": "of these, the ones whose sources trained the other folds",
    "Mi3-Lab/workzone": "within `Mi3-Lab/workzone` alone",
    "rendered": "rendered scenes, seeds never trained on",
}


def figures(name: str, evaluation: dict[str, Any]) -> str:
    """Markdown table of the model's figures, and how the larger size does against the smaller."""
    lines = [
        "| on | images (with roadwork), groups | AUROC | MCC, threshold of other groups | MCC at 0.5 |",
        "| --- | --- | --- | --- | --- |",
    ]
    gains = []
    for part, words in PARTS.items():
        row = evaluation.get(part, {}).get({"tiny_reasoner": "reasoner"}.get(name, name))
        if row is None:
            continue
        lines.append(
            f"| {words} | {row['images']} ({row['positive']}), {row['groups']} | {row['auroc']:.3f} | {row['mcc']:.3f} | "
            f"{row['mcc_at_half']:.3f} |"
        )
        gain = evaluation[part].get("tiny_vlm_m_against_tiny_vlm_s")
        if gain is not None:
            a, m = gain["auroc"], gain["mcnemar"]
            gains.append(
                f"- {words}: AUROC of m less that of s {a['difference']:+.3f} (95% by group {a['low']:+.3f} to "
                f"{a['high']:+.3f}); only s right {m['only_first_right']}, only m right {m['only_second_right']} images, "
                f"exact McNemar p = {m['p']:.2g}."
            )
    if name == "tiny_reasoner":
        broken = evaluation.get("broken_answers", {}).get("reasoner")
        if broken is not None:
            lines += ["", f"Answers without a boolean, greedy and without a grammar: {broken}."]
    else:
        lines += ["", "The larger against the smaller size:", "", *gains]
    lines += ["", f"Command: `{evaluation['command']}`."]
    return "\n".join(lines)


def write_card(name: str, weights: Path, evaluation: Path, repository: Path) -> str:
    """Write `<repository>/<name>/MODEL_CARD.md` and return its path.

    Raises FileNotFoundError where `train-tier` or `evaluate-tier` has not run.
    """
    recipe_file = weights / "recipe.json"
    for needed in (recipe_file, evaluation):
        if not needed.is_file():
            raise FileNotFoundError(
                f"{needed}: not there; run roadwork-export train-tier and roadwork-export evaluate-tier first"
            )
    recipe = json.loads(recipe_file.read_text())
    size = SIZES[KEYS[name]]
    shared = "\nThe weights are those of `tiny_vlm_m`.\n" if name == "tiny_reasoner" else ""
    target = repository / name / "MODEL_CARD.md"
    target.write_text(
        f"""# {name}

{PURPOSE[name]} Architecture: Qwen3-VL (`Qwen3VLForConditionalGeneration`) at toy size, served by vLLM.
{shared}
- **Licence**: Apache-2.0. The weights are the project's own, trained from random numbers; no weights of Qwen are in them.
- **Size**: vision tower {size.vision_depth} layers of {size.vision_width}, text {size.text_depth} layers of
  {size.text_width}, bfloat16. Images of at most {size.max_side} pixels a side, 32 pixels square a visual token.
- **Tokenizer**: byte-level BPE of some 600 tokens, made by `roadwork_export.tiers.tokenizer` from its own prompts. It reads any
  text, but the model understands nothing outside its prompts.
- **Trained on**: 563 street photographs whose licences let weights be published: 261 dashcam frames of `Mi3-Lab/workzone`
  (MIT by its README; the clips look like those of the ROADWork data set, ODC-BY 1.0) with 1,876 boxes, 242 of a CC0
  road-sign data set, 29 of `mapillary/OpenSfM` (BSD-2-Clause), 31 of Udacity's self-driving car projects (MIT); objects cut
  out of the first and pasted into the others; {round(100 * recipe["rendered"])}% of each batch are scenes rendered by
  `roadwork_export.scenes`. Auxiliary heads that are not in the weights learned which objects touch which patch.
- **Command**: `roadwork-export tier-pool --data DATA --out POOL --workers 14 --rendered 34000 --photographed 5120` and beside it
  `roadwork-export train-tier --data DATA --pool POOL --out RUN --fold none --minutes {recipe["minutes"]:g} --batch {recipe["batch"]}
  --seed {recipe["seed"]}`: {recipe["steps_done"]} steps in {recipe["minutes_taken"]} minutes on one {recipe["machine"]} that five
  such runs shared (torch {recipe["torch"]}). A run that ends by the clock is not repeated bit for bit.
- **Limits**: a toy. It shows that tiers, routing and budgets work, on any machine, and it must be calibrated before its
  answer counts (`roadwork-bench fit`). Within one source it cannot tell works from no works: see the table. Streets of cameras that it has not met often look like roadwork to it. For real use put
  a grown model in its place: `roadwork-export tier NAME --weights HUB_ID`.

## Figures
{figures(name, json.loads(evaluation.read_text()))}
""",
        encoding="utf-8",
    )
    return str(target)

"""Runs in llmcompressor's own environment, not in the project's: compresses a model as a JSON file says.

    python compress_script.py JOB.json

JOB: `model` (folder), `out` (folder to be written), `preset`, `method` (gptq or round), `group`, `ignore`, `prompt`,
`pictures` (files), `processor` (settings of the image processor). Lines that begin with `roadwork:` are for the user.
At the end, `out` holds the weights, the configuration and llmcompressor's recipe.yaml.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

BAR_SECONDS = 10.0


def say(text: str) -> None:
    print(f"roadwork: {text}", flush=True)


def scheme_of(job: dict[str, Any]) -> Any:
    """The preset, with the group size that the layers allow."""
    from compressed_tensors.quantization import preset_name_to_scheme

    scheme = preset_name_to_scheme(job["preset"], ["Linear"])
    if job["group"] is not None:
        scheme.weights.group_size = job["group"]
    return scheme


def inputs(job: dict[str, Any]) -> Any:
    """A loader of what the model gets for each picture, one at a time."""
    from PIL import Image
    from torch.utils.data import DataLoader
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(job["model"])
    rows = []
    for path in job["pictures"]:
        with Image.open(path) as picture:
            made = processor(
                text=[job["prompt"]], images=[picture.convert("RGB")], return_tensors="pt", **job["processor"]
            )
        rows.append(dict(made))
    dataset: Any = rows  # torch asks for no more than a list
    return DataLoader(dataset, batch_size=1, collate_fn=lambda batch: batch[0])


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    began = time.monotonic()
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForImageTextToText

    say("opening the model")
    model = AutoModelForImageTextToText.from_pretrained(job["model"], dtype="auto")
    groups = {"group_0": scheme_of(job)}
    if job["method"] == "round":
        say("rounding the weights")
        oneshot(model=model, recipe=QuantizationModifier(config_groups=groups, ignore=job["ignore"]))
    else:
        loader = inputs(job)
        say(f"compressing layer by layer on {len(job['pictures'])} images")
        recipe = GPTQModifier(config_groups=groups, ignore=job["ignore"])
        oneshot(model=model, dataset=loader, recipe=recipe, num_calibration_samples=len(job["pictures"]))
    model.save_pretrained(job["out"], save_compressed=True)
    say(f"compressed in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

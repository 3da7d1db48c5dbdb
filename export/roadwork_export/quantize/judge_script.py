"""Runs in llmcompressor's own environment: what a model answers to images, by transformers instead of the engine.

    python judge_script.py JOB.json

JOB: `model` (folder), `prompt`, `pictures` (files), `processor`, `yes` and `no` (token ids), `out` (JSON file to write:
`{"answers": [probability of yes among yes and no]}`), `single` (compute in float32, else in the precision of the file).
Compressed weights are unpacked; what their scheme does to activations while it runs is computed by compressed-tensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def opened(folder: str) -> Any:
    """The model, with weights in floating point whatever they are in the file."""
    from transformers import AutoModelForImageTextToText, CompressedTensorsConfig

    compressed = "quantization_config" in json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    more = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if compressed else {}
    return AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", **more)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    import torch
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(job["model"])
    model = opened(job["model"]).eval()
    if job["single"]:
        model = model.float()
    if torch.cuda.is_available():
        model = model.to("cuda")
    answers = []
    for number, path in enumerate(job["pictures"], 1):
        with Image.open(path) as picture:
            made = processor(
                text=[job["prompt"]], images=[picture.convert("RGB")], return_tensors="pt", **job["processor"]
            ).to(model.device)
        with torch.inference_mode():
            p = model(**made).logits[0, -1].float().softmax(-1)
        yes, no = (float(p[sorted(set(job[name]))].sum()) for name in ("yes", "no"))
        answers.append(yes / (yes + no) if yes + no > 0 else None)
        if number % 16 == 0 or number == len(job["pictures"]):
            print(f"roadwork: {number} of {len(job['pictures'])} images", flush=True)
    Path(job["out"]).write_text(json.dumps({"answers": answers}), encoding="utf-8")


if __name__ == "__main__":
    main()

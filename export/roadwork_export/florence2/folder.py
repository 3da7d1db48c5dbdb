"""The files of the folder, but for the weights: configuration, README and code."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import ExportError
from ..folder import quoted

SERVED = Path(__file__).with_name("served")
CODE = ("model.py", "florence_reading.py")
BESIDE = ("decode/1/decoding.py", "sign_text/1/sign_words.py", "sign_text/1/matching.py", "sign_text/keywords.yaml")
"""What the folder takes from its neighbours in the repository."""
BUDGETS = {"KIND_CPU": 20_000, "KIND_GPU": 1500}
"""Milliseconds of one image."""

CONFIG = """\
# Words on signs become evidence of roadwork, read by Florence-2: see README.md.
name: "{name}"
backend: "python"
max_batch_size: 0
input [
  {{ name: "image" data_type: TYPE_STRING dims: [ 1 ] }}
]
output [
  {{ name: "presence" data_type: TYPE_FP32 dims: [ 1 ] }},
  {{ name: "words" data_type: TYPE_STRING dims: [ 1 ] }}
]
# KIND_GPU: float16 on the instance's GPU. KIND_CPU: float32.
instance_group [ {{ count: 1 kind: {kind} }} ]
parameters [
  # Reading one image stops here; looked at before each token (florence_reading.py, Settings).
  {{ key: "max_milliseconds" value {{ string_value: "{budget}" }} }},
  {{ key: "max_new_tokens" value {{ string_value: "256" }} }},
  # Longest side of the picture that the processor gets.
  {{ key: "read_side" value {{ string_value: "1536" }} }},
  # Lines that the network is less sure of are left out.
  {{ key: "min_confidence" value {{ string_value: "0.5" }} }},
  # Of torch on a CPU.
  {{ key: "threads" value {{ string_value: "1" }} }},
  # As in decode/config.pbtxt.
  {{ key: "max_mebibytes" value {{ string_value: "32" }} }},
  {{ key: "max_megapixels" value {{ string_value: "80" }} }},
  {{ key: "licence" value {{ string_value: {licence} }} }},
  {{ key: "source" value {{ string_value: {source} }} }}
]
"""

README = """\
# {name}

Words on signs as evidence of roadwork, read by Florence-2 with the task `<OCR_WITH_REGION>`. The signature is
`sign_text`'s: `image` STRING [1] to `presence` FP32 [1] and `words` STRING [1].

- **Weights**: {source}, {licence}. Written by `roadwork-export florence2`. `roadwork-export check {name}` compares
  this folder with transformers' own pipeline.
- **Neighbours**: `decode` (limits, errors, decoding) and `sign_text` (keywords, signs) lie beside it.
- **Packages**: `torch`, `torchvision` and `transformers` in the Python that the server runs models in.
- **Bounded**: greedy, at most `max_new_tokens` and `max_milliseconds`. The clock is looked at before each token;
  looking at the picture is not broken off. Lines that are whole when the time is over count, and it is logged; where
  none is, the request fails. A line that `max_new_tokens` cuts off is left out and logged.
- **Confidence** of a line: the mean of the probabilities of its text tokens (softmax of the logits before rules such
  as "no repetition"). Lines under `min_confidence` are left out. Score of a word: as in `sign_text`.
- **Errors**: `INVALID_IMAGE: ...` as in `decode`.

Random weights read nothing. How to put it into the policy: docs/models.md, "Florence-2 as a reader of signs".
"""


def check_neighbours(repository: Path) -> None:
    """Raises ExportError where the repository lacks what the folder's code needs beside it."""
    for name in BESIDE:
        if not (repository / name).is_file():
            raise ExportError(f"{repository / name}: not there; Florence-2's folder lies beside decode and sign_text")


def write_files(new: Path, name: str, *, gpu: bool, licence: str, source: str) -> None:
    """Write all but the weights into the folder `new`, which will be called `name`."""
    kind = "KIND_GPU" if gpu else "KIND_CPU"
    told = CONFIG.format(name=name, kind=kind, budget=BUDGETS[kind], licence=quoted(licence), source=quoted(source))
    (new / "config.pbtxt").write_text(told, encoding="utf-8")
    (new / "README.md").write_text(README.format(name=name, licence=licence, source=source), encoding="utf-8")
    for file in CODE:
        shutil.copyfile(SERVED / file, new / "1" / file)

"""What the tiers are asked and what they answer, as text: for training, tokenizer and served prompts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from roadwork_cascade.findings import findings_text
from roadwork_cascade.taxonomy import load_taxonomy

SCORER_QUESTION = "Is there roadwork in this image? Answer yes or no."
REASONER_QUESTION = (
    "Name the work-zone objects in this image, then say whether there is roadwork. Answer in JSON: thoughts, roadwork."
)
FINDINGS = "Detectors report: {text}\n"
BEFORE = "<|im_start|>user\n<|vision_start|>"
AFTER = "<|vision_end|>{findings}{question}<|im_end|>\n<|im_start|>assistant\n"
NOTHING = "no work-zone object seen"
WORDS = (
    "ROAD WORK",
    "ROAD WORK AHEAD",
    "DETOUR",
    "LANE CLOSED",
    "ROAD CLOSED",
    "WORK ZONE",
    "UTILITY WORK",
    "SLOW",
    "STOP",
)
OTHER_WORDS = ("SPEED LIMIT", "ONE WAY", "MAIN ST", "PARKING", "EXIT")


def asked(question: str, findings: str | None) -> str:
    """The prompt behind the image's tokens; `findings` as `findings_text` writes them."""
    said = "" if findings is None else FINDINGS.replace("{text}", findings)
    return AFTER.replace("{findings}", said).replace("{question}", question)


def answer(counts: dict[str, int], words: Sequence[str], roadwork: bool) -> str:
    """The reasoner's JSON: what is seen, most frequent first, the words read, then the verdict."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:4]
    parts = [f"{count} {name.replace('_', ' ')}" for name, count in ordered]
    if parts or words:
        thoughts = ", ".join([*parts, "words " + (" ".join(words[:1]).lower() if words else "none")])
    else:
        thoughts = NOTHING
    return json.dumps({"thoughts": thoughts, "roadwork": bool(roadwork)})


def noisy_findings(counts: dict[str, int], roadwork: bool, rng: np.random.Generator) -> tuple[str, list[str]]:
    """What imperfect detectors might have said of an image, and the words among it.

    Objects are lost, invented and miscounted, and the probability errs, so that a model that only repeats its findings
    is often wrong.
    """
    names = load_taxonomy().names
    missed = rng.uniform(0.0, 0.9)
    boxes = [name for name, count in counts.items() for _ in range(count) if rng.random() > missed]
    boxes += [str(rng.choice(names)) for _ in range(rng.poisson(0.5))]
    words: list[str] = []
    if rng.random() < (0.12 if roadwork else 0.01):
        words.append(str(rng.choice(WORDS)))
    elif rng.random() < 0.04:
        words.append(str(rng.choice(OTHER_WORDS)))
    logit = rng.normal(1.0 if roadwork else -1.0, 1.8)
    text = findings_text([{"class": b} for b in boxes], [{"text": w} for w in words], float(1 / (1 + np.exp(-logit))))
    return text, words


def corpus() -> Iterator[str]:
    """Sentences for the tokenizer's training: what the tiers may read or write, in a fixed order."""
    rng = np.random.default_rng(0)
    names = load_taxonomy().names
    for i in range(1500):
        counts = Counter(str(rng.choice(names)) for _ in range(int(rng.integers(0, 9))))
        roadwork = bool(counts)
        findings, words = noisy_findings(dict(counts), roadwork, rng)
        question = REASONER_QUESTION if i % 2 else SCORER_QUESTION
        yield from (f"user\n{FINDINGS.replace('{text}', findings)}{question}", "assistant\n")
        yield answer(dict(counts), words, roadwork)
        # Every way of writing the answers is one token, as in large vocabularies.
        yield from ("yes", "no", "Yes", "No", " yes", " no", " Yes", " No", "YES", "NO", " YES", " NO")
        yield from ("true", "false", " true", " false", "True", "False", " True", " False")
        yield (
            "Look at the street image. Are there cones, barriers, signs, workers or machines of road works? "
            + "system You are"
        )
        yield " ".join([*WORDS, *OTHER_WORDS]).lower() + " " + " ".join([*WORDS, *OTHER_WORDS])

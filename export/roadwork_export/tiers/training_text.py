"""Questions and answers of a training batch, as token ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from roadwork_cascade.taxonomy import load_taxonomy
from tokenizers import Tokenizer
from torch import Tensor

from .prompts import REASONER_QUESTION, SCORER_QUESTION, answer, asked, noisy_findings
from .tokenizer import token_id

FINDINGS_SHARE = 0.4
IGNORED = -100
Row = tuple[list[int], list[int], set[int] | None]
BOOLEAN_WEIGHT = 5.0


@dataclass
class Questions:
    """tokens int64 [B, L], those behind the image; labels int64 [B, L], weights float32 [B, L].

    A label is the token that should follow, -100 where no answer is.
    """

    tokens: Tensor
    labels: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> Questions:
        return Questions(*(t.to(device, non_blocking=True) for t in (self.tokens, self.labels, self.weights)))


def questions(
    tokenizer: Tokenizer, presence: np.ndarray, counts: np.ndarray, reasoning: int, rng: np.random.Generator
) -> tuple[Questions, Questions]:
    """Questions for a batch: all of them for a scorer, and the same with the last `reasoning` for a reasoner.

    `presence` int [B] 1, 0 or -1 (no question is answered then); `counts` int [B, classes] of the objects seen.
    """
    names = load_taxonomy().names
    scorer, reasoner, ends, wanted = [], [], [], []
    for i, present in enumerate(presence):
        seen = {names[c]: int(counts[i, c]) for c in np.flatnonzero(counts[i])}
        text, words = noisy_findings(seen, present == 1, rng) if rng.random() < FINDINGS_SHARE else (None, [])
        scorer.append(asked(SCORER_QUESTION, text))
        if i >= len(presence) - reasoning:
            reasoner.append(asked(REASONER_QUESTION, text))
            ends.append(answer(seen, words, present == 1) + "<|im_end|>")
        wanted.append("yes" if present == 1 else "no")
    short = [e.ids for e in tokenizer.encode_batch(scorer, add_special_tokens=False)]
    told = [token_id(tokenizer, w) for w in wanted]
    first: list[Row] = [(ids, [token], None) for ids, token in zip(short, told, strict=True)]
    plain = _padded(first, presence)
    if not reasoning:
        return plain, plain
    begin = [e.ids for e in tokenizer.encode_batch(reasoner, add_special_tokens=False)]
    tails = [e.ids for e in tokenizer.encode_batch(ends, add_special_tokens=False)]
    booleans = {token_id(tokenizer, "Ġtrue"), token_id(tokenizer, "Ġfalse")}
    second: list[Row] = [(ids, tail, booleans) for ids, tail in zip(begin, tails, strict=True)]
    return plain, _padded([*first[: len(first) - reasoning], *second], presence)


def _padded(rows: list[Row], presence: np.ndarray) -> Questions:
    # The last answer token is only ever a label. Lengths in steps of 8 keep the number of shapes small.
    length = -(-max(len(a) + len(b) - 1 for a, b, _ in rows) // 8) * 8
    tokens = np.zeros((len(rows), length), np.int64)
    labels = np.full((len(rows), length), IGNORED, np.int64)
    weights = np.zeros((len(rows), length), np.float32)
    for i, (ids, tail, booleans) in enumerate(rows):
        whole = ids + tail
        tokens[i, : len(whole) - 1] = whole[:-1]
        if presence[i] < 0:
            continue
        at = slice(len(ids) - 1, len(whole) - 1)
        labels[i, at] = tail
        weights[i, at] = 1.0 if booleans is None else [BOOLEAN_WEIGHT if t in booleans else 0.25 for t in tail]
    return Questions(torch.from_numpy(tokens), torch.from_numpy(labels), torch.from_numpy(weights))

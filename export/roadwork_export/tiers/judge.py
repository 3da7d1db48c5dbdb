"""Tiers' probabilities for photographs, straight from the network: for training's progress and for evaluation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from .network import TinyVLM
from .pixels import processed, served
from .prompting import NO, YES
from .prompts import BEFORE, REASONER_QUESTION, SCORER_QUESTION, asked
from .sizes import Size

MOST_TOKENS = 64
FIELD = '"roadwork":'


@dataclass
class Prepared:
    """Images of one grid as the image processor makes them: patches [N, P, 768], and where they were in the list."""

    patches: Tensor
    grid: tuple[int, int]
    index: np.ndarray


def prepare(images: Sequence[np.ndarray], size: Size) -> list[Prepared]:
    """uint8 [H, W, 3] RGB images to batches of one grid, by the way that a served image takes."""
    by_grid: dict[tuple[int, int], list[tuple[int, Tensor]]] = defaultdict(list)
    for i, image in enumerate(images):
        x, grid = processed(served(image, size.max_side), size.pixels)
        by_grid[grid].append((i, x))
    return [
        Prepared(torch.cat([x for _, x in rows]), grid, np.array([i for i, _ in rows]))
        for grid, rows in by_grid.items()
    ]


def answer_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids of the yes tokens and of the no tokens."""
    yes, no = (
        [i for word in words if (i := tokenizer.token_to_id(word.replace(" ", "Ġ"))) is not None] for words in (YES, NO)
    )
    return yes, no


def _filled(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids filled up behind to one length [B, L], and the index of each row's last own token [B]."""
    length = max(map(len, rows))
    filled = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
    return filled, torch.tensor([len(row) - 1 for row in rows], device=device)


def _next(logits: Tensor, last: Tensor) -> Tensor:
    """Probabilities float32 [B, vocabulary] of the token behind each row, from logits [B, L, vocabulary]."""
    return logits[torch.arange(len(last), device=last.device), last].float().softmax(-1)


@torch.no_grad()
def judge(
    network: TinyVLM,
    tokenizer: Tokenizer,
    batches: list[Prepared],
    findings: Sequence[str] | None = None,
    step: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Raw answers and masses, float64 [N] each.

    `findings`: perception's text of each image, where it goes into the prompt.
    """
    yes, no = answer_ids(tokenizer)
    first = next(network.parameters())
    before = torch.tensor(tokenizer.encode(BEFORE, add_special_tokens=False).ids, device=first.device)
    n = sum(len(b.index) for b in batches)
    raw, mass = np.zeros(n), np.zeros(n)
    for batch in batches:
        for start in range(0, len(batch.index), step):
            index = batch.index[start : start + step]
            texts = [asked(SCORER_QUESTION, None if findings is None else findings[i]) for i in index]
            ids = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
            after, last = _filled(ids, first.device)
            x = batch.patches[start : start + step].to(first.device, first.dtype)
            p = _next(network(x, batch.grid, before, after)[0], last)
            m, k = p[:, yes].sum(-1), p[:, no].sum(-1)
            raw[index], mass[index] = (m / (m + k)).double().cpu().numpy(), (m + k).double().cpu().numpy()
    return raw, mass


@torch.no_grad()
def reason(
    network: TinyVLM,
    tokenizer: Tokenizer,
    batches: list[Prepared],
    findings: Sequence[str] | None = None,
    step: int = 32,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Raw answers and masses at the boolean of the reasoner's JSON, float64 [N] each, and its texts up to there.

    Greedy and without a grammar. Where no boolean is reached within 64 tokens, the raw answer is NaN and the mass 0.
    """
    first = next(network.parameters())
    before = torch.tensor(tokenizer.encode(BEFORE, add_special_tokens=False).ids, device=first.device)
    yes, no = (tokenizer.token_to_id(t) for t in ("Ġtrue", "Ġfalse"))
    n = sum(len(b.index) for b in batches)
    raw, mass, texts = np.full(n, np.nan), np.zeros(n), [""] * n
    for batch in batches:
        for start in range(0, len(batch.index), step):
            index = batch.index[start : start + step]
            asks = [asked(REASONER_QUESTION, None if findings is None else findings[i]) for i in index]
            ids = [e.ids for e in tokenizer.encode_batch(asks, add_special_tokens=False)]
            x = batch.patches[start : start + step].to(first.device, first.dtype)
            tokens, deep, _ = network.model.visual(x, batch.grid)
            waiting = list(range(len(index)))
            said: list[list[int]] = [[] for _ in index]
            for _ in range(MOST_TOKENS):
                after, last = _filled([ids[j] + said[j] for j in waiting], first.device)
                logits = network.read(tokens[waiting], [d[waiting] for d in deep], batch.grid, before, after)
                p = _next(logits, last)
                going = []
                for k, j in enumerate(waiting):
                    i = int(index[j])
                    texts[i] = tokenizer.decode(said[j])
                    if texts[i].endswith(FIELD):
                        m, w = float(p[k, yes]), float(p[k, no])
                        raw[i], mass[i] = m / (m + w), m + w
                    else:
                        said[j].append(int(p[k].argmax()))
                        going.append(j)
                waiting = going
                if not waiting:
                    break
    return raw, mass, texts

"""Calibration and pooling of members' answers, as NumPy functions over single images and over tables alike.

Tables have shape [..., M]: M members last. NaN means "no answer" everywhere and never enters a sum.

The pool is the normalised logarithmic opinion pool (C. Genest and J. V. Zidek, "Combining Probability Distributions: A
Critique and an Annotated Bibliography", Statistical Science 1(1), 1986) of probabilities calibrated one member at a
time (J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999, on the logit as in C. Guo et al., "On
Calibration of Modern Neural Networks", ICML 2017), itself calibrated once more by `alpha` and `beta` because members
that look at the same pixels are not independent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

EPS = 1e-4
"""Scores are kept in [EPS, 1 - EPS]: no single member can say more than 9.2 nats, so none can veto."""

NOTHING_BELOW = 0.01
"""A raw answer of a boxes or text member under this is "saw nothing"."""

NEUTRAL = 0.5
"""The probability where nobody has spoken."""

Floats = NDArray[np.float64]


def sigmoid(x: ArrayLike) -> Floats:
    """1 / (1 + exp(-x)), without overflow for any finite or infinite x."""
    values = np.asarray(x, dtype=np.float64)
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


def logit(p: ArrayLike) -> Floats:
    """log(p / (1 - p)) of p clipped to [EPS, 1 - EPS]; NaN stays NaN."""
    values = np.clip(np.asarray(p, dtype=np.float64), EPS, 1.0 - EPS)
    return np.log(values) - np.log1p(-values)


def calibrate(s: ArrayLike, a: ArrayLike, b: ArrayLike) -> Floats:
    """Platt scaling on the logit: sigmoid(a * logit(s) + b). NaN stays NaN; a = 1, b = 0 changes nothing but the clip.

    `s` is any shape of scores in [0, 1]; `a` and `b` broadcast against it.
    """
    return sigmoid(np.asarray(a, dtype=np.float64) * logit(s) + np.asarray(b, dtype=np.float64))


def member_probability(s: ArrayLike, kind: str, a: float, b: float, nothing: float | None) -> Floats:
    """Calibrated probability of one member for raw answers `s` of any shape.

    A `boxes` or `text` member that saw nothing (s < 0.01) says the constant `nothing`; NaN where that is None, so that
    it does not enter the pool. A `scene`, `scorer` or `reasoner` member always goes through `calibrate`.
    """
    raw = np.asarray(s, dtype=np.float64)
    spoken = calibrate(raw, a, b)
    if kind not in ("boxes", "text"):
        return spoken
    return np.where(raw < NOTHING_BELOW, np.nan if nothing is None else nothing, spoken)


def pool(probabilities: ArrayLike, weights: ArrayLike, alpha: float = 1.0, beta: float = 0.0) -> Floats:
    """P = sigmoid(alpha * S + beta) with S = sum(w logit p) / sum(w) over the members that answered.

    Parameters: `probabilities` [..., M] in [0, 1], NaN for a member that did not answer; `weights` [M] or [..., M],
    positive. Returns [...] in (0, 1), never NaN: `NEUTRAL` where no member answered at all.

    With beta = 0 it is symmetric: pool(1 - p) = 1 - pool(p). No member can turn it into 0 or 1 by itself.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    w = _weights(weights, p.shape)
    spoke = ~np.isnan(p)
    used = np.where(spoke, w, 0.0)
    total = used.sum(axis=-1)
    nobody = total <= 0.0
    mean = (used * np.where(spoke, logit(np.where(spoke, p, NEUTRAL)), 0.0)).sum(axis=-1) / np.where(nobody, 1.0, total)
    return np.where(nobody, NEUTRAL, sigmoid(alpha * mean + beta))


def quorum(answered: ArrayLike, weights: ArrayLike) -> Floats:
    """Share of the asked members' weight that answered: [..., M] booleans and [M] weights to [...] in [0, 1].

    Give only the members that were asked. A member that answered without entering the pool counts. 1 where M is 0.
    """
    spoke = np.asarray(answered, dtype=bool)
    w = _weights(weights, spoke.shape)
    total = w.sum(axis=-1)
    return np.where(total > 0, np.where(spoke, w, 0.0).sum(axis=-1) / np.where(total > 0, total, 1.0), 1.0)


def votes(probabilities: ArrayLike) -> tuple[Floats, Floats]:
    """Shares, by count, of the members that say yes (p > 0.5) and that say no (p < 0.5): [..., M] to two of [...].

    NaN has no vote; exactly 0.5 votes for neither side. Without any voter both are 1: nobody disagrees.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    voters = (~np.isnan(p)).sum(axis=-1)
    counted = np.where(voters > 0, voters, 1)
    with np.errstate(invalid="ignore"):
        yes, no = (p > 0.5).sum(axis=-1) / counted, (p < 0.5).sum(axis=-1) / counted
    return np.where(voters > 0, yes, 1.0), np.where(voters > 0, no, 1.0)


def agrees(share: ArrayLike, least: float) -> NDArray[np.bool_]:
    """Whether a share of votes reaches `least`, to three decimals: two of three members do reach 0.667."""
    return np.round(np.asarray(share, dtype=np.float64), 3) >= round(least, 3)


def _weights(weights: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """Weights in `shape`, in units of the largest, so that no finite weights overflow their sum."""
    w = np.asarray(weights, dtype=np.float64)
    return np.broadcast_to(w / w.max(initial=np.finfo(np.float64).tiny), shape)

"""What a miner of NATIX StreetVision would have been paid for these decisions: the validators' own formula, replayed.

Read from https://github.com/natixnetwork/streetvision-subnet at commit 28a1755c6ec9432d15d5417df2f2232ae792abdf
(`natix/validator/reward.py`, `miner_performance_tracker.py`, `forward.py`, `config.py`), written anew here:

* A challenge's label is drawn first, roadwork or not with equal chance, then an image of that label.
* Only the rounded answer counts, and 0.5 rounds to 0. The miner's adapter maps the policy's threshold to 0.5, so what
  is rounded is the cascade's decision.
* After each answer: M is the MCC of the last 100 answers, 0 where it is negative and 0 while labels or answers are all
  the same; A is the share of right ones among the last 10; fewer while there are fewer.
* The reward of that challenge is (M / 2 + A / 2) ** 3.
* An answer outside [0, 1] earns 0, and one that did not come is no answer of either window; ours are all valid.

It is replayed on photographs as they are: the validators also show made-up and changed ones (`robustness` has those).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LONG, SHORT = 100, 10
EXPONENT = 3.0
REPLAYS, CHALLENGES = 200, 600


def challenge_rewards(labels: ArrayLike, decisions: ArrayLike) -> NDArray[np.float64]:
    """Reward after each challenge.

    Args:
        labels, decisions: [replays, challenges] of 0 and 1, in the order in which they were asked.

    Returns:
        [replays, challenges] in [0, 1].
    """
    truth, said = np.asarray(labels, bool), np.asarray(decisions, bool)
    tp, fp = _last(truth & said, LONG), _last(~truth & said, LONG)
    tn, fn = _last(~truth & ~said, LONG), _last(truth & ~said, LONG)
    spread = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)  # 0 where labels or answers are all the same
    with np.errstate(divide="ignore", invalid="ignore"):
        mcc = np.where(spread > 0, (tp * tn - fp * fn) / np.sqrt(spread), 0.0)
    asked = np.minimum(np.arange(1, truth.shape[1] + 1), SHORT)
    accuracy = _last(truth == said, SHORT) / asked
    return (0.5 * np.maximum(mcc, 0.0) + 0.5 * accuracy) ** EXPONENT


def _last(events: NDArray[np.bool_], window: int) -> NDArray[np.float64]:
    """How many of the last `window` entries of each row are true, at each entry."""
    total = np.cumsum(events, axis=1, dtype=float)
    before = np.zeros_like(total)
    before[:, window:] = total[:, :-window]
    return total - before


def replay_reward(
    labels: ArrayLike,
    decisions: ArrayLike,
    groups: Sequence[str],
    replays: int = REPLAYS,
    challenges: int = CHALLENGES,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Mean reward once the long window is full, of replays that each draw their challenges anew.

    `by_drive_95` comes from replays that also draw the drives anew (those with roadwork and those without apart), as
    the sample's drives are few; those that lack a class are dropped. A faultless miner earns 1 a challenge. None where
    a class is absent: no challenge of it can be drawn.
    """
    truth, said = np.asarray(labels, bool), np.asarray(decisions, bool)
    if truth.all() or not truth.any():
        return None
    rng = np.random.default_rng(seed)
    everything = np.arange(len(truth))
    drawn = np.stack([_draw(truth, everything, challenges, rng) for _ in range(replays)])
    rewards = challenge_rewards(truth[drawn], said[drawn])[:, LONG:].mean(axis=1)
    by_drive = _by_drive(truth, said, np.asarray(groups), replays, challenges, rng)
    return {
        "formula": "(0.5 * MCC of the last 100 + 0.5 * accuracy of the last 10) ** 3, labels drawn evenly",
        "mean": round(float(rewards.mean()), 4),
        "replays_95": [round(float(v), 4) for v in np.quantile(rewards, [0.025, 0.975])],
        "by_drive_95": by_drive,
        "replays": replays,
        "challenges": challenges,
    }


def _draw(truth: NDArray[np.bool_], among: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray:
    """`count` images of `among`: a label with equal chance, then an image of it."""
    wanted = rng.random(count) < 0.5
    picked = np.empty(count, int)
    for label in (False, True):
        pool = among[truth[among] == label]
        picked[wanted == label] = rng.choice(pool, int((wanted == label).sum()))
    return picked


def _by_drive(
    truth: NDArray[np.bool_],
    said: NDArray[np.bool_],
    groups: NDArray,
    replays: int,
    challenges: int,
    rng: np.random.Generator,
) -> list[float] | None:
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    if len(members) < 2:
        return None
    with_roadwork = np.array([truth[index].any() for index in members])
    strata = [part for part in (np.flatnonzero(with_roadwork), np.flatnonzero(~with_roadwork)) if len(part)]
    drawn = []
    for _ in range(replays):
        drives = np.concatenate([rng.choice(part, len(part)) for part in strata])
        among = np.concatenate([members[k] for k in drives])
        if 0 < truth[among].sum() < len(among):
            drawn.append(_draw(truth, among, challenges, rng))
    if len(drawn) < replays / 10:
        return None
    index = np.stack(drawn)
    rewards = challenge_rewards(truth[index], said[index])[:, LONG:].mean(axis=1)
    return [round(float(v), 4) for v in np.quantile(rewards, [0.025, 0.975])]

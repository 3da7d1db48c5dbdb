from __future__ import annotations

import numpy as np
import pytest
from roadwork_bench.reward import challenge_rewards, replay_reward
from sklearn.metrics import accuracy_score, matthews_corrcoef


def one_by_one(labels: list[int], answers: list[int]) -> list[float]:
    """The formula as its text has it, one challenge after the other."""
    rewards = []
    for end in range(1, len(labels) + 1):
        long, short = slice(max(0, end - 100), end), slice(max(0, end - 10), end)
        both = len(set(labels[long])) == 2 and len(set(answers[long])) == 2
        mcc = max(0.0, matthews_corrcoef(labels[long], answers[long])) if both else 0.0
        rewards.append((0.5 * mcc + 0.5 * accuracy_score(labels[short], answers[short])) ** 3)
    return rewards


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.6])
def test_rewards_are_those_of_the_formula_step_by_step(wrong: float) -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 150)
    answers = np.where(rng.random(150) < wrong, 1 - labels, labels)
    found = challenge_rewards(labels[np.newaxis], answers[np.newaxis])
    assert found.shape == (1, 150)
    assert found[0] == pytest.approx(one_by_one(labels.tolist(), answers.tolist()))


def test_always_the_same_answer_earns_an_eighth_at_most() -> None:
    labels = np.array([[0, 1] * 75])
    found = challenge_rewards(labels, np.ones_like(labels))[0]
    assert found[-1] == pytest.approx((0.5 * 0.5) ** 3)
    assert found.max() <= 0.125


def test_a_faultless_miner_earns_everything_and_a_guesser_little() -> None:
    labels = np.array([0] * 60 + [1] * 20)
    groups = [f"drive{k // 10}" for k in range(80)]
    faultless = replay_reward(labels, labels, groups, replays=20)
    assert faultless is not None
    assert (faultless["mean"], faultless["replays_95"], faultless["by_drive_95"]) == (1.0, [1.0, 1.0], [1.0, 1.0])
    guessed = replay_reward(labels, np.arange(80) % 2, groups, replays=20)
    assert guessed is not None
    assert guessed["mean"] < 0.15


def test_drives_that_differ_widen_the_interval() -> None:
    labels = np.repeat([0, 1] * 4, 10)
    groups = [f"drive{k // 10}" for k in range(80)]
    answers = labels.copy()
    answers[10:20] = 0  # one whole drive is missed
    found = replay_reward(labels, answers, groups, replays=60)
    assert found is not None
    by_chance, by_drive = found["replays_95"], found["by_drive_95"]
    assert by_drive[1] - by_drive[0] > by_chance[1] - by_chance[0]


def test_one_class_has_no_reward() -> None:
    assert replay_reward([1, 1], [1, 0], ["a", "b"]) is None

"""Logistic calibration with a prior, for data of a few dozen drives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

SLOPE_SPREAD = 0.7
"""Prior: log a ~ Normal(0, 0.7), so a lies within a factor of 4 of 1 with 95% and is never negative."""
SHIFT_SPREAD = 1.5
"""Prior: b ~ Normal(0, 1.5), in logits."""


def fit_slope_and_shift(x: NDArray, labels: NDArray, weights: NDArray) -> tuple[float, float]:
    """a > 0 and b that maximise the posterior of labels ~ Bernoulli(sigmoid(a x + b)), x in logits.

    Platt scaling with a prior toward the identity: with no data a = 1 and b = 0, with separable data a stays finite.
    The weights count as observations.
    """

    def loss(parameters: NDArray) -> tuple[float, NDArray]:
        log_slope, shift = parameters
        slope = np.exp(log_slope)
        z = slope * x + shift
        likelihood = weights @ (np.logaddexp(0, z) - labels * z)
        residual = weights * (expit(z) - labels)
        value = likelihood + 0.5 * (log_slope / SLOPE_SPREAD) ** 2 + 0.5 * (shift / SHIFT_SPREAD) ** 2
        slope_gradient = slope * (residual @ x) + log_slope / SLOPE_SPREAD**2
        return float(value), np.array([slope_gradient, residual.sum() + shift / SHIFT_SPREAD**2])

    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-4, 4), (-12, 12)])
    return float(np.exp(found.x[0])), float(found.x[1])


def fit_constant(labels: NDArray, weights: NDArray) -> float:
    """Probability where a member saw nothing: the weighted share of roadwork under Jeffreys' Beta(1/2, 1/2) prior."""
    return float((weights @ labels + 0.5) / (weights.sum() + 1))

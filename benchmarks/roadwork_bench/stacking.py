"""What a learned combination would give instead of the pool: logistic regression over all raw answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade import pool
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from roadwork_bench.fitting import best_threshold
from roadwork_bench.sample import Sample, balanced_weights, grouped_folds
from roadwork_bench.settings import Settings


def features(sample: Sample) -> NDArray[np.float64]:
    """[n, 3 * members]: logit of the answer (0 where there is none), "missing" and "saw nothing" of each member."""
    missing = np.isnan(sample.scores)
    nothing = ~missing & (sample.scores < pool.NOTHING_BELOW)
    logits = np.where(missing | nothing, 0.0, pool.logit(np.where(missing, 0.5, sample.scores)))
    return np.column_stack([logits, missing, nothing]).astype(float)


def stack(sample: Sample, settings: Settings | None = None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Out-of-fold probabilities and decisions; the threshold comes from inner folds, as the pool's does."""
    settings = settings or Settings()
    probability, decision = np.full(len(sample), np.nan), np.zeros(len(sample), bool)
    for train, test in grouped_folds(sample.labels, sample.groups, settings.folds, settings.seed):
        inside = sample.take(train)
        held_back = np.full(len(inside), np.nan)
        for inner_train, inner_test in grouped_folds(inside.labels, inside.groups, settings.folds, settings.seed):
            held_back[inner_test] = _fit_predict(inside.take(inner_train), inside.take(inner_test))
        weights = balanced_weights(inside.labels, inside.groups, inside.sources)
        probability[test] = _fit_predict(inside, sample.take(test))
        decision[test] = probability[test] >= best_threshold(inside.labels, held_back, weights)
    return probability, decision


def _fit_predict(train: Sample, test: Sample) -> NDArray[np.float64]:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    weights = balanced_weights(train.labels, train.groups, train.sources)
    model.fit(features(train), train.labels, logisticregression__sample_weight=weights)
    return model.predict_proba(features(test))[:, 1]

"""One policy for every statistical test: it fails by chance with probability at most ``FAILURE_RATE``.

Seeds are fixed besides, so a test that passes goes on passing until the stream of random numbers changes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

FAILURE_RATE = 1e-6
RARE = 10  # bins that expect fewer counts than this are pooled: the chi-square law is an approximation for large counts
Z = float(scipy.stats.norm.isf(FAILURE_RATE / 2))


def check_counts(counts: ArrayLike, probs: ArrayLike) -> None:
    """Chi-square: counts of outcomes against their probabilities.

    What is impossible must not occur at all; bins with few expected counts are pooled into one; the bins that are not
    pooled hold at least 90% of the mass.
    """
    counts, probs = np.asarray(counts, dtype=np.float64).ravel(), np.asarray(probs, dtype=np.float64).ravel()
    assert counts.shape == probs.shape
    assert abs(probs.sum() - 1) < 1e-6
    assert counts[probs == 0].sum() == 0, "an impossible outcome occurred"
    expected = probs / probs.sum() * counts.sum()
    common = expected >= RARE
    assert probs[common].sum() >= 0.9, "too few draws for so many outcomes: most would be pooled"
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    if expected[-1] == 0:
        observed, expected = observed[:-1], expected[:-1]
    elif expected[-1] < RARE:  # the pool itself is rare: its own exact test, and out of the sum
        check_frequency(int(observed[-1]), int(counts.sum()), expected[-1] / counts.sum())
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    if len(expected) > 1:
        assert scipy.stats.chisquare(observed, expected, sum_check=False).pvalue > FAILURE_RATE


def check_draws(indices: ArrayLike, probs: ArrayLike) -> None:
    """Chi-square of draws of the outcomes 0, 1, ..., n - 1."""
    indices, probs = np.asarray(indices).ravel(), np.asarray(probs)
    assert indices.min() >= 0
    assert indices.max() < len(probs)
    check_counts(np.bincount(indices, minlength=len(probs)), probs)


def check_independent(a: ArrayLike, b: ArrayLike, probs_a: ArrayLike, probs_b: ArrayLike) -> None:
    """Chi-square of the pairs (a, b) of outcomes against the product of their laws."""
    a, b, probs_a, probs_b = (np.asarray(v) for v in (a, b, probs_a, probs_b))
    assert a.min() >= 0
    assert a.max() < len(probs_a)
    assert b.min() >= 0
    assert b.max() < len(probs_b)
    pairs = np.bincount((a * len(probs_b) + b).ravel(), minlength=len(probs_a) * len(probs_b))
    check_counts(pairs, np.outer(probs_a, probs_b))


def check_cdf(samples: ArrayLike, cdf: Callable[[np.ndarray], np.ndarray]) -> None:
    """Kolmogorov-Smirnov: samples of a continuous law against its distribution function."""
    samples = np.asarray(samples, dtype=np.float64).ravel()
    assert not np.isnan(samples).any()
    assert scipy.stats.kstest(samples, cdf).pvalue > FAILURE_RATE


def check_frequency(successes: int, trials: int, p: float) -> None:
    """The exact binomial law of a count, both sides."""
    assert scipy.stats.binomtest(int(successes), int(trials), p).pvalue > FAILURE_RATE


def check_mean(samples: ArrayLike, mean: float, variance: float) -> None:
    """The z bound of a mean whose law has a known variance."""
    samples = np.asarray(samples, dtype=np.float64).ravel()
    assert abs(samples.mean() - mean) < Z * np.sqrt(variance / samples.size)


def quantile_bins(samples: ArrayLike, cdf: Callable[[np.ndarray], np.ndarray], bins: int) -> np.ndarray:
    """Which of so many equally likely bins each sample lies in."""
    return np.minimum((cdf(np.asarray(samples, dtype=np.float64)) * bins).astype(np.int64), bins - 1)

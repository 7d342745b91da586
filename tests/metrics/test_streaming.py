"""`audit_stream` against `audit` of the whole sample, and against definitions."""

import numpy as np
import pytest

from fairjax import metrics
from fairjax.metrics import streaming as _audit_stream


def audited(rng, n=5000):
    groups = rng.integers(3, size=n)
    scores = rng.normal(size=n).astype(np.float32) + groups.astype(np.float32) / 4
    labels = (scores + rng.normal(size=n) > 0).astype(int)
    return scores, labels, groups, rng.integers(3, size=n)


def in_chunks(*arrays, size=1000):
    return [
        tuple(a[start : start + size] for a in arrays)
        for start in range(0, len(arrays[0]), size)
    ]


def test_a_streamed_audit_has_the_counts_and_rates_of_the_sample(rng):
    scores, labels, groups, weights = audited(rng)
    found = metrics.audit_stream(in_chunks(scores, labels, groups, weights), n_groups=4)
    whole = metrics.audit(scores, labels, groups, n_groups=4, weights=weights)
    np.testing.assert_array_equal(found.counts, whole.counts)
    exact = np.zeros((2, 4))
    for y in range(2):
        for g in range(3):
            own = (labels == y) & (groups == g)
            exact[y, g] = weights[own] @ (scores[own] > 0) / weights[own].sum()
    np.testing.assert_allclose(found.rates, exact, rtol=3e-7)
    for name in metrics.Audit._fields[:6] + ("selection_rates", "rates"):
        a, b = getattr(found, name), getattr(whole, name)
        np.testing.assert_allclose(a, b, rtol=5e-6, err_msg=name)
    assert 0 <= whole.ks - found.ks <= 0.01
    np.testing.assert_allclose(found.wasserstein, whole.wasserstein, rtol=1e-3)


def test_scores_of_few_values_are_audited_exactly(rng):
    scores, labels, groups, _ = audited(rng)
    scores = np.round(scores, 1)
    found = metrics.audit_stream(
        in_chunks(scores, labels, groups), n_groups=3, edges=np.unique(scores)
    )
    whole = metrics.audit(scores, labels, groups, n_groups=3)
    np.testing.assert_allclose(found.ks, whole.ks, rtol=1e-5)
    np.testing.assert_allclose(found.wasserstein, whole.wasserstein, rtol=1e-4)


def test_a_histogram_that_is_too_coarse_is_refused(rng):
    scores, labels, groups, _ = audited(rng)
    order = np.argsort(scores)
    chunks = in_chunks(scores[order], labels[order], groups[order])
    with pytest.raises(ValueError, match="too coarse.*rank_error"):
        metrics.audit_stream(chunks, n_groups=3)
    edges = np.linspace(-4, 5, 2000)
    found = metrics.audit_stream(chunks, n_groups=3, edges=edges)
    whole = metrics.audit(scores, labels, groups, n_groups=3)
    assert 0 <= whole.ks - found.ks <= 0.01


def test_errors_of_audits_say_which_chunk(rng, untyped):
    scores, labels, groups, _ = audited(rng, n=20)
    good = (scores, labels, groups)
    for message, chunks in {
        "is empty": [],
        "all weights are zero": [(*good, np.zeros(20))],
        "chunk 1 has 2 parts": [good, good[:2]],
        r"chunk 1: scores\[0\] = nan": [good, (scores * np.nan, labels, groups)],
        r"chunk 0: labels\[": [(scores, labels + 5, groups)],
        r"chunk 0: groups\[": [(scores, labels, groups + 9)],
        "chunk 0: weights": [(*good, np.full(20, -1.0))],
        "chunk 0: scores": [(scores[:3], labels, groups)],
        r"chunk 1: scores.* has shape \(20, 1\)": [
            good,
            (scores[:, None], labels, groups),
        ],
    }.items():
        with pytest.raises(ValueError, match=message):
            metrics.audit_stream(chunks, n_groups=3, rank_error=1.0)
    with pytest.raises(ValueError, match="`threshold` must be finite"):
        metrics.audit_stream([good], n_groups=3, threshold=np.nan)


def test_an_audit_loses_no_row_next_to_millions():
    # Single precision adds nothing to 2^24 when it adds 1, again and again.
    scores = np.append(np.zeros(2**12 + 1), 1.0)
    weights = np.concatenate([[2.0**24], np.ones(2**12), [2.0**22]])
    rows = scores, np.arange(scores.size) % 2, np.zeros(scores.size, int), weights
    other = (
        np.array([0.0, 1.0]),
        np.array([0, 1]),
        np.ones(2, int),
        np.array([4097, 1024]),
    )
    chunk = tuple(np.concatenate(pair) for pair in zip(rows, other, strict=True))
    for chunks in ([chunk], in_chunks(*chunk, size=2**11)):
        found = metrics.audit_stream(
            chunks, n_groups=2, edges=np.array([0.5]), rank_error=1.0
        )
        assert found.ks < 1e-7
        assert found.wasserstein < 1e-7
        assert found.counts.tolist() == [[2**11 + 1, 1], [2**11 + 1, 1]]


def test_sums_of_weights_may_be_larger_than_float32(rng):
    scores, labels, groups, _ = audited(rng)
    edges = np.linspace(-4, 5, 2000)
    found, whole = (
        metrics.audit_stream(
            in_chunks(scores, labels, groups, w), n_groups=3, edges=edges
        )
        for w in (np.full(5000, 2.0**125), np.ones(5000))
    )
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_array_equal(a, b)


def test_counts_beyond_32_bits_do_not_wrap():
    counts = np.array([[2**31, 1], [3, 2**40]])
    found = _audit_stream._integers(counts)
    np.testing.assert_array_equal(found, counts)
    assert _audit_stream._integers(counts // 2).dtype == np.int64
    assert _audit_stream._integers(counts // 2**10).dtype == np.int32


@pytest.mark.usefixtures("x64")
def test_scores_of_double_precision_are_decided_in_it():
    # In single precision, these are one score.
    scores, labels = 1 + np.array([0, 0, 0, 1]) * 1e-9, np.array([1, 1, 0, 1])
    chunks = [(scores, labels, np.array([0, 1, 0, 1]))]
    found = metrics.audit_stream(chunks, n_groups=2, threshold=1.0)
    assert found.rates.tolist() == [[0, 0], [0, 0.5]]
    assert (found.ks, found.counts.dtype) == (0.5, np.int64)
    np.testing.assert_allclose(found.wasserstein, 5e-10, rtol=1e-6)

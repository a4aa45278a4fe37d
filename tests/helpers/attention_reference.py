"""Attention one document, one head and one token at a time, in float64: what every kernel must give."""

import itertools

import numpy as np

Gradients = tuple[np.ndarray, np.ndarray, np.ndarray]


def runs_of(segments_T: np.ndarray) -> list[slice]:
    """Documents of a row, its padding as one of them."""
    cuts = np.flatnonzero(np.diff(segments_T)) + 1
    bounds = [0, *cuts.tolist(), len(segments_T)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def reference(q_BTNH, k_BTKH, v_BTKH, segments_BT, d_out_BTNH) -> tuple[np.ndarray, Gradients]:
    """(out, (dq, dk, dv)); queries are scaled already."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q_BTNH, k_BTKH, v_BTKH, d_out_BTNH))
    out, dq, dk, dv = np.zeros_like(q), np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    groups = q.shape[2] // k.shape[2]
    for b, row in enumerate(np.asarray(segments_BT)):
        for run in runs_of(row):
            for n in range(q.shape[2]):
                K = n // groups
                one = document(q[b, run, n], k[b, run, K], v[b, run, K], d_out[b, run, n])
                out[b, run, n], dq[b, run, n] = one[0], one[1]
                dk[b, run, K] += one[2]
                dv[b, run, K] += one[3]
    return out, (dq, dk, dv)


def document(q_TH, k_TH, v_TH, d_out_TH) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """out, dq, dk, dv of one head within one document: softmax of the causal scores, and its derivative."""
    scores_TS = np.where(np.tri(len(q_TH), dtype=bool), q_TH @ k_TH.T, -np.inf)
    probs_TS = np.exp(scores_TS - scores_TS.max(1, keepdims=True))
    probs_TS /= probs_TS.sum(1, keepdims=True)
    d_probs_TS = d_out_TH @ v_TH.T
    d_scores_TS = probs_TS * (d_probs_TS - (d_probs_TS * probs_TS).sum(1, keepdims=True))
    return probs_TS @ v_TH, d_scores_TS @ k_TH, d_scores_TS.T @ q_TH, probs_TS.T @ d_out_TH

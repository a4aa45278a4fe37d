"""Reference results for the kernels of a step, computed in float64 with NumPy.

Attention is computed one document and one head at a time. Shape suffixes: B batch, T query position, S key position,
N query heads, K key/value heads, H head width, C tokens, D model width, V vocabulary, F columns.
"""

import itertools
from typing import Any

import numpy as np

from asclepius_jax.model.attention import PLAIN_SCORES, Scores
from asclepius_jax.model.output_loss import Logits

Array = Any
Gradients = tuple[np.ndarray, np.ndarray, np.ndarray]


def runs_of(segments_T: np.ndarray) -> list[slice]:
    """Documents of a row, its padding as one of them."""
    cuts = np.flatnonzero(np.diff(segments_T)) + 1
    bounds = [0, *cuts.tolist(), len(segments_T)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def reference(
    q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, segments_BT: Array, d_out_BTNH: Array, scores: Scores = PLAIN_SCORES
) -> tuple[np.ndarray, Gradients]:
    """(out, (dq, dk, dv)) of attention; queries are scaled already."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q_BTNH, k_BTKH, v_BTKH, d_out_BTNH))
    out, dq, dk, dv = np.zeros_like(q), np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    groups = q.shape[2] // k.shape[2]
    for b, row in enumerate(np.asarray(segments_BT)):
        for run in runs_of(row):
            for n in range(q.shape[2]):
                K = n // groups
                one = document(q[b, run, n], k[b, run, K], v[b, run, K], d_out[b, run, n], scores)
                out[b, run, n], dq[b, run, n] = one[0], one[1]
                dk[b, run, K] += one[2]
                dv[b, run, K] += one[3]
    return out, (dq, dk, dv)


def document(
    q_TH: Array, k_TH: Array, v_TH: Array, d_out_TH: Array, scores: Scores
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """out, dq, dk, dv of one head within one document: softmax of the causal scores, and its derivative."""
    T = len(q_TH)
    seen_TS = np.tri(T, dtype=bool)
    if scores.window is not None:
        seen_TS &= ~np.tri(T, k=-scores.window, dtype=bool)
    capped_TS, slope_TS = capped(q_TH @ k_TH.T, scores.cap)
    scores_TS = np.where(seen_TS, capped_TS, -np.inf)
    probs_TS = np.exp(scores_TS - scores_TS.max(1, keepdims=True))
    probs_TS /= probs_TS.sum(1, keepdims=True)
    d_probs_TS = d_out_TH @ v_TH.T
    d_scores_TS = probs_TS * (d_probs_TS - (d_probs_TS * probs_TS).sum(1, keepdims=True)) * slope_TS
    return probs_TS @ v_TH, d_scores_TS @ k_TH, d_scores_TS.T @ q_TH, probs_TS.T @ d_out_TH


def capped(x: np.ndarray, cap: float | None) -> tuple[np.ndarray, np.ndarray | float]:
    """cap * tanh(x / cap) and its derivative."""
    if cap is None:
        return x, 1.0
    tanh = np.tanh(x / cap)
    return cap * tanh, 1 - tanh**2


def loss_reference(
    x_CD: Array, head_DV: Array, targets_C: Array, weights_C: Array, logits: Logits
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(loss, dx, d_head) of the weighted cross entropy of the logits, in nats; padded columns get no gradient."""
    x_CD, head_DV, weights_C = (np.asarray(x, np.float64) for x in (x_CD, head_DV, weights_C))
    padding, head_DV = head_DV[:, logits.vocab_size or head_DV.shape[1] :], head_DV[:, : logits.vocab_size]
    logits_CV, slope_CV = capped(x_CD @ head_DV, logits.cap)
    logits_CV -= logits_CV.max(1, keepdims=True)
    sums_C = np.exp(logits_CV).sum(1)
    tokens = np.arange(len(targets_C))
    loss = ((np.log(sums_C) - logits_CV[tokens, targets_C]) * weights_C).sum()
    d_logits_CV = np.exp(logits_CV) / sums_C[:, None]
    d_logits_CV[tokens, targets_C] -= 1
    d_logits_CV *= weights_C[:, None] * slope_CV
    d_head_DV = np.concatenate([x_CD.T @ d_logits_CV, np.zeros_like(padding)], axis=1)
    return loss[None], d_logits_CV @ head_DV.T, d_head_DV


def product_reference(x_CD: Array, weight_DF: Array, d_out_CF: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(out, dx, d_weight) of a product."""
    x_CD, weight_DF, d_out_CF = (np.asarray(x, np.float64) for x in (x_CD, weight_DF, d_out_CF))
    return x_CD @ weight_DF, d_out_CF @ weight_DF.T, x_CD.T @ d_out_CF

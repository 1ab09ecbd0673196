"""Whether pretraining is healthy: how well partners find each other, and how evenly embeddings are spread. No labels.

Shapes: V = 2B views (row i and row i + B show the same image), N images, P numbers of a projection z.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import pdist
from torch import Tensor

from stages.io.tensors import Rows
from stages.simclr.loss import partners, without_self

COLLAPSED = -4e-4  # uniformity: a mean cosine of 0.9999 between different images; an untrained encoder may have 0.98
FAINT = 8  # mean deviation of an image's pixels, of 255; photographs have about 50


def contrastive_metrics(similarities: Tensor) -> dict[str, Tensor]:
    """How well partners find each other among the V - 1 candidates; scalars, averaged over the V rows.

    top1, top5: fraction of rows whose partner is the most similar, or among the five most similar;
    position: mean rank of the partner, 1 at best; positive, negative: mean cosine of partners and of others.
    A tie or a NaN counts against the partner, so that collapsed embeddings (all equal) score 0 and not 1.
    """
    views = len(similarities)
    rows = torch.arange(views, device=similarities.device)
    positive = similarities[rows, partners(views, similarities.device)]
    rank = (~(without_self(similarities) < positive[:, None])).sum(1).float()
    negatives = similarities.sum() - similarities.diagonal().sum() - positive.sum()
    return {
        "top1": (rank <= 1).float().mean(),
        "top5": (rank <= 5).float().mean(),
        "position": rank.mean(),
        "positive": positive.mean(),
        "negative": negatives / (views * (views - 2)),
    }


def embedding_health(first: Tensor, second: Tensor) -> dict[str, float]:
    """Whether embeddings are close where they should be and spread out elsewhere; no labels needed.

    first, second: (N, P), one view of each image and the other. alignment and uniformity are those of Wang and Isola
    (2020, section 4.1, their default exponents 2 and t = 2): the mean squared distance of partners on the unit sphere,
    0 at best, and the logarithm of the mean Gaussian potential of different images, 0 if all are equal and lower the
    more evenly they are spread. rank is RankMe (Garrido et al. 2023, equation 1): the exponential of the entropy
    of the singular values, from 1 (collapsed to a line) to min(N, P). NaN where an embedding is.

    In float64: on a GPU by PyTorch, else by NumPy, whose bytes do not depend on the processor (stages/README.md).
    """
    if first.is_cuda:
        return _health(torch, lambda x: torch.pdist(x).square(), first, second)
    return _health(np, lambda x: pdist(x, "sqeuclidean"), first.numpy(), second.numpy())


def _health(lib: Any, squared_distances: Callable[[Any], Any], first: Any, second: Any) -> dict[str, float]:
    """By NumPy or torch, which have these functions in common."""
    first, second = (lib.asarray(z, dtype=lib.float64) for z in (first, second))
    norms = (lib.linalg.vector_norm(z, axis=1, keepdims=True) for z in (first, second))
    x, y = (z / lib.clip(norm, 1e-12, None) for z, norm in zip((first, second), norms, strict=True))

    def uniformity(z: Any) -> float:
        return float(lib.log(lib.exp(-2 * squared_distances(z)).mean()))

    return {
        "alignment": float(lib.square(x - y).sum(1).mean()),
        "uniformity": (uniformity(x) + uniformity(y)) / 2,
        "rank": _effective_rank(lib, first),
    }


def _effective_rank(lib: Any, z: Any) -> float:
    if not lib.isfinite(z).all():
        return float("nan")
    singular = lib.linalg.svdvals(z)
    epsilon = float(np.finfo(np.float32).eps)  # what they were computed in
    fraction = singular / max(float(singular.sum()), epsilon) + epsilon
    return float(lib.exp(-(fraction * lib.log(fraction)).sum()))


def what_is_wrong(
    steps: list[dict[str, Tensor]], heldout: dict[str, float], images: Rows | Tensor, some: Tensor
) -> str | None:
    """The first step whose loss is not finite, or that the embeddings have collapsed to a point; None: nothing.

    images: (N, H, W, 3) uint8, which may be the cause; some: indices of those to look at.
    """
    losses = torch.stack([step["loss"] for step in steps]).tolist()
    for number, loss in enumerate([*losses, heldout["loss"]], 1):
        if not math.isfinite(loss):
            where = f"step {number}" if number <= len(steps) else f"after step {len(steps)}, on held-out images"
            return f"{where}: the loss is {loss}; a smaller lr or a higher temperature usually helps"
    if heldout["uniformity"] > COLLAPSED:
        contrast = float(images[some].float().std((1, 2, 3)).mean())
        advice = "a smaller lr or stronger augmentation usually helps"
        if contrast < FAINT:
            advice = f"and the images are faint: their pixels deviate by {contrast:.1f} of 255, so look at some of them"
        return f"step {len(steps)}: all embeddings are the same; {advice}"
    return None

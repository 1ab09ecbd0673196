"""Measures of pretraining that need no labels: contrastive accuracy, alignment, uniformity, effective rank.

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

# Uniformity at a mean cosine of 0.9999 between different images; an untrained encoder may have 0.98.
COLLAPSE_UNIFORMITY = -4e-4
LOW_CONTRAST = 8  # standard deviation of an image's pixels in 0..255; photographs have about 50


def contrastive_metrics(similarities: Tensor) -> dict[str, Tensor]:
    """Contrastive accuracy: the rank of the positive among the V - 1 candidates; scalars, averaged over the V rows.

    top1, top5: fraction of rows whose positive is the most similar candidate, or one of the five most similar;
    position: mean rank of the positive, 1 at best; positive, negative: mean cosine of positive and negative pairs.
    A tie or a NaN counts as an error, so that collapsed embeddings (all equal) score 0 and not 1.
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
    """Alignment, uniformity and effective rank of the embeddings first, second (N, P): one view of each image and the
    other. NaN if an embedding is not finite.

    alignment, uniformity: Wang and Isola (2020, section 4.1, their default exponents 2 and t = 2). Alignment is the
    mean squared distance of positive pairs on the unit sphere, 0 at best. Uniformity is the logarithm of the mean
    Gaussian potential of different images: 0 if all are equal, and lower if they are more evenly spread.
    rank: RankMe (Garrido et al. 2023, equation 1), the exponential of the entropy of the singular values, from 1
    (collapsed to a line) to min(N, P).

    In float64: on a GPU by PyTorch, otherwise by NumPy, whose bytes do not depend on the processor (stages/README.md).
    """
    if first.is_cuda:
        return _health(torch, lambda x: torch.pdist(x).square(), first, second)
    return _health(np, lambda x: pdist(x, "sqeuclidean"), first.numpy(), second.numpy())


def _health(lib: Any, squared_distances: Callable[[Any], Any], first: Any, second: Any) -> dict[str, float]:
    """lib: NumPy or torch, which have these functions in common."""
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
    epsilon = float(np.finfo(np.float32).eps)  # the embeddings were computed in float32
    fraction = singular / max(float(singular.sum()), epsilon) + epsilon
    return float(lib.exp(-(fraction * lib.log(fraction)).sum()))


def find_problem(
    steps: list[dict[str, Tensor]], heldout: dict[str, float], images: Rows | Tensor, examples: Tensor
) -> str | None:
    """A message about a loss that is not finite or about collapsed embeddings; None if there is no problem.

    images: (N, H, W, 3) uint8; examples: indices of images whose contrast is measured, as a possible cause.
    """
    losses = torch.stack([step["loss"] for step in steps]).tolist()
    for number, loss in enumerate([*losses, heldout["loss"]], 1):
        if not math.isfinite(loss):
            where = f"step {number}" if number <= len(steps) else f"after step {len(steps)}, on held-out images"
            return f"{where}: the loss is {loss}; a smaller lr or weight_decay or a higher temperature usually helps"
    if heldout["uniformity"] > COLLAPSE_UNIFORMITY:
        contrast = float(images[examples].float().std((1, 2, 3)).mean())
        advice = "a smaller lr or stronger augmentation usually helps"
        if contrast < LOW_CONTRAST:
            advice = f"check the images, which have a low contrast (standard deviation {contrast:.1f} of 255)"
        return f"step {len(steps)}: all embeddings are equal; {advice}"
    return None

"""The contrastive head and loss of SimCLR (Chen et al. 2020, section 2.1 and algorithm 1), and what tells its health.

Shapes: B images, V = 2B views (row i and row i + B show the same image), D features h, P projections z.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def projection_head(features: int, projection_dim: int) -> nn.Sequential:
    """g: h (V, D) -> z (V, P), with one hidden layer of 4P as in the source experiment (512 at P = 128)."""
    hidden = 4 * projection_dim
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, projection_dim))


def cosine_similarities(z: Tensor) -> Tensor:
    """(V, P) -> (V, V): cosine of every pair of rows, in float32 at least, whatever autocast made of z."""
    z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)
    return z @ z.T


def partners(views: int, device: torch.device) -> Tensor:
    """(V,): for each row, the row that shows the same image."""
    return torch.arange(views, device=device).roll(views // 2)


def without_self(similarities: Tensor) -> Tensor:
    """The same, with -inf on the diagonal: no row is a candidate for itself."""
    itself = torch.eye(len(similarities), dtype=torch.bool, device=similarities.device)
    return similarities.masked_fill(itself, float("-inf"))


def nt_xent(similarities: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross entropy, equation 1, averaged over all V rows.

    Each row must pick its partner among the V - 1 others.
    """
    logits = without_self(similarities) / temperature
    return F.cross_entropy(logits, partners(len(logits), logits.device))


def contrastive_metrics(similarities: Tensor) -> dict[str, Tensor]:
    """How well partners find each other among the V - 1 candidates; scalars, averaged over the V rows.

    top1, top5: share of rows whose partner is the most similar, or among the five most similar;
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


def embedding_health(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Whether embeddings are close where they should be and spread out elsewhere; no labels needed. Scalars.

    first, second: (N, P), one view of each image and the other. alignment and uniformity are those of Wang and Isola
    (2020, section 4.1, their default exponents 2 and t = 2): the mean squared distance of partners on the unit sphere,
    0 at best, and the logarithm of the mean Gaussian potential of different images, 0 if all are equal and lower the
    more evenly they are spread. rank is RankMe (Garrido et al. 2023, equation 1): the exponential of the entropy
    of the singular values, from 1 (collapsed to a line) to min(N, P). NaN where an embedding is.
    """
    x, y = (F.normalize(z.float(), dim=1) for z in (first, second))
    return {
        "alignment": (x - y).square().sum(1).mean(),
        "uniformity": (uniformity(x) + uniformity(y)) / 2,
        "rank": effective_rank(first.float()),
    }


def uniformity(x: Tensor) -> Tensor:
    """log of the mean of exp(-2 |x_i - x_j|^2) over the pairs of rows on the unit sphere: (N, P) -> scalar."""
    return F.pdist(x).square_().mul_(-2).exp_().mean().log()


def effective_rank(z: Tensor) -> Tensor:
    if not z.isfinite().all():
        return torch.tensor(float("nan"))
    singular = torch.linalg.svdvals(z)
    epsilon = torch.finfo(z.dtype).eps
    share = singular / singular.sum().clamp(min=epsilon) + epsilon
    return torch.exp(-(share * share.log()).sum())

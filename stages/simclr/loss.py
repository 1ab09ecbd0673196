"""The contrastive loss of SimCLR (Chen et al. 2020, section 2.1 and algorithm 1).

Shapes: B images, V = 2B views (row i and row i + B show the same image), P numbers of a projection z.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_similarities(z: Tensor) -> Tensor:
    """(V, P) -> (V, V): cosine of every pair of rows, at least in float32. Call it outside of autocast."""
    z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)
    return z @ z.T


def partners(views: int, device: torch.device) -> Tensor:
    """(V,): for each row, the index of its positive: the other view of the same image."""
    return torch.arange(views, device=device).roll(views // 2)


def without_self(similarities: Tensor) -> Tensor:
    """The similarities with -inf on the diagonal, so that no row is a candidate for itself."""
    itself = torch.eye(len(similarities), dtype=torch.bool, device=similarities.device)
    return similarities.masked_fill(itself, float("-inf"))


def nt_xent(similarities: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross entropy, equation 1, averaged over all V rows.

    Each row has one positive among V - 1 candidates.
    """
    logits = without_self(similarities) / temperature
    return F.cross_entropy(logits, partners(len(logits), logits.device))
